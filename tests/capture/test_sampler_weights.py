"""Weights read off a scheduler against a run of that scheduler, loop and all."""

import copy

import diffusers
import numpy as np
import pytest
import torch

from janoscope.capture.sampler_weights import sampler_weights
from janoscope.errors import ExecutionError
from janoscope.plan import coefficients

# diffusers hands torch tensors to NumPy functions
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
DETERMINISTIC = {
    "euler-flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "heun-flow": ("FlowMatchHeunDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddim-v": ("DDIMScheduler", {"clip_sample": False, "prediction_type": "v_prediction"}),
    "tcd-eta-0": ("TCDScheduler", {"clip_sample": False}),
    "dpm-1": ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "dpm-2": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "dpm-3": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpm-2-flow": ("DPMSolverMultistepScheduler", {"solver_order": 2, **FLOW}),
    "dpm-single": ("DPMSolverSinglestepScheduler", {"lower_order_final": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "unipc-flow": ("UniPCMultistepScheduler", {"flow_shift": 3.0, **FLOW}),
    "deis": ("DEISMultistepScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "pndm-plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "cogvideox-ddim": ("CogVideoXDDIMScheduler", {}),
    "cogvideox-dpm": ("CogVideoXDPMScheduler", {}),
}
CORRECTED = ["euler-flow", "ddim", "dpm-2-flow", "unipc-flow", "unipc", "dpm-3", "pndm-plms", "cogvideox-dpm"]
ARGUMENTS = {"tcd-eta-0": {"eta": 0.0}}


def scheduler_of(name: str, steps: int = 12) -> object:
    class_name, config = DETERMINISTIC[name]
    scheduler = getattr(diffusers, class_name)(**config)
    scheduler.set_timesteps(steps)
    return scheduler


def run(scheduler: object, outputs: torch.Tensor, sample: torch.Tensor, extra: dict[str, float]) -> torch.Tensor:
    """The sampler's own loop on given outputs, (step, ...)."""
    scheduler = copy.deepcopy(scheduler)
    generator, memory, before = torch.Generator().manual_seed(7), None, None
    for output, timestep in zip(outputs, scheduler.timesteps, strict=True):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, timestep)
        if type(scheduler).__name__ == "CogVideoXDPMScheduler":
            given = (output, memory, timestep, before, sample)
            sample, memory = scheduler.step(*given, generator=generator, return_dict=False)
            before = timestep
        else:
            sample = scheduler.step(output, timestep, sample, return_dict=False, **extra)[0]
    return sample


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_weights_are_those_of_the_samplers_own_loop(name):
    scheduler, draw = scheduler_of(name), torch.Generator().manual_seed(1)
    steps, extra = len(scheduler.timesteps), ARGUMENTS.get(name, {})
    weights = sampler_weights(scheduler, extra)
    assert weights.shape == (steps,)
    outputs = torch.randn(steps, 1, 3, 4, 4, generator=draw)
    sample = torch.randn(1, 3, 4, 4, generator=draw)
    moved = outputs + 0.1 * torch.randn(outputs.shape, generator=draw)
    change = run(scheduler, moved, sample, extra) - run(scheduler, outputs, sample, extra)
    expected = (torch.from_numpy(weights).float()[:, None, None, None, None] * (moved - outputs)).sum(0)
    size = float(change.abs().max())
    torch.testing.assert_close(expected, change, atol=2e-3 * size, rtol=0)
    wrong = torch.roll(torch.from_numpy(weights).float(), 1)[:, None, None, None, None]
    assert float(((wrong * (moved - outputs)).sum(0) - change).abs().max()) > 0.05 * size


@pytest.mark.parametrize("name", CORRECTED)
def test_a_corrected_run_of_the_sampler_ends_where_the_better_line_leads(name):
    """Outputs that do not depend on the sample: what is handed over at the computed steps makes good for all skipped ones."""
    scheduler, draw = scheduler_of(name), np.random.default_rng(2)
    steps = len(scheduler.timesteps)
    weights = sampler_weights(scheduler)
    # PNDM's last step moves nothing, so it can make nothing good
    coordinate, computed = np.linspace(1, 0, steps), [0, 1, 3, 6, 8, int(np.flatnonzero(weights)[-1])]
    values = np.sin(3 * coordinate[:, None] + draw.uniform(0, 6, 8))
    better = values.copy()
    better[computed[-1] + 1 :] = coefficients.forecast(computed, coordinate).handed[computed[-1] + 1 :] @ values
    for gap in coefficients.gaps(computed):
        better[gap[0] + 1 : gap[1]] = coefficients.between(coordinate, gap) @ values

    def final(outputs: np.ndarray) -> np.ndarray:
        shaped = torch.from_numpy(outputs).float().reshape(steps, 1, 2, 2, 2)
        return run(scheduler, shaped, torch.ones(1, 2, 2, 2), {}).numpy().ravel()

    corrected = coefficients.corrected(computed, coordinate, weights)
    forecast = coefficients.forecast(computed, coordinate)
    expected, scale = final(better), np.abs(final(better)).max()
    np.testing.assert_allclose(final(corrected.handed @ values), expected, atol=2e-4 * scale)
    assert np.abs(final(forecast.handed @ values) - expected).max() > 2e-3 * scale


@pytest.mark.parametrize(
    ("class_name", "config", "extra", "reason"),
    [
        ("DDPMScheduler", {"clip_sample": False}, {}, "adds noise"),
        ("EulerAncestralDiscreteScheduler", {}, {}, "adds noise"),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, {}, "adds noise"),
        ("LCMScheduler", {"clip_sample": False}, {}, "adds noise"),
        ("DDIMScheduler", {"clip_sample": False}, {"eta": 0.5}, "adds noise"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, {}, "adds noise"),
        ("DDIMScheduler", {"clip_sample": True}, {}, "not linear"),
        ("DDIMScheduler", {"clip_sample": False, "thresholding": True}, {}, "not linear"),
        ("DPMSolverMultistepScheduler", {"thresholding": True}, {}, "not linear"),
    ],
)
def test_noise_and_thresholding_are_refused_by_name(class_name, config, extra, reason):
    scheduler = getattr(diffusers, class_name)(**config)
    scheduler.set_timesteps(8)
    with pytest.raises(ExecutionError, match=f"{class_name}.*{reason}"):
        sampler_weights(scheduler, extra)


def test_the_scheduler_and_the_random_state_are_not_touched():
    scheduler = scheduler_of("unipc-flow")
    before, state = copy.deepcopy(vars(scheduler)), torch.get_rng_state()
    sampler_weights(scheduler)
    assert torch.equal(state, torch.get_rng_state())
    assert str(vars(scheduler)) == str(before)


def test_a_run_that_starts_from_an_image_has_the_weights_of_its_own_steps():
    scheduler = scheduler_of("euler-flow")
    whole = sampler_weights(scheduler)
    scheduler.set_begin_index(4)
    np.testing.assert_allclose(sampler_weights(scheduler), whole[4:], atol=1e-6)
