"""Whole steps skipped on every family that can be recorded, against a spy on the scheduler."""

import copy
import functools

import diffusers
import numpy as np
import pytest
import torch
from tiny_pipelines import FAMILIES, VARIANTS, build

import janoscope
from janoscope.capture.sampler_weights import sampler_weights
from janoscope.errors import ExecutionError, InputError
from janoscope.execution import StepExecutor, executor_for
from janoscope.execution.caching.forecast import forecast_coordinates
from janoscope.pipeline.model import probe_of
from janoscope.plan import Policy, coefficients

STEPS = 7
COMPUTED = (0, 1, 3, 6)


def policy_of(output: str = "hold", computed: tuple[int, ...] = COMPUTED, steps: int = STEPS) -> Policy:
    return Policy.from_table({"name": "p", "output": output, "schedule": {"steps": steps, "computed": list(computed)}}, "p")


def forwards(pipe) -> tuple[list, list]:
    """Counters in the innermost forward, so that a skipped step shows as no call."""
    seen, undo = [], []
    for name in ("transformer", "transformer_2", "unet"):
        network = getattr(pipe, name, None)
        if network is None:
            continue
        block = next(module for module in network.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d))
        undo.append(block.register_forward_hook(lambda *_: seen.append(1)))
    return seen, undo


def run(pipe, call, policy=None, **more):
    """(handed to the scheduler a step, forwards a step, final output, executor)."""
    seen, undo = forwards(pipe)
    handed, counts = [], []

    def before(model_output):
        handed.append(torch.as_tensor(model_output).detach().clone().float())
        counts.append(len(seen))
        seen.clear()

    executor = None if policy is None else StepExecutor(pipe, probe_of(pipe), policy=policy)
    inner = pipe.scheduler.step  # the executor's, or the scheduler's own

    @functools.wraps(inner)  # pipelines look for eta in its signature
    def step(model_output, *args, **kwargs):
        before(model_output)
        return inner(model_output, *args, **kwargs)

    pipe.scheduler.step = step
    try:
        options = call | {"num_inference_steps": STEPS} | more
        with torch.no_grad():
            result = pipe(**options, generator=torch.Generator().manual_seed(0))[0]
    finally:
        del pipe.scheduler.step
        for handle in undo:
            handle.remove()
        if executor is not None:
            executor.remove()
    return handed, counts, torch.as_tensor(np.asarray(result)), executor


@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS])
def test_skipped_steps_call_no_network_and_reuse_what_was_handed(name):
    pipe, call = build(name)
    full, full_counts, plain, _ = run(pipe, call)
    again, _, _, _ = run(pipe, call)
    assert all(torch.equal(a, b) for a, b in zip(full, again, strict=True))  # or nothing here could be compared
    steps = len(full)
    computed = tuple(step for step in COMPUTED if step < steps)
    handed, counts, _, executor = run(pipe, call, policy_of("hold", computed, steps))
    two_experts = hasattr(pipe, "transformer_2") and pipe.transformer_2 is not None
    for step in range(steps):
        if step in computed:
            assert counts[step] == full_counts[step] > 0
        elif not two_experts:
            assert counts[step] == 0
            assert torch.equal(handed[step], handed[step - 1])
    assert torch.equal(handed[0], full[0])
    assert torch.equal(handed[1], full[1])
    assert not torch.equal(handed[2], full[2])  # the control: this step of the full run is another
    assert executor.summary.compute == pytest.approx(len(computed) / steps, abs=0.2 if two_experts else 1e-9)
    assert executor.plan is not None
    _, _, after, _ = run(pipe, call)
    assert torch.equal(after, plain)


@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS])
def test_everything_computed_is_the_plain_run_bit_for_bit(name):
    pipe, call = build(name)
    full, _, plain, _ = run(pipe, call)
    _, _, made, executor = run(pipe, call, policy_of("forecast", tuple(range(len(full))), len(full)))
    assert torch.equal(made, plain)
    assert executor.summary.compute == 1.0


@pytest.mark.parametrize("name", ["flux", "sd3", "wan", "latte", "lumina2", "z-image", "hidream"])
@pytest.mark.parametrize("output", ["forecast", "corrected"])
def test_what_the_sampler_is_handed_is_the_combination_of_what_was_computed(name, output):
    """Of the guided prediction: guidance is linear, so combining branches and combining guided outputs are the same."""
    pipe, call = build(name)
    if name == "latte":
        pipe.scheduler = diffusers.DDIMScheduler(clip_sample=False)
    if name == "lumina2":
        call["cfg_normalization"] = False  # the one guidance here that is not linear
    handed, _, _, executor = run(pipe, call, policy_of(output))
    coordinate = np.array(forecast_coordinates(pipe.scheduler))
    weights = sampler_weights(rewound(pipe.scheduler))
    made = coefficients.forecast(COMPUTED, coordinate)
    if output == "corrected":
        made = coefficients.corrected(COMPUTED, coordinate, weights)
    own = {}  # the computed outputs, told from what was handed by taking the corrections off again, in order
    for step in range(STEPS):
        others = sum((made.handed[step, node] * own[node] for node in own), torch.zeros_like(handed[step]))
        if step in COMPUTED:
            own[step] = (handed[step] - others) / made.handed[step, step]
        else:
            torch.testing.assert_close(handed[step], others, atol=2e-5 * float(others.abs().max()), rtol=1e-4)
    assert executor.summary.kinds == ["refresh" if step in COMPUTED else "reuse" for step in range(STEPS)]


def rewound(scheduler):
    """A copy that has not stepped, on the path of sigma of the run behind it."""
    if hasattr(scheduler, "model_outputs"):  # a multistep solver remembers its run until its timesteps are set again
        scheduler = type(scheduler).from_config(scheduler.config)
        scheduler.set_timesteps(STEPS)
        return scheduler
    scheduler = copy.deepcopy(scheduler)
    scheduler._step_index = scheduler._begin_index = None
    return scheduler


def test_corrections_come_nearer_to_the_full_run_than_reuse_on_a_multistep_sampler():
    pipe, call = build("wan")
    pipe.scheduler = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    _, _, plain, _ = run(pipe, call)
    errors = [float((run(pipe, call, policy_of(output))[2] - plain).abs().mean()) for output in ("corrected", "hold")]
    assert 0 < errors[0] < errors[1]


def test_samplers_with_noise_are_refused_a_correction_and_run_forecast():
    pipe, call = build("latte")
    pipe.scheduler = diffusers.DDPMScheduler(clip_sample=False)
    with pytest.raises(ExecutionError, match="DDPMScheduler adds noise"):
        run(pipe, call, policy_of("corrected"))
    handed, counts, _, _ = run(pipe, call, policy_of("forecast"))
    assert counts[2] == 0
    assert len(handed) == STEPS


def test_eta_of_the_call_counts_as_noise():
    pipe, call = build("latte")
    pipe.scheduler = diffusers.DDIMScheduler(clip_sample=False)
    with pytest.raises(ExecutionError, match="DDIMScheduler adds noise"):
        run(pipe, call, policy_of("corrected"), eta=0.7)


def test_a_list_is_carried_to_another_number_of_steps_and_says_so():
    pipe, call = build("flux")
    with pytest.warns(RuntimeWarning, match="lists steps of a run of 14; this run of 7"):
        _, counts, _, executor = run(pipe, call, policy_of("hold", (0, 1, 3, 6, 9, 13), 14))
    assert sum(count > 0 for count in counts) == 3
    assert executor.plan.policy.schedule.steps == STEPS


def test_a_plan_of_whole_steps_does_what_its_policy_does_and_knows_its_run():
    pipe, call = build("flux")
    first = run(pipe, call, policy_of("forecast"))
    plan = type(first[3].plan).from_text(first[3].plan.to_text())
    with executor_for(pipe, probe_of(pipe), plan=plan, any_prompt=True):
        made = pipe(**call | {"num_inference_steps": STEPS}, generator=torch.Generator().manual_seed(0))[0]
    assert torch.equal(torch.as_tensor(np.asarray(made)), first[2])
    with pytest.raises(InputError, match="made for another run"), executor_for(pipe, probe_of(pipe), plan=plan, any_prompt=True):
        pipe(**call | {"num_inference_steps": STEPS + 1}, generator=torch.Generator().manual_seed(0))


def test_the_public_way_takes_a_policy_file(tmp_path):
    file = tmp_path / "fast.toml"
    file.write_text(policy_of("forecast").to_toml())
    pipe, call = build("unet")
    with janoscope.apply(pipe, policy=file) as handle:
        pipe(**call | {"num_inference_steps": STEPS}, generator=torch.Generator().manual_seed(0))
    assert handle.summary.kinds.count("reuse") == STEPS - len(COMPUTED)


def test_a_cache_for_whole_steps_is_refused():
    from janoscope.plan import Cache

    pipe, _ = build("flux")
    with pytest.raises(InputError, match="caches nothing of attentions"):
        executor_for(pipe, probe_of(pipe), policy=policy_of(), cache=Cache())


def test_a_whole_compiled_network_skips_steps():
    pipe, call = build("flux")
    _, _, plain, _ = run(pipe, call)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    handed, _, made, _ = run(pipe, call, policy_of("hold"))
    assert torch.equal(handed[2], handed[1])
    assert not torch.equal(made, plain)
    assert torch.isfinite(made).all()


def test_a_generation_that_shows_no_step_is_an_error():
    pipe, call = build("flux")
    executor = StepExecutor(pipe, probe_of(pipe), policy=policy_of())
    own = type(pipe.scheduler).step.__get__(pipe.scheduler)
    pipe.scheduler.step = own  # put over the executor's, as a careless user might
    pipe(**call | {"num_inference_steps": STEPS}, generator=torch.Generator().manual_seed(0))
    del pipe.scheduler.step
    with pytest.raises(ExecutionError, match="without a step"):
        executor.__exit__(None, None, None)
