"""A loop of one's own that skips steps, against the same loop written out."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from janoscope.capture.sampler_weights import sampler_weights
from janoscope.errors import InputError
from janoscope.execution.step_skipper import StepSkipper
from janoscope.plan import Policy, coefficients

STEPS = 12
TARGET = torch.linspace(-1, 1, 24).reshape(1, 2, 3, 4)


def policy_of(output: str, computed: tuple[int, ...] = (0, 1, 3, 6, 9, 11), **more: object) -> Policy:
    table = {"name": "p", "output": output, "schedule": {"steps": STEPS, "computed": list(computed)}, **more}
    return Policy.from_table(table, "p.toml")


def scheduler_of(name: str = "euler") -> object:
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    scheduler = FlowMatchEulerDiscreteScheduler() if name == "euler" else UniPCMultistepScheduler(**flow)
    scheduler.set_timesteps(STEPS)
    return scheduler


def network(x: torch.Tensor, sigma: float, branch: float = 1.0) -> torch.Tensor:
    """A smooth velocity that depends on the sample."""
    return (x - branch * TARGET * torch.cos(TARGET + 2 * sigma)) * (0.5 + sigma)


def sample(scheduler: object, ask) -> torch.Tensor:
    x = torch.randn(TARGET.shape, generator=torch.Generator().manual_seed(0))
    for step, timestep in enumerate(scheduler.timesteps):
        x = scheduler.step(ask(step, x), timestep, x, return_dict=False)[0]
    return x


def skipped_run(policy: Policy, name: str = "euler") -> tuple[torch.Tensor, StepSkipper]:
    scheduler = scheduler_of(name)
    sigma = scheduler.sigmas[:-1].tolist()
    skipper = StepSkipper(policy, sigma, sampler_weights(scheduler))
    return sample(scheduler, lambda step, x: skipper(step, lambda: network(x, sigma[step]))), skipper


def full_run(name: str = "euler") -> torch.Tensor:
    scheduler = scheduler_of(name)
    return sample(scheduler, lambda step, x: network(x, float(scheduler.sigmas[step])))


def test_everything_computed_is_the_full_run_bit_for_bit():
    made, skipper = skipped_run(policy_of("corrected", tuple(range(STEPS))))
    assert torch.equal(made, full_run())
    assert (skipper.network_calls, skipper.skipped_calls) == (STEPS, 0)


@pytest.mark.parametrize("output", ["hold", "forecast", "corrected"])
@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_is_a_loop_with_the_coefficients_written_out(output, name):
    scheduler, kept = scheduler_of(name), {}
    sigma = np.array(scheduler.sigmas[:-1].tolist())
    computed = (0, 1, 3, 6, 9, 11)
    made = {
        "hold": lambda: coefficients.reuse(computed, STEPS),
        "forecast": lambda: coefficients.forecast(computed, sigma),
        "corrected": lambda: coefficients.corrected(computed, sigma, sampler_weights(scheduler_of(name))),
    }[output]()

    def ask(step: int, x: torch.Tensor) -> torch.Tensor:
        if step in computed:
            kept[step] = network(x, sigma[step])
        return sum(made.handed[step, node] * kept[node] for node in kept)

    expected = sample(scheduler, ask)
    got, skipper = skipped_run(policy_of(output), name)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert (skipper.network_calls, skipper.skipped_calls) == (6, 6)
    assert (got - full_run(name)).abs().max() > 1e-4


def test_a_correction_comes_nearer_to_the_full_run_than_a_forecast_and_that_than_reuse():
    for name in ("euler", "unipc"):
        reference = full_run(name)
        errors = [float((skipped_run(policy_of(o), name)[0] - reference).abs().mean()) for o in ("corrected", "forecast", "hold")]
        assert errors == sorted(errors)
        assert errors[0] < errors[2]


def test_branches_never_see_each_others_outputs():
    scheduler = scheduler_of()
    sigma = scheduler.sigmas[:-1].tolist()
    skipper = StepSkipper(policy_of("forecast"), sigma)
    alone = StepSkipper(policy_of("forecast"), sigma)
    x = TARGET
    for step in range(STEPS):
        cond = skipper(step, lambda step=step: network(x, sigma[step]), branch="cond")
        skipper(step, lambda step=step: network(x, sigma[step], -3.0), branch="uncond")
        assert torch.equal(cond, alone(step, lambda step=step: network(x, sigma[step])))


def test_a_branch_that_begins_at_a_skipped_step_is_computed_there():
    sigma = scheduler_of().sigmas[:-1].tolist()
    skipper = StepSkipper(policy_of("corrected"), sigma, sampler_weights(scheduler_of()))
    calls = []
    for step in range(4, STEPS):
        skipper(step, lambda step=step: calls.append(step) or network(TARGET, sigma[step]), branch="late")
    assert calls == [4, 6, 9, 11]


def test_outputs_of_other_inputs_are_not_used():
    skipper = StepSkipper(policy_of("hold"), scheduler_of().sigmas[:-1].tolist())
    two, one = torch.ones(2, 3), torch.zeros(1, 3)
    skipper(0, lambda: two, inputs=two.shape)
    skipper(1, lambda: two, inputs=two.shape)
    assert torch.equal(skipper(2, lambda: one, inputs=one.shape), one)


def test_every_form_of_output_comes_back_in_its_form():
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    for form in (lambda v: (v, None), lambda v: [v, v * 2], lambda v: Transformer2DModelOutput(sample=v)):
        skipper = StepSkipper(policy_of("forecast"), scheduler_of().sigmas[:-1].tolist())
        given = [skipper(step, lambda step=step, form=form: form(torch.full((2,), float(step)))) for step in range(3)]
        assert type(given[2]) is type(given[1])
        value = given[2][0]
        assert float(value[0]) > 1.0
        assert float(value[0]) == pytest.approx(2.0, abs=0.05)


def test_kept_outputs_are_dropped_when_nothing_needs_them():
    _, skipper = skipped_run(policy_of("corrected"))
    assert skipper.bytes <= 3 * TARGET.numel() * 4
    skipper.reset()
    assert skipper.bytes == 0


def test_learned_coefficients_take_the_place_of_the_line():
    learned = [[2, 1, 0.25], [4, 3, 0.5]]
    skipper = StepSkipper(policy_of("forecast", learned=learned), scheduler_of().sigmas[:-1].tolist())
    given = [float(skipper(step, lambda step=step: torch.tensor([float(step + 1)]))[0]) for step in range(5)]
    assert given[2] == pytest.approx(0.25 * 2)
    assert given[4] == pytest.approx(0.5 * 4)
    line = StepSkipper(policy_of("forecast"), scheduler_of().sigmas[:-1].tolist())
    assert float([line(step, lambda step=step: torch.tensor([float(step + 1)])) for step in range(3)][2][0]) > 2.5


@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_a_scheduler_says_all_that_a_skipper_needs(name):
    scheduler = scheduler_of(name)
    made = StepSkipper.for_scheduler(policy_of("corrected"), scheduler)
    np.testing.assert_allclose(made.coordinate, scheduler.sigmas[:-1])
    np.testing.assert_allclose(made.weights, sampler_weights(scheduler))
    assert StepSkipper.for_scheduler(policy_of("hold"), scheduler).weights is None


def test_refuses_what_it_cannot_run():
    sigma = scheduler_of().sigmas[:-1].tolist()
    with pytest.raises(InputError, match="needs the sampler's weights"):
        StepSkipper(policy_of("corrected"), sigma)
    skipper = StepSkipper(policy_of("hold"), sigma)
    with pytest.raises(InputError, match="step 12 lies outside the run of 12 steps"):
        skipper(12, lambda: TARGET)
    token = 'name="t"\nwarmup=2\ncooldown=1\ntile=[1,2,2]\nquantiles={static=0.3,moderate=0.6}\nintervals={static=4,moderate=3}\n'
    with pytest.raises(InputError, match=r"has no \[schedule\]"):
        StepSkipper(Policy.from_toml(token), sigma)
