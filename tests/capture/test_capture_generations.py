"""Batches, pictures as start, guidance that ends or begins midway, several generations, threads, exceptions."""

import threading

import diffusers
import numpy as np
import pytest
import torch
from capture_sink import MemorySink, run
from plain_hooks import predicted, probe_named, seen, watched
from tiny_pipelines import build

from janoscope.capture import Capture
from janoscope.errors import InputError
from janoscope.grid import TokenGrid
from janoscope.workflows.bench.simulated import SimulatedPipeline, simulated_probe

SHORT = {"num_inference_steps": 3}


def test_items_of_a_batch_keep_apart():
    pipeline, call = build("sd3")
    sink = MemorySink()
    with watched(pipeline, ("transformer",)) as steps, Capture(pipeline, probe_named("sd3"), sink):
        run(pipeline, call, **SHORT, num_images_per_prompt=3)
    assert sink.only.about.items == 3
    halves = predicted(probe_named("sd3"), steps[1].calls[0]).chunk(2)  # uncond first
    for item in range(3):
        for half, branch in zip(halves, ("uncond", "cond"), strict=True):
            tokens = torch.nn.functional.unfold(half[item : item + 1], 2, stride=2)[0].T
            np.testing.assert_array_equal(sink.only.maps[1]["model_output", item, branch], tokens.numpy())
    assert not np.array_equal(sink.only.maps[1]["sample", 0, "guided"], sink.only.maps[1]["sample", 1, "guided"])


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_start_from_a_picture_counts_the_steps_that_are_made(strength):
    text, call = build("flux")
    pipeline = diffusers.FluxImg2ImgPipeline(**text.components)
    pipeline.set_progress_bar_config(disable=True)
    sink, probe = MemorySink(), probe_named("flux")
    call |= {"image": torch.rand(1, 3, call["height"], call["width"]), "strength": strength, "num_inference_steps": 6}
    with Capture(pipeline, probe, sink):
        run(pipeline, call)
    kept, made = sink.only, int(6 * strength)
    assert kept.about.steps == len(kept.maps) == made
    sigmas = pipeline.scheduler.sigmas[-made - 1 : -1].double().tolist()
    assert [facts.sigma for facts in kept.facts] == sigmas
    assert [facts.alpha for facts in kept.facts] == [1 - sigma for sigma in sigmas]


def test_a_start_from_a_picture_with_a_scheduler_that_has_no_begin_index():
    text, call = build("unet")
    parts = dict(text.components) | {"requires_safety_checker": False}
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    sink = MemorySink()
    size = {key: call.pop(key) for key in ("height", "width")}
    call |= {"image": torch.rand(1, 3, size["height"], size["width"]), "strength": 0.5, "num_inference_steps": 6}
    with Capture(pipeline, probe_named("unet"), sink):
        run(pipeline, call)
    assert sink.only.about.steps == len(sink.only.maps) == 3


def test_guidance_that_ends_early_leaves_cond_and_says_that_uncond_is_absent():
    pipeline, call = build("lumina2")
    sink = MemorySink()
    with watched(pipeline, ("transformer",)) as steps, Capture(pipeline, probe_named("lumina2"), sink):
        run(pipeline, call, num_inference_steps=4, cfg_trunc_ratio=0.5)
    calls = [len(step.calls) for step in steps]
    assert 1 in calls
    assert 2 in calls
    for index, step in enumerate(steps):
        branches = {branch for signal, _, branch in sink.only.maps[index] if signal == "model_output"}
        assert branches == ({"guided", "cond", "uncond"} if len(step.calls) == 2 else {"guided", "cond"})
        assert sink.only.facts[index].absent == (() if len(step.calls) == 2 else ("uncond",))
        assert ("uncond" in sink.only.facts[index].time_s) == (len(step.calls) == 2)
        cond = torch.nn.functional.unfold(-step.calls[0].returned[0], 2, stride=2)[0].T
        np.testing.assert_array_equal(sink.only.maps[index]["model_output", 0, "cond"], cond.numpy())


def test_guidance_that_begins_late_is_said_aloud_and_guided_stays_whole():
    pipeline, sink = SimulatedPipeline(TokenGrid(5, (1, 2, 3), (1, 1, 1))), MemorySink()
    with (
        Capture(pipeline, simulated_probe(), sink),
        pytest.warns(RuntimeWarning, match="guidance began at step 2, not .* only guided is recorded, not cond, uncond"),
    ):
        pipeline(5, guided=lambda step: step == 2)
    assert sink.only.about.branches == ("guided",)
    assert [set(maps) for maps in sink.only.maps] == [{("sample", 0, "guided"), ("model_output", 0, "guided")}] * 5


def test_every_generation_is_its_own():
    pipeline, _, call = seen("flux")
    sink = MemorySink()
    with Capture(pipeline, probe_named("flux"), sink):
        run(pipeline, call, num_inference_steps=3)
        run(pipeline, call, num_inference_steps=2, seed=1)
    assert [len(generation.maps) for generation in sink.generations] == [3, 2]
    assert [generation.ended for generation in sink.generations] == [True, True]
    firsts = [generation.maps[0]["sample", 0, "guided"] for generation in sink.generations]
    assert not np.array_equal(*firsts)


def test_two_pipelines_in_two_threads_do_not_mix():
    names, sinks, alone = ("flux", "wan"), {}, {}
    built = {name: build(name) for name in names}
    for name in names:
        alone[name] = recorded_alone(*built[name], name)
    barrier = threading.Barrier(2)

    def work(name: str) -> None:
        pipeline, call = built[name]
        sinks[name] = MemorySink()
        with Capture(pipeline, probe_named(name), sinks[name]):
            barrier.wait()
            run(pipeline, call)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert len(sinks[name].only.maps) == len(alone[name].maps)
        for one, other in zip(sinks[name].only.maps, alone[name].maps, strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key]) for key in one)


def recorded_alone(pipeline, call, name):
    sink = MemorySink()
    with Capture(pipeline, probe_named(name), sink):
        run(pipeline, call)
    return sink.only


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_an_exception_ends_the_generation_and_the_pipeline_is_as_before(error):
    pipeline, _, call = seen("flux")
    plain = run(pipeline, call, **SHORT).images
    sink = MemorySink()

    def fail(pipe, step, timestep, kwargs):
        if step == 1:
            raise error
        return kwargs

    with pytest.raises(type(error)), Capture(pipeline, probe_named("flux"), sink):
        run(pipeline, call, **SHORT, callback_on_step_end=fail)
    assert len(sink.only.maps) == 2
    assert sink.only.error is error
    assert "step" not in vars(pipeline.scheduler)
    assert not pipeline.transformer._forward_hooks
    assert torch.equal(run(pipeline, call, **SHORT).images, plain)


def test_a_sink_that_fails_leaves_no_hook_behind():
    class Broken(MemorySink):
        def commit(self, facts):
            raise InputError("no")

    pipeline, _, call = seen("flux")
    with pytest.raises(InputError), Capture(pipeline, probe_named("flux"), Broken()):
        run(pipeline, call, **SHORT)
    assert "step" not in vars(pipeline.scheduler)
    assert not pipeline.transformer._forward_hooks


def test_a_hook_of_someone_else_survives():
    pipeline, _, call = seen("flux")
    sink, theirs = MemorySink(), []
    capture = Capture(pipeline, probe_named("flux"), sink)
    ours = pipeline.scheduler.step
    pipeline.scheduler.step = lambda *args, **kwargs: theirs.append(1) or ours(*args, **kwargs)
    capture.remove()
    try:
        run(pipeline, call, **SHORT)
    finally:
        del pipeline.scheduler.step
    assert len(theirs) == 3
    assert sink.generations == []


def test_a_deep_copy_of_a_watched_scheduler_is_a_scheduler_of_its_own():
    import copy

    pipeline, _, _ = seen("flux")
    with Capture(pipeline, probe_named("flux"), MemorySink()):
        twin = copy.deepcopy(pipeline.scheduler)
        twin.set_timesteps(4)
        assert len(twin.timesteps) == 4
        assert len(pipeline.scheduler.timesteps) != 4
        assert twin.step.__self__ is twin


def test_the_wrong_scheduler_is_noticed_before_memory_fills():
    pipeline = pipeline_with_its_own_scheduler()
    with Capture(pipeline, simulated_probe(), MemorySink()), pytest.raises(InputError, match="samples with another scheduler"):
        pipeline(50)


def test_a_generation_without_a_step_is_an_error_when_the_capture_ends():
    pipeline = pipeline_with_its_own_scheduler()
    said = "8 network calls came without a step of FlowMatchEulerDiscreteScheduler"
    with pytest.raises(InputError, match=said), Capture(pipeline, simulated_probe(), MemorySink()):
        pipeline(4)
    with Capture(SimulatedPipeline(pipeline.grid), simulated_probe(), MemorySink()) as capture:
        assert capture.is_unused, "control: nothing was called, nothing is missing"
    with pytest.raises(ZeroDivisionError), Capture(pipeline, simulated_probe(), MemorySink()):
        raise (pipeline(4), ZeroDivisionError())[1]  # an error under way is not drawn over


def test_a_generation_that_was_broken_off_in_the_network_is_no_generation_without_a_step():
    pipeline = SimulatedPipeline(TokenGrid(5, (1, 2, 3), (1, 1, 1)))
    pipeline.transformer.outputs = []  # every call fails
    with Capture(pipeline, simulated_probe(), MemorySink()) as capture:
        with pytest.raises(ZeroDivisionError):
            pipeline(4)
        assert not capture.is_unused


def pipeline_with_its_own_scheduler():
    """A pipeline that samples with a scheduler that no attribute shows."""
    pipeline = SimulatedPipeline(TokenGrid(5, (1, 2, 3), (1, 1, 1)))
    shown, hidden = pipeline.scheduler, SimulatedPipeline(pipeline.grid)
    hidden.transformer, pipeline.scheduler = pipeline.transformer, shown

    class Own(SimulatedPipeline):
        def __call__(self, steps):
            return hidden(steps)

    pipeline.__class__ = Own
    return pipeline


def test_bfloat16_arrives_as_its_bits():
    pipeline = SimulatedPipeline(TokenGrid(5, (1, 2, 3), (1, 1, 1)), dtype=torch.bfloat16)
    sink = MemorySink()
    with Capture(pipeline, simulated_probe(), sink):
        pipeline(2, guided=lambda step: False)
    assert sink.only.dtypes == {"bfloat16"}
    bits = sink.only.maps[0]["model_output", 0, "guided"]
    assert bits.dtype == np.uint16
    np.testing.assert_array_equal(bits, pipeline.transformer.outputs[1][0].view(torch.uint16).numpy())
