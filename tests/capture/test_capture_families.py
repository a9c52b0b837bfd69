"""Every family through a tiny pipeline of its real class: what a Capture gives is what plain hooks saw, value for value.

The tokens are cut out of the latents here with torch's own unfold, not with janoscope's grid.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from capture_sink import MemorySink, run
from plain_hooks import GUIDED as BOTH_BRANCHES
from plain_hooks import Step, predicted, probe_named, seen
from tiny_pipelines import FAMILIES, VARIANTS

from janoscope.capture import Capture
from janoscope.probe import Probe

NAMES = (*FAMILIES, *VARIANTS)
LEARNED = {"latte", "pixart", "dit"}
UNGUIDED = {"flux2"}  # distilled: one call
NORMED = {"qwen-image"}  # guided is rescaled to the norm of cond
EXTRAPOLATED = {"z-image"}  # cond + scale (cond - uncond), everywhere else uncond + scale (cond - uncond)


def cut(latent: torch.Tensor, sheet: Probe, config) -> torch.Tensor:
    """(item, token, channel) of a latent in the family's layout."""
    if latent.ndim == 3:
        return latent
    if sheet.tokens.layout == "BFCHW" and latent.ndim == 5:
        latent = latent.movedim(1, 2)
    latent = latent[:, :, None] if latent.ndim == 4 else latent
    for axis, size in enumerate(sheet.tokens.patch_of(config), start=2):
        latent = latent.unfold(axis, size, size)
    return latent.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(1, 3).flatten(2)


def expected(sheet: Probe, step: Step, config) -> dict[tuple[str, str], torch.Tensor]:
    """What a step must give, by signal and branch."""
    guided, sample = step.prediction, step.sample
    if sheet.guidance.stacked_step:
        guided, sample = guided.chunk(2)[0], sample.chunk(2)[0]
    names, outputs = sheet.guidance.branches, [predicted(sheet, call) for call in step.calls]
    if len(outputs) == 1 and len(outputs[0]) == 2 * len(guided):
        outputs = list(outputs[0].chunk(2))
    branches = dict(zip(names, outputs, strict=False)) if len(outputs) > 1 else {"guided": outputs[0]}
    found = {("sample", "guided"): cut(sample, sheet, config), ("model_output", "guided"): cut(guided, sheet, config)}
    for name, output in branches.items():
        axis = 2 if sheet.tokens.layout == "BFCHW" else 1
        if output.ndim > 3 and output.shape[axis] == 2 * sample.shape[axis]:
            output, variance = output.chunk(2, dim=axis)
            found["predicted_variance", name] = cut(variance, sheet, config)
        if name != "guided":
            found["model_output", name] = cut(output * sheet.output.sign, sheet, config)
    return found


def captured(name: str) -> tuple:
    """(probe, plain steps, what Capture kept of a second run with the same seed, network config, call)."""
    pipeline, steps, call = seen(name, guided=True)
    sheet, sink = probe_named(name), MemorySink()
    with Capture(pipeline, sheet, sink):
        run(pipeline, call, num_inference_steps=3)
    return sheet, steps, sink.only, getattr(pipeline, sheet.tap.components[0]).config, call


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_what_a_plain_hook_saw(name):
    sheet, steps, kept, config, call = captured(name)
    assert kept.ended
    assert len(kept.maps) == len(steps) == kept.about.steps == 3
    for index, step in enumerate(steps):
        wanted = expected(sheet, step, config)
        assert {(signal, branch) for signal, _, branch in kept.maps[index]} == set(wanted)
        for (signal, branch), tokens in wanted.items():
            values = kept.stacked(index, signal, branch)
            np.testing.assert_array_equal(values, tokens.numpy()[:, : values.shape[1]])
            assert tokens.shape[1] == values.shape[1] == kept.about.grid.count
        facts = kept.facts[index]
        assert np.isfinite([facts.timestep, facts.alpha, facts.sigma]).all()
        assert facts.time_s["guided"] > 0
        assert facts.absent == ()
    has_variance = any(signal == "predicted_variance" for signal, _, _ in kept.maps[0])
    assert has_variance == (name in LEARNED)
    assert set(kept.about.branches) == ({"guided"} if name in UNGUIDED else {"guided", "cond", "uncond"})
    scale = call.get("true_cfg_scale", call.get("guidance_scale"))
    if name not in UNGUIDED | NORMED:
        check_guidance_law(kept, scale + (name in EXTRAPOLATED))


def check_guidance_law(kept, scale: float) -> None:
    for step in range(len(kept.maps)):
        guided, cond, uncond = (kept.stacked(step, "model_output", branch) for branch in ("guided", "cond", "uncond"))
        np.testing.assert_allclose(guided, uncond + scale * (cond - uncond), rtol=1e-4, atol=1e-4 * np.abs(guided).max())
        assert np.abs(cond - uncond).max() > 0, "branches that agree show nothing"


@pytest.mark.parametrize("lie", ["branches", "sign", "patch"])
def test_control_a_probe_that_lies_is_seen(lie):
    from dataclasses import replace

    pipeline, steps, call = seen("sd3", guided=True)
    sheet, sink = probe_named("sd3"), MemorySink()
    false = {
        "branches": replace(sheet, guidance=replace(sheet.guidance, branches=("cond", "uncond"), argument=None)),
        "sign": replace(sheet, output=replace(sheet.output, sign=-1)),
        "patch": replace(sheet, tokens=replace(sheet.tokens, patch_keys=(), patch=(1, 1, 1))),
    }[lie]
    noticed = pytest.warns(RuntimeWarning, match="guided is not uncond") if lie == "sign" else nullcontext()
    with noticed, Capture(pipeline, false, sink):
        run(pipeline, call, num_inference_steps=3)
    wanted = expected(sheet, steps[0], pipeline.transformer.config)
    wrong = [key for key, tokens in wanted.items() if not np.array_equal(sink.only.stacked(0, *key), tokens.numpy())]
    assert wrong, "the comparison of the main test would not have noticed"


def test_recording_changes_nothing_and_leaves_nothing_behind():
    pipeline, _, call = seen("wan2.2", guided=True)
    before = {name: (dict(vars(part)), len(part._forward_hooks)) for name, part in parts(pipeline).items()}
    plain = run(pipeline, call, num_inference_steps=3).frames
    with Capture(pipeline, probe_named("wan2.2"), MemorySink()):
        watched = run(pipeline, call, num_inference_steps=3).frames
        assert len(pipeline.transformer._forward_hooks) == 1
    after = run(pipeline, call, num_inference_steps=3).frames
    other = run(pipeline, call, seed=1, num_inference_steps=3).frames
    assert torch.equal(plain, watched)
    assert torch.equal(plain, after)
    assert not torch.equal(plain, other), "control: outputs that differ are told apart"
    for name, part in parts(pipeline).items():
        assert set(vars(part)) == set(before[name][0])
        assert len(part._forward_hooks) == before[name][1] == 0
        assert len(part._forward_pre_hooks) == 0
    assert "step" not in vars(pipeline.scheduler)
    assert "set_timesteps" not in vars(pipeline.scheduler)


def parts(pipeline) -> dict:
    return {name: getattr(pipeline, name) for name in ("transformer", "transformer_2")}


def test_both_transformers_of_wan_2_2_are_recorded():
    sheet, steps, kept, config, _ = captured("wan2.2")
    used = [step.calls[0].component for step in steps]
    assert set(used) == {"transformer", "transformer_2"}, "the run must cross the boundary"
    for index, step in enumerate(steps):
        wanted = expected(sheet, step, config)["model_output", "cond"]
        np.testing.assert_array_equal(kept.stacked(index, "model_output", "cond"), wanted.numpy())


def test_both_branches_of_every_guided_family_were_called():
    assert set(BOTH_BRANCHES) <= set(NAMES)
