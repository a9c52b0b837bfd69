"""The hooks on one network call, for every family whose probe can be executed: exact where they must be, wrong when broken."""

import pytest
import torch
from strategies import EVERY, TOLERANCE, branch_cache
from tiny_transformers import EXECUTABLE, tiny_transformer

from janoscope.errors import ExecutionError
from janoscope.execution.caching.branch_cache import BranchCache
from janoscope.execution.hooks import CallState, Mode, NetworkHooks
from janoscope.execution.rows import Rows
from janoscope.probe import find_probe


@pytest.fixture(params=EXECUTABLE)
def network(request):
    """(module, forward arguments, image tokens, probe facts) of a tiny random network."""
    module, arguments, tokens = tiny_transformer(request.param)
    facts = find_probe([cls.__name__ for cls in type(module).__mro__]).execution
    return module, arguments, tokens, facts


class Hooked:
    """A network with hooks, and one cache: run(mode, indices) is one call."""

    def __init__(self, module, arguments, tokens, facts, strategy="kv"):
        self.module, self.arguments, self.tokens, self.facts = module, arguments, tokens, facts
        self.state, self.tolerance = CallState(), TOLERANCE[strategy]
        self.hooks = NetworkHooks("transformer", module, facts, self.state)
        self.cache = branch_cache(strategy, tokens, self.hooks.layers)

    @torch.no_grad()
    def run(self, mode, indices=None, arguments=None):
        rows = None if indices is None else Rows(self.tokens, indices, self.facts)
        with self.state.during(mode, self.cache, rows):
            output = plain(self.module, arguments or self.arguments)
            self.hooks.check_served()
        return output


@torch.no_grad()
def plain(module, arguments):
    return module(**arguments, return_dict=False)[0]


def half_of(tokens, seed=0):
    return torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))[: tokens // 2].sort().values


def changed(arguments):
    """The same call on another latent."""
    moved = dict(arguments)
    moved["hidden_states"] = arguments["hidden_states"] + 1.0
    return moved


@pytest.fixture(params=EVERY)
def hooked(network, request):
    made = Hooked(*network, request.param)
    yield made
    made.hooks.remove()


def test_off_and_refresh_equal_plain_bit_for_bit(network):
    module, arguments, tokens, facts = network
    expected = plain(module, arguments)
    hooked = Hooked(module, arguments, tokens, facts)
    assert torch.equal(hooked.run(Mode.OFF), expected)
    assert torch.equal(hooked.run(Mode.REFRESH), expected)


def test_all_tokens_through_gather_and_scatter_equal_plain_bit_for_bit(hooked):
    expected = hooked.run(Mode.REFRESH)
    hooked.run(Mode.REFRESH, arguments=changed(hooked.arguments))  # stale caches, all of which must be written over
    assert torch.equal(hooked.run(Mode.PARTIAL, torch.arange(hooked.tokens)), expected)


def test_partial_call_with_caches_of_the_same_input_equals_plain(hooked):
    expected = hooked.run(Mode.REFRESH)
    difference = (hooked.run(Mode.PARTIAL, half_of(hooked.tokens)) - expected).abs().max()
    assert difference <= hooked.tolerance * max(1.0, float(expected.abs().max()))


def test_partial_call_leaves_skipped_tokens_as_they_were_and_moves_the_computed(hooked):
    before = hooked.run(Mode.REFRESH)
    after = hooked.run(Mode.PARTIAL, half_of(hooked.tokens), changed(hooked.arguments))
    unchanged = (after == before).float().mean().item()
    assert unchanged == pytest.approx(1 - (hooked.tokens // 2) / hooked.tokens, abs=0.02)


def test_without_cached_keys_and_values_a_partial_call_is_wrong(hooked, monkeypatch):
    expected = hooked.run(Mode.REFRESH)
    monkeypatch.setattr(BranchCache, "update", lambda self, layer, attended: (attended.key, attended.value))
    monkeypatch.setattr(BranchCache, "mask", lambda self, layer, rows: None)
    assert (hooked.run(Mode.PARTIAL, half_of(hooked.tokens)) - expected).abs().max() > 1e-3


def test_rotary_rows_of_other_tokens_are_wrong(hooked, monkeypatch):
    expected = hooked.run(Mode.REFRESH)
    honest = Rows._cut
    monkeypatch.setattr(Rows, "_cut", lambda self, table, *more: honest(self, table.roll(1, self.facts.rotary_dim), *more))
    difference = (hooked.run(Mode.PARTIAL, half_of(hooked.tokens)) - expected).abs().max()
    near = hooked.tolerance * max(1.0, float(expected.abs().max()))
    assert difference > 1e-3 if hooked.facts.rotary else difference <= near, "without a rotary table there is nothing to cut"


def test_an_attention_that_was_not_served_raises_and_is_named(hooked, monkeypatch):
    layer = next(iter(hooked.hooks._attentions))
    attention = hooked.hooks._attentions[layer]
    inner = type(attention).forward
    monkeypatch.setattr(attention, "forward", lambda *args, **kwargs: inner(attention, *args, **kwargs))  # our wrapper is gone
    with pytest.raises(ExecutionError, match=layer.replace(".", r"\.") + ".* 0 times"):
        hooked.run(Mode.REFRESH)


def test_removal_restores_the_instances(network):
    module, arguments, tokens, facts = network
    expected, before = plain(module, arguments), {name: dict(vars(m)) for name, m in module.named_modules()}
    hooked = Hooked(module, arguments, tokens, facts)
    assert any("forward" in vars(m) for m in module.modules())
    hooked.run(Mode.REFRESH)
    hooked.hooks.remove()
    hooked.hooks.remove()
    after = {name: dict(vars(m)) for name, m in module.named_modules()}
    assert {name: list(state) for name, state in after.items()} == {name: list(state) for name, state in before.items()}
    assert not any("forward" in vars(m) for m in module.modules())
    assert torch.equal(plain(module, arguments), expected)


def test_bf16_partial_call_equals_plain(network):
    module, arguments, tokens, facts = network
    module.to(torch.bfloat16)
    cast = {
        k: v.bfloat16() if isinstance(v, torch.Tensor) and v.dtype == torch.float32 and "ids" not in k else v
        for k, v in arguments.items()
    }
    hooked = Hooked(module, cast, tokens, facts)
    expected = hooked.run(Mode.REFRESH)
    assert (hooked.run(Mode.PARTIAL, half_of(tokens)) - expected).abs().max() <= 2e-2 * expected.abs().max()


def test_a_probe_of_another_class_is_refused_and_leaves_nothing_behind(network):
    module, _, _, facts = network
    from dataclasses import replace

    with pytest.raises(ExecutionError, match="no_such_list"):
        NetworkHooks("transformer", module, replace(facts, blocks=(*facts.blocks, "no_such_list")), CallState())
    assert not any("forward" in vars(m) for m in module.modules())
