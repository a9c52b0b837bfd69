"""The slice on the bundled image model: recording disturbs nothing, and an offline plan is the plan made in mid-generation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from janoscope.errors import ExecutionError, InputError
from janoscope.execution import Executor
from janoscope.execution.hooks import NetworkHooks
from janoscope.pipeline.call import CallOptions, make_call
from janoscope.pipeline.generate import generate
from janoscope.pipeline.model import load_model
from janoscope.plan import Intervals, Plan, StepKind
from janoscope.workflows.analyze.recording import analyze
from janoscope.workflows.apply.session import apply, apply_model
from janoscope.workflows.record.session import record, record_model

PROMPT, SEED, STEPS = "a large red apple on grass, blue sky", 3, 24


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return load_model("demo")


@pytest.fixture(scope="module")
def call(model):
    return make_call(model, CallOptions(PROMPT, seed=SEED, steps=STEPS, extra={"output_type": "latent"}))


@pytest.fixture(scope="module")
def plain(model, call):
    """Final latents without any of our hooks."""
    return generate(model, call).latents


@pytest.fixture(scope="module")
def recorded(model, call, tmp_path_factory):
    return record_model(model, call, tmp_path_factory.mktemp("run") / "run.h5", keep_output=False)


@pytest.fixture(scope="module")
def policy(model):
    return model.policy(None)


@pytest.fixture(scope="module")
def by_policy(model, call, policy):
    return apply_model(model, call, policy=policy)


def instance_state(pipe):
    """Everything that hooks could leave behind on the modules and the scheduler."""
    modules = {name: sorted(vars(module)) for name, module in pipe.transformer.named_modules()}
    hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in pipe.transformer.named_modules()}
    return modules, hooks, {"step", "set_timesteps"} & set(vars(pipe.scheduler))


def test_recording_leaves_output_and_pipeline_as_they_were(model, call, plain, tmp_path):
    before = instance_state(model.pipe)
    with record(model.pipe, tmp_path / "run.h5"):
        during = instance_state(model.pipe)
        assert torch.equal(generate(model, call).latents, plain)
    assert during != before  # the comparison can see hooks
    assert instance_state(model.pipe) == before


def test_a_recorder_that_touched_the_prediction_would_be_seen(model, call, plain, tmp_path, monkeypatch):
    from janoscope.workflows.record.session import RecordingSink

    honest = RecordingSink.put

    def meddling(self, signal, values, **place):
        honest(self, signal, values, **place)
        values += 1e-3  # shares memory with the pipeline's own tensor

    monkeypatch.setattr(RecordingSink, "put", meddling)
    with record(model.pipe, tmp_path / "run.h5"):
        assert not torch.equal(generate(model, call).latents, plain)


def test_policy_and_plan_give_equal_levels_kinds_and_latents(model, call, recorded, policy, by_policy):
    plan = analyze(recorded.path).plan
    assert plan == by_policy.plan
    assert len(set(plan.token_level)) == 3  # a plan of one level would agree with anything
    by_plan = apply_model(model, call, plan=Plan.from_text(plan.to_text()))
    assert by_plan.account.kinds == by_policy.account.kinds == [str(kind) for kind in plan.step_kind]
    assert torch.equal(by_plan.generated.latents, by_policy.generated.latents)


def test_another_signal_would_give_another_plan(recorded, policy, by_policy):
    assert analyze(recorded.path, policy=replace(policy, initial_latent=False)).plan.token_level != by_policy.plan.token_level


def test_the_accelerated_run_computes_what_the_account_says(by_policy, plain):
    account, plan = by_policy.account, by_policy.plan
    assert [step.tokens for step in account.steps] == [int((plan.ranks >= kind.least_rank).sum()) for kind in plan.step_kind]
    assert account.compute == pytest.approx(plan.predicted.compute, abs=0.01)
    assert account.cache_bytes == plan.predicted.cache_bytes
    assert account.compute < 0.75
    assert not torch.equal(by_policy.generated.latents, plain)


def test_executor_that_only_refreshes_equals_plain_bit_for_bit(model, call, plain, policy):
    every_step = replace(policy, intervals=Intervals(static=1, moderate=1, active=1))
    applied = apply_model(model, call, policy=every_step)
    assert set(applied.account.kinds) == {"warmup", "refresh", "cooldown"}
    assert torch.equal(applied.generated.latents, plain)


def test_pipeline_is_restored_after_an_exception_in_mid_run(model, call, plain, policy, monkeypatch):
    before = instance_state(model.pipe)
    monkeypatch.setattr(NetworkHooks, "check_served", lambda self: (_ for _ in ()).throw(ExecutionError("in mid-run")))
    with pytest.raises(ExecutionError, match="in mid-run"):
        apply_model(model, call, policy=policy)
    monkeypatch.undo()
    assert instance_state(model.pipe) == before
    assert torch.equal(generate(model, call).latents, plain)


def test_second_generation_under_one_executor_equals_the_first(model, call, policy, by_policy):
    with apply(model.pipe, policy=policy):
        first = generate(model, call).latents
        second = generate(model, call).latents
    assert torch.equal(first, second)
    assert torch.equal(first, by_policy.generated.latents)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": "a small yellow cat, night sky"}, "prompt"),
        ({"seed": 4}, "seed"),
        ({"steps": STEPS + 1}, "steps"),
        ({"guidance": 2.0}, "guidance"),
        ({"height": 80}, "grid"),
    ],
)
def test_a_plan_for_another_run_is_refused_with_the_field_named(model, recorded, change, field):
    plan = analyze(recorded.path).plan
    options = {"prompt": PROMPT, "seed": SEED, "steps": STEPS, "extra": {"output_type": "latent"}} | change
    with pytest.raises(InputError, match=f"{field}: plan "):
        apply_model(model, make_call(model, CallOptions(**options)), plan=plan)


def test_any_prompt_accepts_another_prompt_but_not_another_schedule(model, recorded):
    plan = analyze(recorded.path).plan
    other = {"prompt": "a small yellow cat, night sky", "seed": SEED, "extra": {"output_type": "latent"}}
    applied = apply_model(model, make_call(model, CallOptions(**other, steps=STEPS)), plan=plan, any_prompt=True)
    assert applied.plan is plan
    with pytest.raises(InputError, match="steps"):
        apply_model(model, make_call(model, CallOptions(**other, steps=STEPS - 1)), plan=plan, any_prompt=True)


def test_reuse_steps_call_no_transformer_block(model, call, policy):
    sparse = replace(policy, intervals=Intervals(static=6, moderate=6, active=2))
    calls = []
    handle = model.pipe.transformer.transformer_blocks[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        applied = apply_model(model, call, policy=sparse)
    finally:
        handle.remove()
    reuse = applied.account.kinds.count(str(StepKind.REUSE))
    assert reuse > 3
    assert len(calls) == 2 * (STEPS - reuse)  # two branches


def test_analysis_of_the_trained_model_sees_simple_tokens_settle_earlier(recorded):
    analysis = analyze(recorded.path)
    levels = np.array([str(level) for level in analysis.plan.token_level])
    cost = {level: np.median(analysis.convergence.reuse_error[levels == level]) for level in ("static", "active")}
    assert cost["active"] > 1.2 * cost["static"]


def test_account_is_json(by_policy):
    assert json.loads(json.dumps(by_policy.to_json()))["account"]["steps"][0]["kind"] == "warmup"


def test_executor_needs_a_policy_or_a_plan(model):
    with pytest.raises(InputError, match="needs a policy"):
        Executor(model.pipe, model.probe)
