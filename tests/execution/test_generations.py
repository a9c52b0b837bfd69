"""Whole generations through the tiny pipelines of every family that can be executed."""

import pytest
import torch
from generations import KINDS, Tiny, generate
from generations import policy as policy_of
from strategies import EVERY, table
from tiny_transformers import EXECUTABLE

FAMILIES = (*EXECUTABLE, "flux2-klein", "wan2.2", "cogvideox-1.5")
EVERY_STEP_REFRESHED = {"intervals": {"static": 1, "moderate": 1, "active": 1}}


@pytest.fixture(scope="module", params=EVERY)
def strategy(request):
    return request.param


@pytest.fixture
def policy(strategy):
    return lambda **changes: policy_of(**{"cache": table(strategy)} | changes)


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request):
    made = Tiny(request.param)
    made.expected, made.before = made.plain(), made.attributes()
    return made


def test_a_generation_refreshed_at_every_step_equals_the_plain_one_bit_for_bit(tiny, policy):
    output, executor = tiny.run(policy(**EVERY_STEP_REFRESHED))
    assert torch.equal(output, tiny.expected)
    assert executor.summary.kinds == ["warmup"] * 2 + ["refresh"] * 5 + ["cooldown"]
    assert executor.summary.compute == 1.0


def test_partial_steps_account_for_what_they_computed_and_leave_nothing_behind(tiny, policy):
    output, executor = tiny.run(policy())
    account, tokens = executor.summary, executor.summary.image_tokens
    assert output.isfinite().all()
    assert account.nonfinite == 0
    assert (output - tiny.expected).abs().max() > 1e-4, "tokens were skipped, so something must differ"
    levels = account.token_levels
    computed = {"active": levels["active"], "moderate": levels["active"] + levels["moderate"]}
    assert sum(levels.values()) == tokens
    assert 0 < computed["active"] < computed["moderate"] < tokens
    assert account.kinds == KINDS
    forced = [step.step for step in account.steps if step.forced]
    assert forced == ([3] if tiny.name == "wan2.2" else []), "its second transformer comes in at step 3, with nothing cached"
    assert [step.tokens for step in account.steps] == [
        tokens if i in forced else computed.get(k, tokens) for i, k in enumerate(KINDS)
    ]
    flops = {step.kind: step.flops for step in account.steps if not step.forced}
    assert flops.get("active", 0) < flops["moderate"] < flops["refresh"] == flops["warmup"] == flops["cooldown"]
    assert account.cache_bytes > 0
    assert tiny.attributes() == tiny.before
    assert torch.equal(tiny.plain(), tiny.expected)


def test_its_plan_given_back_makes_the_same_generation(tiny, policy):
    output, executor = tiny.run(policy())
    obeyed, second = tiny.run(plan=executor.plan)
    assert torch.equal(obeyed, output)
    assert second.summary.to_json() == executor.summary.to_json()


def test_an_exception_in_mid_run_restores_the_pipeline(tiny, policy, monkeypatch):
    """In the fourth step, a partial one, with caches filled."""
    network = getattr(tiny.pipe, tiny.probe.tap.components[-1 if tiny.name == "wan2.2" else 0])
    output = network.get_submodule(tiny.probe.execution.output)
    original, calls = tiny.pipe.scheduler.step, []

    def step(*args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            raise RuntimeError("stop here")
        return original(*args, **kwargs)

    tiny.pipe.scheduler.step = step
    before = tiny.attributes()
    try:
        with pytest.raises(RuntimeError, match="stop here"):
            tiny.run(policy())
        assert tiny.attributes() == before
        assert "forward" not in vars(output)
    finally:
        del tiny.pipe.scheduler.step
    assert tiny.attributes() == tiny.before
    assert torch.equal(tiny.plain(), tiny.expected)


def test_a_second_generation_equals_a_fresh_one(tiny, policy):
    fresh, _ = tiny.run(policy(), seed=1)
    with tiny.executor(policy()) as executor:
        generate(tiny.pipe, tiny.call, seed=0)
        first_plan = executor.plan
        assert torch.equal(generate(tiny.pipe, tiny.call, seed=1), fresh)
        assert executor.plan is not first_plan


def test_bf16_generations_hold_the_same_laws(tiny, policy, strategy):
    """The invariants once more in the dtype of real models, on a pipeline of its own: weights do not come back from bfloat16."""
    half = Tiny(tiny.name)
    half.pipe.to(torch.bfloat16)
    halved = {k: v.bfloat16() for k, v in half.call.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    expected = half.plain(**halved)
    refreshed, _ = half.run(policy(**EVERY_STEP_REFRESHED), **halved)
    assert torch.equal(refreshed, expected)
    partial, executor = half.run(policy(output="forecast", cache=table(strategy, forecast=strategy == "kv")), **halved)
    assert partial.isfinite().all()
    assert partial.dtype == expected.dtype
    assert not torch.equal(partial, expected)
    assert executor.summary.cache_bytes > 0
    obeyed, _ = half.run(plan=executor.plan, **halved)
    assert torch.equal(obeyed, partial)
    assert torch.equal(half.plain(**halved), expected)
