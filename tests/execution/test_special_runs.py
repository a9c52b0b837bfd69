"""Runs that are not one picture by one pipeline: batches, pictures as starting points, two pipelines, what is refused."""

from functools import partial

import diffusers
import numpy as np
import pytest
import torch
from generations import TWO_PASSES, Tiny, generate, policy
from tiny_transformers import COLS, ROWS

from janoscope.capture import Capture
from janoscope.errors import ExecutionError, InputError
from janoscope.execution import Executor, generation_facts
from janoscope.execution import executor as executor_module
from janoscope.execution.refusal import refuse_compiled
from janoscope.plan import PolicySelector, highest


@pytest.fixture(scope="module")
def flux():
    return Tiny("flux")


def test_items_of_a_batch_share_the_highest_level_of_each_token(flux):
    """Each item's own plan is that of a batch of twice the same noise."""
    draws = torch.randn(2, ROWS * COLS, 16, generator=torch.Generator().manual_seed(0))
    single = [flux.run(policy(), latents=draw[None])[1].plan.ranks for draw in draws]
    _, both = flux.run(policy(), latents=draws, num_images_per_prompt=2)
    assert (single[0] != single[1]).any(), "else the highest would be either"
    np.testing.assert_array_equal(both.plan.ranks, highest(single))


def test_an_item_of_a_batch_equals_itself_alone_where_the_mask_is_the_same(flux):
    draw = torch.randn(1, ROWS * COLS, 16, generator=torch.Generator().manual_seed(0))
    alone, executor = flux.run(policy(), latents=draw)
    plan = executor.plan
    with flux.executor(policy()) as again:
        both = flux.pipe(**flux.call | {"num_inference_steps": 8}, latents=draw.repeat(2, 1, 1), num_images_per_prompt=2).images
    assert again.plan.token_level == plan.token_level
    torch.testing.assert_close(both, alone[None].repeat(2, 1, 1) if alone.ndim == 2 else alone.repeat(2, 1, 1), rtol=0, atol=1e-4)


def test_two_guidance_passes_a_step_are_accounted_for_and_cached_apart(flux):
    _, one = flux.run(policy())
    _, two = flux.run(policy(), **TWO_PASSES["flux"])
    assert {step.calls for step in two.summary.steps} == {2}
    assert two.summary.cache_bytes == 2 * one.summary.cache_bytes
    assert two.summary.compute == pytest.approx(one.summary.compute)


def _with_guidance_until_step_2(tiny, used):
    """A generation of Stable Diffusion 3 that drops the unconditional half of the batch after three steps."""
    tiny.pipe._guidance_scale = 5.0

    def end_guidance(pipe, step, timestep, kwargs):
        if step == 2:
            pipe._guidance_scale = 0.0
            for name in ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"):
                if name in kwargs:
                    kwargs[name] = kwargs[name][-1:]
        return kwargs

    names = ["prompt_embeds", "pooled_prompt_embeds"]
    more = {"callback_on_step_end": end_guidance, "callback_on_step_end_tensor_inputs": names}
    return tiny.run(used, **more)


def test_guidance_that_ends_midway_goes_on_with_one_branch():
    """What is stored no longer fits, so all is refreshed."""
    output, executor = _with_guidance_until_step_2(Tiny("sd3"), policy())
    assert [step.step for step in executor.summary.steps if step.forced] == [3]
    assert output.isfinite().all()


def test_compute_is_against_the_calls_that_a_full_run_makes_too():
    """Nothing is skipped, so nothing is saved, though five of eight steps cost half as much as the first."""
    _, executor = _with_guidance_until_step_2(Tiny("sd3"), policy(intervals={"static": 1, "moderate": 1, "active": 1}))
    account = executor.summary
    assert account.compute == 1.0
    assert [step.flops for step in account.steps] == [step.full_flops for step in account.steps]
    by_the_first_step = sum(step.flops for step in account.steps) / (len(account.steps) * account.steps[0].flops)
    assert by_the_first_step < 0.9, "control: measured by the first step, the end of guidance counts as saved"
    _, some = _with_guidance_until_step_2(Tiny("sd3"), policy(intervals={"static": 3, "moderate": 3, "active": 3}))
    reused = [step for step in some.summary.steps if step.flops == 0]
    assert reused
    assert {step.full_flops for step in reused} == {some.summary.steps[-1].full_flops}
    assert some.summary.compute < 1


def test_two_pipelines_at_once_know_nothing_of_each_other(flux):
    other = Tiny("sd3")
    alone = flux.run(policy())[0], other.run(policy())[0]
    with flux.executor(policy()), other.executor(policy()):
        together = generate(flux.pipe, flux.call), generate(other.pipe, other.call)
    assert torch.equal(together[0], alone[0])
    assert torch.equal(together[1], alone[1])


def test_a_second_transformer_begins_with_a_refresh_of_its_own():
    tiny = Tiny("wan2.2")
    _, executor = tiny.run(policy())
    assert [step.step for step in executor.summary.steps if step.forced] == [3]
    with tiny.executor(policy(intervals={"static": 3, "moderate": 3, "active": 3})) as executor:
        generate(tiny.pipe, tiny.call)
    assert [(step.kind, step.forced) for step in executor.summary.steps][2:4] == [("refresh", False), ("reuse", True)]


def test_a_run_from_a_picture_counts_its_own_steps(flux):
    pipe = diffusers.FluxImg2ImgPipeline(**flux.pipe.components)
    pipe.set_progress_bar_config(disable=True)
    call = {key: value for key, value in flux.call.items() if key != "num_inference_steps"}
    call |= {"image": torch.rand(1, 3, 16 * ROWS, 16 * COLS), "strength": 0.8}
    plain = generate(pipe, call, num_inference_steps=10)
    with Executor(pipe, flux.probe, policy=policy(intervals={"static": 1, "moderate": 1})) as executor:
        assert torch.equal(generate(pipe, call, num_inference_steps=10), plain)
    assert len(executor.summary.steps) == 8
    with Executor(pipe, flux.probe, policy=policy()) as executor:
        skipped = generate(pipe, call, num_inference_steps=10)
    assert executor.summary.kinds[-1] == "cooldown"
    assert (skipped - plain).abs().max() > 1e-4


def _from_a_clip():
    tiny = Tiny("cogvideox")
    pipe = diffusers.CogVideoXVideoToVideoPipeline(**tiny.pipe.components)
    pipe.set_progress_bar_config(disable=True)
    call = {key: value for key, value in tiny.call.items() if key not in ("num_inference_steps", "num_frames")}
    size = tiny.call["num_frames"], 3, tiny.call["height"], tiny.call["width"]
    call |= {"video": torch.rand(1, *size, generator=torch.Generator().manual_seed(0)), "strength": 0.8}
    with Executor(pipe, tiny.probe, policy=policy()) as executor:
        generate(pipe, call, num_inference_steps=10)
    return executor


def test_a_run_from_a_clip_counts_its_own_steps_though_its_scheduler_does_not(monkeypatch):
    """DDIM has no begin_index: only the first timestep says that two steps are left out."""
    given = []
    watched = lambda *arguments: given.append(arguments[3]) or PolicySelector(*arguments)
    monkeypatch.setattr(executor_module, "PolicySelector", watched)
    executor = _from_a_clip()
    assert (len(executor.summary.steps), executor.plan.fingerprint.steps) == (8, 8)
    assert executor.summary.kinds[-1] == "cooldown"
    right = given[0]
    monkeypatch.setattr(generation_facts, "_timestep", lambda arguments: None)
    wrong = _from_a_clip()
    assert wrong.plan.fingerprint.steps == 10, "control: without the timestep the run ends before its cool-down"
    assert wrong.summary.kinds[-1] != "cooldown"
    assert [getattr(given[1], name)[2:].tolist() for name in ("timestep", "alpha", "sigma")] == [
        getattr(right, name).tolist() for name in ("timestep", "alpha", "sigma")
    ], "the warm-up's noise levels are those of the steps made"


def test_the_executor_and_a_recorder_work_one_over_the_other(flux):
    """The recorder sees what the pipeline sees: the executor's outputs."""
    expected, _ = flux.run(policy())

    class Steps:
        committed = 0

        def begin(self, generation):
            self.steps = generation.steps

        def put(self, signal, values, **where):
            assert np.isfinite(values).all()

        def commit(self, facts):
            self.committed += 1

        def end(self, error):
            assert error is None

    for inner_first in (True, False):
        sink = Steps()
        makers = [partial(flux.executor, policy()), partial(Capture, flux.pipe, flux.probe, sink)]
        first, second = makers if inner_first else makers[::-1]
        before = flux.attributes()
        with first(), second():
            assert torch.equal(generate(flux.pipe, flux.call), expected)
        assert sink.committed == sink.steps == 8
        assert flux.attributes() == before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("family", ["flux", "sd3", "wan"])
def test_fused_projections_are_served_like_separate_ones(family, when):
    tiny = Tiny(family)
    expected, _ = tiny.run(policy())
    if when == "before":
        tiny.pipe.transformer.fuse_qkv_projections()
    with tiny.executor(policy()):
        if when == "after":
            tiny.pipe.transformer.fuse_qkv_projections()
        fused = generate(tiny.pipe, tiny.call)
    torch.testing.assert_close(fused, expected, rtol=0, atol=2e-4)


def test_weights_that_are_fetched_block_by_block_work(flux):
    """Sequential offload, as far as a machine without an accelerator can show it: weights live elsewhere between calls."""
    import accelerate

    tiny = Tiny("flux")
    expected, _ = tiny.run(policy())
    accelerate.cpu_offload(tiny.pipe.transformer, execution_device=torch.device("cpu"))
    assert next(tiny.pipe.transformer.parameters()).device.type == "meta"
    output, executor = tiny.run(policy())
    assert torch.equal(output, expected)
    assert tiny.run(policy())[1].summary.to_json() == executor.summary.to_json()


@pytest.mark.parametrize("family", ["flux", "wan", "sd3"])
def test_compiled_blocks_give_the_same_and_a_compiled_whole_is_refused(family):
    tiny = Tiny(family)
    expected, _ = tiny.run(policy())
    for name in tiny.probe.execution.blocks:
        for block in tiny.pipe.transformer.get_submodule(name):
            block.compile(backend="eager")
    output, _ = tiny.run(policy())
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    tiny.pipe.transformer.compile(backend="eager")
    with pytest.raises(ExecutionError, match="compiled as a whole"):
        tiny.executor(policy())
    wrapped = torch.compile(Tiny(family).pipe.transformer, backend="eager")  # the other way to compile, a module around it
    with pytest.raises(ExecutionError, match="transformer is compiled as a whole"):
        refuse_compiled("transformer", wrapped)


def test_another_attention_backend_is_refused_by_name(flux):
    tiny = Tiny("flux")
    tiny.pipe.transformer.transformer_blocks[1].attn.set_processor(_Opaque())
    with pytest.raises(ExecutionError, match=r"transformer\.transformer_blocks\.1\.attn was served .* 0 times.*_Opaque"):
        tiny.run(policy())
    assert "forward" not in vars(tiny.pipe.transformer)


class _Opaque:
    """An attention that torch's scaled_dot_product_attention never sees."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        return hidden_states, encoder_hidden_states


@pytest.mark.parametrize("argument", ["controlnet_block_samples", "controlnet_single_block_samples"])
def test_controlnet_residuals_are_refused(flux, argument):
    with flux.executor(policy()):
        flux.pipe.scheduler.set_timesteps(4)
        with pytest.raises(ExecutionError, match=argument):
            flux.pipe.transformer(hidden_states=torch.zeros(1, ROWS * COLS, 16), **{argument: [torch.zeros(1)]})


def test_a_timestep_for_every_token_is_refused():
    tiny = Tiny("wan")
    tiny.pipe.register_to_config(expand_timesteps=True)  # as in Wan2.2-TI2V-5B
    with pytest.raises(ExecutionError, match="every token its own timestep"):
        tiny.run(policy())


def test_reference_pictures_behind_the_picture_are_refused(flux):
    ids = torch.zeros(2 * ROWS * COLS, 3)
    ids[:, 0] = torch.arange(2).repeat_interleave(ROWS * COLS)
    ids[:, 1], ids[:, 2] = torch.arange(ROWS).repeat_interleave(COLS).repeat(2), torch.arange(COLS).repeat(2 * ROWS)
    with flux.executor(policy()):
        flux.pipe.scheduler.set_timesteps(4)
        with pytest.raises(ExecutionError, match=r"154 tokens for a picture of 77"):
            flux.pipe.transformer(hidden_states=torch.zeros(1, 2 * ROWS * COLS, 16), img_ids=ids)


def test_gradients_are_refused():
    """A loop of one's own without no_grad: the first partial step, at 3, stops it."""
    tiny = Tiny("dit")

    def one_step(step):
        latent = torch.zeros(1, 4, 14, 14)
        output = tiny.pipe.transformer(latent, timestep=torch.tensor([500]), class_labels=torch.tensor([1])).sample
        tiny.pipe.scheduler.step(output[:, :4], tiny.pipe.scheduler.timesteps[step], latent)

    with tiny.executor(policy(map="random")):
        tiny.pipe.scheduler.set_timesteps(8)
        for step in range(3):
            one_step(step)
        with pytest.raises(ExecutionError, match="no_grad"):
            one_step(3)


def test_a_family_without_execution_is_refused():
    tiny = Tiny("latte")
    with pytest.raises(ExecutionError, match="not executed"):
        tiny.executor(policy())


def test_policy_plan_and_selector_exclude_each_other(flux):
    with pytest.raises(InputError, match="one of the three"):
        flux.executor(policy(), selector=lambda steps, grid: None)
    with pytest.raises(InputError, match="one of the three"):
        flux.executor()


def test_a_plan_for_another_schedule_is_refused_before_anything_is_computed(flux):
    _, executor = flux.run(policy())
    with pytest.raises(InputError, match="steps"):
        flux.run(plan=executor.plan, num_inference_steps=9)


def test_non_finite_predictions_are_counted(flux):
    tiny = Tiny("flux")
    with torch.no_grad():
        tiny.pipe.transformer.proj_out.bias[0] = float("nan")
    with tiny.executor(policy(map="random")) as executor:
        generate(tiny.pipe, tiny.call)
    assert executor.summary.nonfinite == ROWS * COLS + 7 * ROWS * COLS * 16, "one channel at first, then everything it has met"
    assert "non-finite" in str(executor.summary)
