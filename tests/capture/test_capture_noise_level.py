"""alpha and sigma against what every diffusers scheduler does itself when it adds noise."""

import diffusers
import pytest
import torch

from janoscope.capture.noise_level import first_step, noise_level, noise_level_at, on_host, predicts_flow
from janoscope.errors import InputError

NO_DEFAULTS = {"AmusedScheduler", "VQDiffusionScheduler", "RFD4ProteinaScheduler", "HeliosScheduler", "HeliosDMDScheduler"}
# they need torchsde, have no steps, take one or two steps only, are masks rather than noise, or have no add_noise to compare with
OTHER = {"CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler", "ScoreSdeVeScheduler", "SCMScheduler"}
OTHER |= {
    "DDIMInverseScheduler",
    "RePaintScheduler",
    "PiflowScheduler",
    "LTXEulerAncestralRFScheduler",
    "FlowMatchHeunDiscreteScheduler",
}
REFUSED = {"BlockRefinementScheduler", "DDPMWuerstchenScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler"}
REFUSED |= {"IPNDMScheduler", "KarrasVeScheduler"}
NAMES = sorted(name for name in dir(diffusers) if name.endswith("Scheduler"))
COMPARED = [name for name in NAMES if name not in NO_DEFAULTS | OTHER | REFUSED]


def ready(name: str):
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(6)
    return scheduler


def noised(scheduler, clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(clean, timestep.reshape(1), noise)
    return scheduler.add_noise(clean, noise, timestep.reshape(1))


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.filterwarnings("ignore")
def test_the_level_is_what_the_scheduler_itself_adds(name):
    scheduler = ready(name)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    tables = on_host(scheduler)
    for step in (0, 2):
        timestep = scheduler.timesteps[step]
        alpha, sigma = noise_level_at(tables, step, float(timestep))
        made = noised(scheduler, clean, noise, timestep)
        torch.testing.assert_close(made, alpha * clean + sigma * noise, rtol=1e-6, atol=1e-6 * max(1.0, sigma))
        wrong = noise_level_at(tables, step + 1, float(scheduler.timesteps[step + 1]))
        assert abs(wrong[1] - sigma) > 1e-6, "control: the next step's level differs"


def test_most_schedulers_are_compared():
    assert len(COMPARED) > 22
    common = ("FlowMatchEulerDiscrete", "DDIM", "UniPCMultistep", "DPMSolverMultistep", "EulerDiscrete", "CogVideoXDDIM")
    assert {f"{name}Scheduler" for name in common} <= set(COMPARED)


@pytest.mark.parametrize("name", sorted(REFUSED & set(NAMES)))
@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_without_tables_is_refused_in_words(name):
    scheduler = ready(name)
    with pytest.raises(InputError, match=f"{name} has no sigmas"):
        noise_level(scheduler, float(scheduler.timesteps[0]))


def test_flow_sigmas_of_solvers_are_flow():
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    for name in ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler"):
        scheduler = getattr(diffusers, name)(**flow)
        scheduler.set_timesteps(6)
        alpha, sigma = noise_level_at(scheduler, 2, float(scheduler.timesteps[2]))
        assert alpha + sigma == pytest.approx(1)
        assert predicts_flow(scheduler)
    assert predicts_flow(diffusers.LTXEulerAncestralRFScheduler())
    assert not predicts_flow(diffusers.UniPCMultistepScheduler())


def test_a_start_in_the_middle_is_found_by_its_timestep():
    scheduler = ready("DDIMScheduler")
    assert first_step(scheduler) == 0
    assert first_step(scheduler, float(scheduler.timesteps[4])) == 4
    flow = ready("FlowMatchEulerDiscreteScheduler")
    flow.set_begin_index(3)
    assert first_step(flow, float(flow.timesteps[3])) == 3


def test_a_timestep_outside_the_table_is_refused():
    scheduler = ready("EulerDiscreteScheduler")
    with pytest.raises(InputError, match=r"timestep 3\.25 is not in the scheduler's table"):
        noise_level(scheduler, 3.25)
