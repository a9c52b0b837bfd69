"""Pipelines that are given pictures or step several: all that the sampler steps is recorded, or a sentence says why not."""

import diffusers
import numpy as np
import pytest
import torch
from capture_sink import MemorySink, run
from conditioned_pipelines import CASES, conditioned
from plain_hooks import predicted, probe_named, watched
from tiny_pipelines import build

from janoscope.capture import Capture
from janoscope.capture.layout import grid_of_call, own_output, to_tokens
from janoscope.errors import InputError
from janoscope.grid import TokenGrid

# tokens (frames, rows, cols) that the sampler steps
STEPPED = {
    "flux kontext": (1, 7, 11),
    "flux2 reference": (1, 7, 11),
    "flux2 kv, small reference": (1, 6, 4),
    "flux2 kv, large reference": (1, 6, 4),
    "qwen-image edit": (1, 7, 11),
    "qwen-image layered": (3, 3, 4),
    "visualcloze": (2, 3, 6),
    "ltx-video i2v": (2, 5, 7),
    "hunyuanvideo i2v, frame": (2, 5, 7),
    "hunyuanvideo i2v, channels": (3, 5, 7),
    "wan i2v": (3, 5, 7),
    "wan ti2v": (3, 5, 7),
    "cogvideox i2v": (3, 5, 7),
    "deepfloyd if": (1, 20, 28),
}
REFUSED = {
    "visualcloze, two sizes": r"steps 2 pictures of different sizes in one latent, 1x3x6 \+ 1x1x12 .* one grid",
    "ltx-video condition": "LTXConditionPipeline steps every token at a noise level of its own",
}
NORMED = {"qwen-image edit", "qwen-image layered"}  # guided is rescaled to the norm of cond


def captured(name: str) -> tuple:
    """(pipeline, probe, what a plain spy saw, what Capture kept)."""
    pipeline, call = conditioned(name)
    probe, sink = probe_named(CASES[name][0]), MemorySink()
    with watched(pipeline, probe.tap.components) as steps, Capture(pipeline, probe, sink):
        run(pipeline, call)
    return pipeline, call, probe, steps, sink.only


def cells(latent: torch.Tensor, layout: str) -> torch.Tensor:
    """(item, channel, frame, row, col)."""
    latent = latent[:, :, None] if latent.ndim == 4 else latent
    return latent.movedim(1, 2) if layout == "BFCHW" else latent


def test_every_case_is_recorded_or_refused():
    assert set(STEPPED) | set(REFUSED) == set(CASES)


@pytest.mark.parametrize("name", STEPPED)
def test_all_that_the_sampler_steps_is_recorded(name):
    _, call, probe, steps, kept = captured(name)
    grid = kept.about.grid
    assert grid.tokens == STEPPED[name]
    assert len(kept.maps) == len(steps) == kept.about.steps == 4
    for index, step in enumerate(steps):
        wanted = {"sample": step.sample, "model_output": step.prediction[:, : step.sample.shape[1]]}
        for signal, latent in wanted.items():
            values = kept.stacked(index, signal, "guided")
            if latent.ndim > 3:
                values, latent = grid.unpack(values), cells(latent, probe.tokens.layout)
            np.testing.assert_array_equal(values, latent.numpy())
    scale = call.get("true_cfg_scale", call.get("guidance_scale"))
    if "cond" in kept.about.branches and name not in NORMED:
        guided, cond, uncond = (kept.stacked(1, "model_output", branch) for branch in ("guided", "cond", "uncond"))
        np.testing.assert_allclose(guided, uncond + scale * (cond - uncond), rtol=1e-4, atol=1e-4 * np.abs(guided).max())
        assert np.abs(cond - uncond).max() > 0, "branches that agree show nothing"


@pytest.mark.parametrize("name", sorted(NORMED))
def test_reference_tokens_are_cut_from_the_networks_output(name):
    _, _, probe, steps, kept = captured(name)
    count = kept.about.grid.count
    output = predicted(probe, steps[1].calls[0])
    assert output.shape[1] > count, "control: the network gave more than the sampler steps"
    branch = "cond" if "cond" in kept.about.branches else "guided"
    np.testing.assert_array_equal(kept.stacked(1, "model_output", branch), output[:, :count].numpy())


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_recorded_is_refused_in_words(name):
    with pytest.raises(InputError, match=REFUSED[name]):
        captured(name)


def test_layers_are_the_frames_of_the_grid_in_their_order():
    pipeline, _, _, steps, kept = captured("qwen-image layered")
    theirs = pipeline._unpack_latents(steps[0].sample, 48, 64, 2, pipeline.vae_scale_factor)
    ours = kept.about.grid.unpack(kept.stacked(0, "sample", "guided"))
    np.testing.assert_array_equal(ours, theirs.numpy())
    assert not np.array_equal(ours, theirs.flip(2).numpy()), "control: layers differ"


def test_rows_of_pictures_are_the_frames_of_the_grid_in_their_order():
    pipeline, _, _, steps, kept = captured("visualcloze")
    theirs = pipeline._unpack_latents(steps[0].sample, [[[48, 48]] * 2] * 2, pipeline.vae_scale_factor)
    ours = kept.about.grid.unpack(kept.stacked(0, "sample", "guided"))
    np.testing.assert_array_equal(ours, torch.stack(theirs, dim=2).numpy())


def test_the_variance_that_a_sampler_is_stepped_with_is_kept_apart():
    _, _, probe, steps, kept = captured("deepfloyd if")
    for index, step in enumerate(steps):
        uncond, cond = predicted(probe, step.calls[0]).chunk(2)
        for branch, variance in (("guided", step.prediction), ("uncond", uncond), ("cond", cond)):
            values = kept.about.grid.unpack(kept.stacked(index, "predicted_variance", branch))
            np.testing.assert_array_equal(values, variance[:, 3:, None].numpy())


class WideUNet(diffusers.UNet2DConditionModel):
    """Puts a second picture beside the latent's, as DreamLite's subclass does."""

    def forward(self, *args, **kwargs):
        (output,) = super().forward(*args, **kwargs | {"return_dict": False})
        return (torch.cat([output, output], dim=3),)


def test_a_subclass_of_the_probes_network_with_another_latent_is_refused_in_words():
    pipeline, call = build("unet")
    pipeline.unet = WideUNet.from_config(pipeline.unet.config)
    with (
        pytest.raises(InputError, match=r"model_output of guided is \(4, 1, 7, 22\) .* 4 channels, \(1, 7, 11\) cells .* needs"),
        Capture(pipeline, probe_named("unet"), MemorySink()),
    ):
        run(pipeline, call)


class DeepUNet(diffusers.UNet2DConditionModel):
    """Gives more channels than the latent has, which the pipeline leaves out."""

    def forward(self, *args, **kwargs):
        (output,) = super().forward(*args, **kwargs | {"return_dict": False})
        return (torch.cat([output, output[:, :1]], dim=1),)


def test_channels_that_are_neither_prediction_nor_variance_are_refused_in_words():
    pipeline, call = build("unet")
    pipeline.unet = DeepUNet.from_config(pipeline.unet.config)
    with Capture(pipeline, probe_named("unet"), MemorySink()):
        watch = pipeline.scheduler.step
        pipeline.scheduler.step = lambda model_output, *args, **kwargs: watch(model_output[:, :4], *args, **kwargs)
        with pytest.raises(InputError, match=r"model_output of uncond is \(5, 1, 7, 11\)"):
            run(pipeline, call)


def arguments(*shapes: tuple[int, int, int], tokens: int) -> dict:
    return {"hidden_states": torch.zeros(1, tokens, 64), "img_shapes": [list(shapes)]}


@pytest.mark.parametrize("count", [5, 7, 13])
def test_a_count_known_twice_is_compared(count):
    told = arguments((1, 2, 3), (1, 2, 3), tokens=12)
    with pytest.raises(InputError, match=rf"the sampler steps {count} tokens, and the network was told of 1x2x3 \+ 1x2x3"):
        grid_of_call(probe_named("qwen-image"), {}, told, torch.zeros(1, count, 64))


def test_tokens_that_are_no_whole_picture_are_refused():
    ids = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0]])
    with pytest.raises(InputError, match="img_ids names 3 tokens on 2 rows and 2 cols"):
        grid_of_call(probe_named("flux"), {}, {"img_ids": ids, "hidden_states": torch.zeros(1, 3, 16)}, torch.zeros(1, 3, 16))


def test_an_argument_that_the_grid_is_read_from_and_that_is_missing_is_named():
    with pytest.raises(InputError, match="called without num_frames, width, from which the probe ltx-video"):
        grid_of_call(
            probe_named("ltx-video"), {"patch_size_t": 1, "patch_size": 1}, {"height": 3, "width": None}, torch.zeros(1, 6, 8)
        )


def test_the_samplers_own_tensors_are_never_cut():
    grid = TokenGrid(4, (1, 2, 4), (1, 2, 2))
    with pytest.raises(InputError, match=r"sample is \(3, 16\) \(tokens, channels\)"):
        to_tokens(torch.zeros(1, 3, 16), "packed", grid, "sample")
    own = own_output(torch.arange(3)[None, :, None].expand(1, 3, 16), probe_named("flux").tokens, grid)
    assert own[0, :, 0].tolist() == [0, 1]
    given = own_output(torch.arange(4)[None, :, None].expand(1, 4, 16), probe_named("ltx-video").tokens, grid)
    assert given[0, :, 0].tolist() == [2, 3]
