"""What docs/limits.md and the probes' `limits` say of recording a family, each run; conditioned pipelines: in another file."""

import diffusers
import numpy as np
import pytest
import torch
from capture_sink import MemorySink, run
from plain_hooks import probe_named, watched
from tiny_pipelines import build
from tiny_transformers import NETWORKS, redraw_zeros

from janoscope.capture import Capture


def captured(name: str, pipeline, call, **changes) -> tuple:
    """(what a plain spy saw, what Capture kept)."""
    probe, sink = probe_named(name), MemorySink()
    with watched(pipeline, probe.tap.components) as steps, Capture(pipeline, probe, sink):
        run(pipeline, call, **changes)
    return steps, sink.only


def as_stepped(kept, step: int, latent: torch.Tensor) -> np.ndarray:
    """A kept guided prediction in the shape of the scheduler's."""
    values = kept.stacked(step, "model_output", "guided")
    return values if latent.ndim == 3 else kept.about.grid.unpack(values).reshape(latent.shape)


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [("flux", "FlowMatchHeunDiscreteScheduler"), ("unet", "HeunDiscreteScheduler"), ("unet", "KDPM2DiscreteScheduler")],
)
@pytest.mark.filterwarnings("ignore")
def test_both_steps_of_a_second_order_scheduler_are_recorded(name, scheduler):
    pipeline, call = build(name)
    pipeline.scheduler = getattr(diffusers, scheduler)()
    if name == "flux":
        pipeline.scheduler.set_timesteps = without_sigmas(pipeline.scheduler)
    steps, kept = captured(name, pipeline, call, num_inference_steps=3)
    assert len(steps) == len(kept.maps) == kept.about.steps == 5
    for index, step in enumerate(steps):
        np.testing.assert_array_equal(as_stepped(kept, index, step.prediction), step.prediction.numpy())
    sigma = [facts.sigma for facts in kept.facts]
    assert sigma[0] > sigma[-1] > 0
    assert (np.diff(sigma) <= 0).all()


def without_sigmas(scheduler):
    """Flux hands its sigmas over, which this scheduler does not take; the schedule is its own then."""

    def set_timesteps(num_inference_steps=None, device=None, sigmas=None, mu=None):
        return type(scheduler).set_timesteps(scheduler, num_inference_steps or len(sigmas), device)

    return set_timesteps


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sdxl", {"guidance_rescale": 0.7}),
        ("lumina2", {"cfg_normalization": True}),
        ("qwen-image", {}),
        ("z-image", {"cfg_normalization": True}),
    ],
)
def test_guided_is_what_the_sampler_was_given_where_the_pipeline_rescales_it(name, changes):
    pipeline, call = build(name)
    steps, kept = captured(name, pipeline, call, num_inference_steps=3, **changes)
    for index, step in enumerate(steps):
        np.testing.assert_array_equal(as_stepped(kept, index, step.prediction), step.prediction.numpy())
    if name != "z-image":  # whose rescaling only bounds a norm that this run does not reach
        scale = call.get("true_cfg_scale", call.get("guidance_scale"))
        guided, cond, uncond = (kept.stacked(1, "model_output", branch) for branch in ("guided", "cond", "uncond"))
        linear = uncond + scale * (cond - uncond)
        rounding = 1e-6 * np.abs(linear).max()
        assert np.abs(guided - linear).max() > 10 * rounding, "control: it is rescaled"


def test_z_image_guides_at_any_scale_above_0():
    pipeline, call = build("z-image")
    _, kept = captured("z-image", pipeline, call, num_inference_steps=3, guidance_scale=0.5)
    guided, cond, uncond = (kept.stacked(1, "model_output", branch) for branch in ("guided", "cond", "uncond"))
    np.testing.assert_allclose(guided, cond + 0.5 * (cond - uncond), rtol=1e-4, atol=1e-5)
    _, kept = captured("z-image", pipeline, call, num_inference_steps=3, guidance_scale=0.0)
    assert kept.about.branches == ("guided",)


def test_the_third_call_of_skip_layer_guidance_is_no_branch():
    pipeline, call = build("sd3")
    skip = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    steps, kept = captured("sd3", pipeline, call, num_inference_steps=3, **skip)
    assert {len(step.calls) for step in steps} >= {2}, "control: there was another call"
    assert set(kept.about.branches) == {"guided", "cond", "uncond"}
    uncond, cond = steps[1].calls[0].returned[0].chunk(2)
    for branch, output in (("uncond", uncond), ("cond", cond)):
        values = kept.about.grid.unpack(kept.stacked(1, "model_output", branch))[:, :, 0]
        np.testing.assert_array_equal(values, output.numpy())


def test_the_grid_is_the_latents_where_pixart_bins_resolutions():
    pipeline, call = build("pixart")
    name, config = NETWORKS["pixart"]
    pipeline.transformer = redraw_zeros(getattr(diffusers, name)(**config | {"sample_size": 32}))
    steps, kept = captured("pixart", pipeline, call, num_inference_steps=2, use_resolution_binning=True)
    rows, cols = steps[0].sample.shape[2:]
    assert kept.about.grid.cells == (1, rows, cols)
    assert (8 * rows, 8 * cols) != (call["height"], call["width"]), "control: another size than was asked for"


def test_the_grid_is_the_latents_where_hidream_rescales_the_size():
    pipeline, call = build("hidream")
    steps, kept = captured("hidream", pipeline, call, num_inference_steps=2, height=64, width=64)
    rows, cols = steps[0].sample.shape[2:]
    assert kept.about.grid.cells == (1, rows, cols)
    assert 8 * rows > 64, "control: another size than was asked for"


def test_the_frames_that_cogvideox_1_5_pads_are_recorded():
    pipeline, call = build("cogvideox-1.5")
    steps, kept = captured("cogvideox", pipeline, call, num_inference_steps=2)
    asked = (call["num_frames"] - 1) // 4 + 1
    assert kept.about.grid.cells[0] == steps[0].sample.shape[1] == asked + 1
