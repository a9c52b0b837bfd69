"""alpha and sigma against what every diffusers scheduler does itself when it adds noise."""

import diffusers
import numpy as np
import pytest
import torch
from capture_sink import MemorySink, run
from plain_hooks import probe_named, watched
from tiny_pipelines import build

import janoscope
from janoscope.capture import Capture
from janoscope.capture.noise_level import (
    final_noise_level,
    first_step,
    noise_level,
    noise_level_at,
    on_host,
    predicts_flow,
    refuse_inversion,
    step_index,
)
from janoscope.conversion import NoisePath, to_flow_velocity, to_x0
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


@pytest.mark.parametrize("strength", [0.5, 0.67, 0.84, 1.0])
def test_a_start_from_a_picture_with_pndm_which_holds_a_timestep_twice_is_complete(strength, tmp_path):
    text, call = build("unet")
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    parts = text.components | {"requires_safety_checker": False, "scheduler": scheduler}
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    size = {key: call.pop(key) for key in ("height", "width")}
    call |= {"image": torch.rand(1, 3, size["height"], size["width"]), "strength": strength, "num_inference_steps": 6}
    with watched(pipeline, ("unet",)) as steps, janoscope.record(pipeline, tmp_path / "run.h5"):
        run(pipeline, call)
    recording = janoscope.open_recording(tmp_path / "run.h5")
    assert recording.steps == recording.planned_steps == len(steps)
    table = scheduler.timesteps.tolist()
    assert table[1] == table[2], "control: the table holds one twice"
    assert recording.timestep.tolist() == table[-len(steps) :]


def test_a_run_that_stops_midway_because_it_was_asked_to_is_complete_and_ends_where_it_stopped(tmp_path):
    pipeline, call = build("sdxl")
    pipeline.scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    with janoscope.record(pipeline, tmp_path / "run.h5"):
        run(pipeline, call, num_inference_steps=6, denoising_end=0.5)
    recording = janoscope.open_recording(tmp_path / "run.h5")
    assert recording.steps == recording.planned_steps == 2
    next_level = noise_level_at(on_host(pipeline.scheduler), 2, float(pipeline.scheduler.timesteps[2]))
    assert recording.provenance["scheduler"]["final"] == list(next_level)
    assert next_level[1] > 0.1, "control: the run's last latent still holds noise"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "EulerDiscreteScheduler"])
def test_before_its_first_step_a_scheduler_is_asked_where_it_begins(name):
    scheduler = ready(name)
    for timestep in scheduler.timesteps.unique():
        scheduler._step_index = scheduler._begin_index = None
        ours = step_index(scheduler, float(timestep))
        scheduler._init_step_index(timestep)
        assert ours == scheduler.step_index
    if name.startswith("Heun"):
        twice = scheduler.timesteps[1]
        assert [float(t) for t in scheduler.timesteps].index(float(twice)) != step_index_of(scheduler, twice), "control"


def step_index_of(scheduler, timestep):
    scheduler._step_index = None
    return step_index(scheduler, float(timestep))


def test_a_scheduler_whose_sigma_runs_from_noise_to_data_is_read_in_its_direction():
    pipeline, call = build("flux")
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    sink = MemorySink()
    with Capture(pipeline, probe_named("flux"), sink):
        final = run(pipeline, call).images
    kept = sink.only
    alpha, sigma, timestep = (np.array([getattr(f, name) for f in kept.facts]) for name in ("alpha", "sigma", "timestep"))
    assert (np.diff(timestep) > 0).all(), "control: this scheduler's own time runs up"
    assert (sigma[0], alpha[0]) == (1, 0)
    assert (np.diff(sigma) < 0).all()
    assert kept.about.prediction_type == "inverted_flow"
    path = NoisePath(timestep, alpha, sigma, tuple(kept.about.scheduler["final"]))
    latents = [kept.maps[i]["sample", 0, "guided"] for i in range(5)] + [final[0].numpy()]
    for step in range(5):
        output = kept.maps[step]["model_output", 0, "guided"]
        change = to_flow_velocity(output, latents[step], prediction="inverted_flow", point=path.at(step)) * path.gap[step]
        np.testing.assert_allclose(change, latents[step] - latents[step + 1], atol=1e-5)  # the velocity is the sampler's own
        wrong = to_flow_velocity(output, latents[step], prediction="flow", point=path.at(step)) * path.gap[step]
        assert not np.allclose(wrong, latents[step] - latents[step + 1], atol=1e-5), "control"
    output = kept.maps[4]["model_output", 0, "guided"]  # the last step of Euler goes to the estimate of x0
    estimate = to_x0(output, latents[4], prediction="inverted_flow", point=path.at(4))
    np.testing.assert_allclose(estimate, latents[5], atol=1e-5)


@pytest.mark.parametrize("name", ["DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"])
def test_a_scheduler_that_runs_from_data_to_noise_is_refused_in_words(name):
    with pytest.raises(InputError, match=f"{name} goes from sigma .*, from data to noise: an inversion, not a generation"):
        refuse_inversion(on_host(ready(name)), 0)


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.filterwarnings("ignore")
def test_every_scheduler_that_generates_is_taken_for_one(name):
    refused = []
    try:
        refuse_inversion(on_host(ready(name)), 0)
    except InputError as error:
        refused.append(str(error))
    assert bool(refused) is ("Inverse" in name), refused


def test_the_final_level_is_the_next_steps_where_the_run_ends_before_the_table():
    scheduler = ready("DDIMScheduler")
    assert final_noise_level(scheduler, len(scheduler.timesteps)) == final_noise_level(scheduler)
    assert final_noise_level(scheduler, 2) == noise_level_at(scheduler, 2, float(scheduler.timesteps[2]))
