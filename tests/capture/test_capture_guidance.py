"""Branches are told by what the pipeline does, not by number alone, and guided is held against them at the first step."""

import warnings
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from capture_sink import MemorySink, run
from plain_hooks import probe_named, watched
from tiny_pipelines import build

from janoscope.capture import Capture
from janoscope.capture.branches import Seen, shares_of
from janoscope.capture.guidance import PipelineGuidance, check_guided
from janoscope.capture.watch import NetworkCall
from janoscope.errors import InputError


def perturbed_attention(**call):
    """What a Capture keeps of StableDiffusionPAGPipeline, and the network's plain calls."""
    text, given = build("unet")
    parts = dict(text.components) | {"requires_safety_checker": False}
    pipe = diffusers.StableDiffusionPAGPipeline(**parts, pag_applied_layers="up")
    pipe.set_progress_bar_config(disable=True)
    sink = MemorySink()
    with watched(pipe, ("unet",)) as steps, Capture(pipe, probe_named("unet"), sink):
        run(pipe, given | {"num_inference_steps": 3} | call)
    return sink.only, steps


def cells(output):
    return output.flatten(2).transpose(1, 2).numpy()


@pytest.mark.parametrize(
    ("scale", "pag", "rows"),
    [(1.0, 3.0, ["cond", None]), (5.0, 3.0, ["uncond", "cond", None]), (5.0, 0.0, ["uncond", "cond"]), (1.0, 0.0, ["guided"])],
)
def test_rows_of_perturbed_attention_are_no_branch(scale, pag, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # nothing is said of a guidance that is as it should be
        kept, steps = perturbed_attention(guidance_scale=scale, pag_scale=pag)
    assert kept.about.branches == tuple(dict.fromkeys(["guided", *(row for row in rows if row)]))
    for index, step in enumerate(steps):
        outputs = step.calls[0].returned[0].chunk(len(rows))
        for name, output in zip(rows, outputs, strict=True):
            if name:
                np.testing.assert_array_equal(kept.stacked(index, "model_output", name), cells(output))
        np.testing.assert_array_equal(kept.stacked(index, "model_output", "guided"), cells(step.prediction))
    assert len({output.sum().item() for output in outputs}) == len(rows), "rows that agree show nothing"


def test_rows_are_refused_where_the_pipeline_says_that_it_does_not_guide():
    guidance = probe_named("unet").guidance
    call = Seen(NetworkCall("unet", 0, {}, (torch.zeros(2, 4, 3, 5),), lambda: 0.0), {})
    with pytest.raises(InputError, match="2 rows for 1 items, and the pipeline says that it does not guide"):
        shares_of([call], guidance, 1, alone="guided", pipeline=PipelineGuidance(classifier_free=False))
    for says in (True, None):
        shares = shares_of([call], guidance, 1, alone="guided", pipeline=PipelineGuidance(classifier_free=says))
        assert [share.branch for share in shares] == ["uncond", "cond"]
    (alone,) = shares_of([call], guidance, 2, alone="guided", pipeline=PipelineGuidance(classifier_free=False))
    assert alone.branch == "guided"


def test_two_calls_a_step_are_not_named_by_their_order_where_one_is_stacked():
    pipe, call = build("unet")

    class Twice(type(pipe.unet)):
        """As CycleDiffusion and self-attention guidance do: a second call that is no branch."""

        def __call__(self, *args, **kwargs):
            super().__call__(*args, **kwargs)
            return super().__call__(*args, **kwargs)

    pipe.unet.__class__ = Twice
    said = "2 network calls in one step, with 2 and 2 rows for 1 items"
    with pytest.raises(InputError, match=said), Capture(pipe, probe_named("unet"), MemorySink()):
        run(pipe, call)


def test_a_kind_of_guidance_that_no_probe_knows_is_refused_by_name():
    pipe, call = build("sd3")
    pipe.__class__ = type("More", (type(pipe),), {"do_spatio_temporal_guidance": True})
    said = "do_spatio_temporal_guidance is on"
    with pytest.raises(InputError, match=said), Capture(pipe, probe_named("sd3"), MemorySink()):
        run(pipe, call)


@pytest.mark.parametrize("family", ["sd3", "wan", "z-image"])
def test_exchanged_branches_are_refused(family):
    pipe, call = build(family)
    probe = probe_named(family)
    exchanged = replace(probe, guidance=replace(probe.guidance, branches=probe.guidance.branches[::-1]))
    with pytest.raises(InputError, match="cond and uncond the wrong way round"), Capture(pipe, exchanged, MemorySink()):
        run(pipe, call)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with Capture(pipe, probe, MemorySink()):
            run(pipe, call)


def test_a_pipeline_that_rescales_its_guidance_is_told_in_one_line_and_recorded():
    pipe, call = build("sdxl")
    sink = MemorySink()
    with (
        pytest.warns(RuntimeWarning, match=r"guided is not uncond \+ 5 \(cond - uncond\) at the first step, off by") as told,
        Capture(pipe, probe_named("unet"), sink),
    ):
        run(pipe, call, guidance_rescale=0.7)
    assert sum("guided is" in str(one.message) for one in told) == 1
    assert len(sink.only.maps) == call["num_inference_steps"]


def test_a_scale_that_is_not_the_pipelines_is_told():
    generator = np.random.default_rng(0)
    cond, uncond = generator.normal(size=(2, 7, 3)).astype(np.float32)
    check_guided({"cond": cond, "uncond": uncond, "guided": uncond + 4 * (cond - uncond)}, 4.0, "float32")
    check_guided({"cond": cond, "uncond": cond, "guided": cond}, 4.0, "float32")  # nothing to tell
    with pytest.warns(RuntimeWarning, match=r"guided is uncond \+ 2\.5 \(cond - uncond\) at the first step, and the .* is 4\."):
        check_guided({"cond": cond, "uncond": uncond, "guided": uncond + 2.5 * (cond - uncond)}, 4.0, "float32")
