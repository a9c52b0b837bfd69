"""The frozen test on every family that can be executed, on modules that call attention twice, and on broken executors."""

import pytest
import torch
from generations import Tiny, generate, policy
from second_calls import mochi, perturbed
from tiny_pipelines import VARIANTS
from tiny_transformers import EXECUTABLE

from janoscope.errors import ExecutionError
from janoscope.execution import Executor
from janoscope.execution.attention_calls import AttentionCalls
from janoscope.execution.caching.branch_cache import BranchCache
from janoscope.execution.caching.stores import Attended
from janoscope.execution.frozen import FROZEN_POLICY, FROZEN_STEPS, frozen_run
from janoscope.execution.rows import Rows
from janoscope.plan import Cache

EVERY = (*EXECUTABLE, *(name for name, family in VARIANTS.items() if family in EXECUTABLE and name not in EXECUTABLE))
TWO_CALLS = {"perturbed attention": perturbed, "mochi": mochi}


def frozen(tiny, strategy="kv", steps=FROZEN_STEPS, **options):
    def call():
        return generate(tiny.pipe, tiny.call, num_inference_steps=steps)

    return frozen_run(tiny.pipe, tiny.probe, call, cache=Cache(strategy), **options)


@pytest.fixture(scope="module", params=EVERY)
def tiny(request):
    return Tiny(request.param)


@pytest.mark.parametrize("strategy", ["kv", "hidden"])
def test_partial_steps_on_the_same_inputs_give_the_plain_output(tiny, strategy):
    run = frozen(tiny, strategy)
    assert run.is_right, str(run)
    assert {"refresh", "moderate", "active"} <= set(run.kinds)
    assert len({(call.component, call.call, call.step) for call in run.calls}) == len(run.calls) >= FROZEN_STEPS


def rows_one_too_far(monkeypatch):
    honest = Attended.index
    monkeypatch.setattr(Attended, "index", lambda self: (honest(self) + 1) % (self.image_tokens + self.text_tokens))


def outputs_of_the_next_token(monkeypatch):
    honest = BranchCache.update_output
    monkeypatch.setattr(BranchCache, "update_output", lambda self, index, rows: honest(self, index, rows.roll(1, dims=1)))


def rotary_table_shifted(monkeypatch):
    honest = Rows._cut
    monkeypatch.setattr(Rows, "_cut", lambda self, table, *more: honest(self, table.roll(1, self.facts.rotary_dim), *more))


@pytest.mark.parametrize("fault", [rows_one_too_far, outputs_of_the_next_token, rotary_table_shifted])
def test_control_a_wrong_row_or_rotary_table_fails_it(tiny, fault, monkeypatch):
    fault(monkeypatch)
    run = frozen(tiny)
    nothing_to_shift = fault is rotary_table_shifted and not tiny.probe.execution.rotary
    assert run.is_right == nothing_to_shift, str(run)
    if not nothing_to_shift:
        assert run.kinds[run.worst.step] in ("moderate", "active")
        assert "NOT the plain output" in str(run)


@pytest.mark.parametrize("strategy", ["kv", "hidden", "kv-int8"])
@pytest.mark.parametrize("name", TWO_CALLS)
def test_every_attention_call_of_a_module_is_served(name, strategy):
    run = frozen(TWO_CALLS[name](), strategy)
    close = 1e-2 if strategy == "kv-int8" else run.tolerance  # codes of eight bits
    assert run.worst.difference <= close, str(run)


@pytest.mark.parametrize("name", TWO_CALLS)
def test_control_a_second_call_that_is_not_served_fails_it(name, monkeypatch):
    honest = AttentionCalls._served
    monkeypatch.setattr(AttentionCalls, "_served", lambda self, given, number: given if number else honest(self, given, number))
    run = frozen(TWO_CALLS[name]())
    assert run.worst.difference > 10 * run.tolerance, str(run)


@pytest.mark.parametrize("name", TWO_CALLS)
def test_a_generation_refreshed_at_every_step_equals_the_plain_one_bit_for_bit(name):
    tiny = TWO_CALLS[name]()
    plain = generate(tiny.pipe, tiny.call)
    always = policy(intervals={"static": 1, "moderate": 1, "active": 1})
    with Executor(tiny.pipe, tiny.probe, policy=always):
        assert torch.equal(generate(tiny.pipe, tiny.call), plain)


@pytest.mark.parametrize("name", TWO_CALLS)
def test_offload_refuses_a_module_that_calls_attention_twice(name):
    with pytest.raises(ExecutionError, match=r"transformer_blocks\.0\.attn.* more than once.* take cache strategy kv"):
        frozen(TWO_CALLS[name](), "offload")


class _Counting:
    """A processor with attention calls of its own behind another's. keys: their lengths, of the number of image tokens."""

    def __init__(self, inner, keys):
        self._inner, self._keys = inner, keys

    def __call__(self, attn, hidden_states, *args, **kwargs):
        output = self._inner(attn, hidden_states, *args, **kwargs)
        heads = hidden_states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for count in self._keys(hidden_states.shape[1]):
            keys = heads[:, :, :1].expand(-1, -1, count, -1)
            torch.nn.functional.scaled_dot_product_attention(heads, keys, keys)
        return output


def with_other_calls(keys):
    tiny = Tiny("sd3")
    attention = tiny.pipe.transformer.transformer_blocks[1].attn
    attention.set_processor(_Counting(attention.processor, keys))
    return tiny


def test_an_adapter_with_keys_of_its_own_passes():
    """Also where a step happens to compute as many tokens as it has keys."""
    for count in {4, *_partial_counts(Tiny("sd3"))}:
        run = frozen(with_other_calls(lambda tokens, count=count: [count]))
        assert run.is_right, str(run)


def _partial_counts(tiny):
    from janoscope.execution import Executor

    with Executor(tiny.pipe, tiny.probe, policy=FROZEN_POLICY) as executor:
        generate(tiny.pipe, tiny.call, num_inference_steps=FROZEN_STEPS)
    return {step.tokens for step in executor.summary.steps} - {executor.summary.image_tokens}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (lambda tokens: [tokens // 2], "38 of the refresh: they follow the tokens"),
        (lambda tokens: [1] * (tokens // 20), "called attention 2 times at a partial step and 4 times at the refresh"),
        (lambda tokens: [1] * (120 // tokens), "calls attention more often at a partial step than at the refresh"),
        (lambda tokens: [77], "other keys than its own tokens'"),
    ],
)
def test_attention_calls_that_change_with_the_tokens_are_refused_by_name(keys, reason):
    with pytest.raises(ExecutionError, match=r"transformer\.transformer_blocks\.1\.attn with processor _Counting .*" + reason):
        frozen(with_other_calls(keys))


def test_a_generation_without_partial_steps_is_no_test():
    with pytest.raises(ExecutionError, match="none of 3 steps was partial"):
        frozen(Tiny("dit"), steps=3)


def test_nothing_is_left_behind():
    tiny = Tiny("flux")
    plain, before = tiny.plain(), tiny.attributes()
    frozen(tiny)
    assert tiny.attributes() == before
    assert torch.equal(tiny.plain(), plain)
