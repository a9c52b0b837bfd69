"""Whole generations under every cache strategy, every family: the same latents as under kv, and as many bytes as predicted."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from generations import Tiny, generate, policy
from strategies import OTHERS, TOLERANCE, table
from tiny_transformers import EXECUTABLE

from janoscope.errors import ExecutionError, InputError
from janoscope.execution import Executor
from janoscope.execution.caching.stores import KeyValueStore
from janoscope.plan import STRATEGIES, Cache, PlanSelector, RandomSelector, RasOptions, RasSelector

# which eight bits a family is run with; `tests/execution/caching/test_strategies.py` holds both against kv on every family
EIGHT_BITS = ("kv-fp8", "kv-int8")
FAMILIES = (*EXECUTABLE, "flux2-klein", "wan2.2", "cogvideox-1.5")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_strategy_ends_at_the_latents_of_kv_with_the_bytes_that_were_predicted(family):
    tiny, made = Tiny(family), {}
    for strategy in ("kv", "hidden", "offload", EIGHT_BITS[FAMILIES.index(family) % 2]):
        output, executor = tiny.run(policy(cache=table(strategy), warmup=1), num_inference_steps=6)
        account, predicted = executor.summary, executor.plan.predicted
        assert account.cache_bytes == pytest.approx(predicted.cache_bytes, rel=0.02), strategy
        assert account.compute == pytest.approx(made["kv"][1] if made and strategy != "hidden" else account.compute)
        assert (account.cache_host_bytes > 0) == (strategy == "offload")
        made[strategy] = output, account.compute, account.cache_bytes
    kv, compute, size = made.pop("kv")
    for strategy, (output, _, _) in made.items():
        assert (output - kv).abs().max() <= TOLERANCE[strategy] * max(1.0, float(kv.abs().max())), strategy
    assert torch.equal(made["offload"][0], kv)
    assert made["hidden"][1] > compute, "keys and values are projected again"
    assert max(bytes for name, (_, _, bytes) in made.items() if name != "offload") < size


def test_control_a_prediction_for_another_strategy_is_told_apart():
    """What the two percent are for: scales left out, and the text's rows, are more than that on these networks."""
    tiny = Tiny("flux")
    taken = {strategy: tiny.run(policy(cache=table(strategy)))[1].summary.cache_bytes for strategy in STRATEGIES}
    assert all(b / a > 1.02 for a, b in pairwise(sorted(taken.values()))), taken


@pytest.mark.parametrize("strategy", OTHERS)
def test_a_selector_that_draws_anew_at_every_step_may_skip_any_token(strategy):
    """Then offload keeps all of them, and whatever was computed goes back."""
    tiny = Tiny("wan")
    draw = {"choose": lambda plan: RandomSelector(plan, 3)}
    expected, _ = tiny.run(policy(), options=draw)
    got, _ = tiny.run(policy(cache=table(strategy)), options=draw)
    assert (got - expected).abs().max() <= TOLERANCE[strategy] * max(1.0, float(expected.abs().max()))
    planned, _ = tiny.run(policy(cache=table(strategy)), options={"choose": PlanSelector})
    assert (planned - expected).abs().max() > 1e-3, "control: other tokens give another picture"


def test_a_cache_may_take_the_place_of_the_policys_the_plans_and_a_selectors():
    tiny = Tiny("flux")
    expected, executor = tiny.run(policy())
    plan = executor.plan
    for given in ({"policy": policy()}, {"plan": plan}):
        got, again = tiny.run(**given, options={"cache": Cache("hidden")})
        assert (got - expected).abs().max() < 1e-5
        assert again.summary.cache_strategy == again.plan.policy.cache.strategy == "hidden"
        assert again.summary.cache_bytes < executor.summary.cache_bytes / 2
    options = RasOptions(start=2, end=7, resets=(4,))
    ras = {"selector": partial(RasSelector, options)}
    outputs = {}
    for strategy in ("kv", "offload"):
        with Executor(tiny.pipe, tiny.probe, **ras, cache=Cache(strategy)) as executor:
            outputs[strategy] = generate(tiny.pipe, tiny.call)
        assert (executor.summary.cache_host_bytes > 0) == (strategy == "offload")
    assert torch.equal(outputs["kv"], outputs["offload"])


@pytest.mark.parametrize("strategy", ["hidden", "offload"])
def test_compiled_blocks_give_the_same(strategy):
    tiny = Tiny("flux")
    expected, _ = tiny.run(policy())
    for name in tiny.probe.execution.blocks:
        for block in tiny.pipe.transformer.get_submodule(name):
            block.compile(backend="eager")
    output, _ = tiny.run(policy(cache=table(strategy)))
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "told", ["CUDA out of memory. Tried to allocate 2.00 GiB.", "DefaultCPUAllocator: can't allocate memory"]
)
def test_out_of_memory_ends_with_the_figure_and_the_flag_and_restores_the_pipeline(told, monkeypatch):
    tiny = Tiny("flux")
    expected, executor = tiny.run(policy())
    before, plain = tiny.attributes(), tiny.plain()
    kind = torch.OutOfMemoryError if "CUDA" in told else RuntimeError
    stored = []

    def refresh(self, attended):
        stored.append(attended)
        if len(stored) == 3:
            raise kind(told)

    with monkeypatch.context() as patched:
        patched.setattr(KeyValueStore, "refresh", refresh)
        with pytest.raises(ExecutionError) as caught:
            tiny.run(policy())
    message = str(caught.value)
    assert "\n" not in message
    assert "out of memory at step 2" in message
    assert f"the kv cache needs {executor.plan.predicted.cache_bytes / 2**20:.2f} MiB" in message
    assert "--cache hidden (0.0" in message
    assert "--cache kv-int8" in message
    assert tiny.attributes() == before
    assert torch.equal(tiny.plain(), plain)
    assert torch.equal(tiny.run(policy())[0], expected)


def test_out_of_memory_without_a_cache_is_the_models_own(monkeypatch):
    tiny = Tiny("flux")

    def forward(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tiny.pipe.transformer.time_text_embed, "forward", forward)
    with pytest.raises(ExecutionError, match="at step 0, in a full call with nothing cached"):
        tiny.run(policy())


def test_an_error_that_is_not_about_memory_keeps_its_own_words(monkeypatch):
    def refresh(self, attended):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(KeyValueStore, "refresh", refresh)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        Tiny("flux").run(policy())


def test_settings_that_mean_nothing_are_refused():
    for cache, told in (
        ({"strategy": "hidden", "forecast": True}, "cache.forecast draws a line"),
        ({"strategy": "kv", "window": 3}, "cache.window belong to strategy offload"),
        ({"strategy": "kv", "device_mib": 3}, "cache.device_mib belong"),
        ({"strategy": "offload", "window": 0}, "integers from 1"),
    ):
        with pytest.raises(InputError, match=told):
            policy(cache=cache)
    with pytest.raises(ExecutionError, match="forecast needs strategy kv"):
        Tiny("flux").executor(policy(), cache=Cache("kv-fp8", forecast=True))
