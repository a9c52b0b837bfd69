"""Probes against the real classes: plain hooks on tiny pipelines must see what every probe says.

Nothing of janoscope but the probe and the grid is used here. Each kind of check has a probe with a wrong fact as its control.
"""

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from plain_hooks import Step, channel_axis, predicted, probe_named, seen, tokens_of, watched
from tiny_pipelines import FAMILIES, VARIANTS, build
from tiny_transformers import TOKENS
from torch import nn
from torch.nn import functional

from janoscope.probe import Probe, find_probe

NAMES = (*FAMILIES, *VARIANTS)
CLIPS = ("wan", "wan2.2", "latte", "cogvideox", "hunyuanvideo", "ltx-video")
EXPECTED_TOKENS = {name: TOKENS["clip" if name in CLIPS else "image"] for name in NAMES}
# three latent frames padded to four, two to a token
EXPECTED_TOKENS |= {"dit": TOKENS["square"], "cogvideox-1.5": TOKENS["clip"] // 3 * 2}


def misnamed(probe: Probe, module: nn.Module, pipeline: Any) -> list[str]:
    """Names of the probe that the real classes do not have."""
    forward = inspect.signature(type(module).forward).parameters
    call = inspect.signature(type(pipeline).__call__).parameters
    guidance = probe.guidance
    parameters = [(name, forward) for name in (probe.tap.input, probe.tap.timestep, *guidance.extra_call)]
    parameters += [(name, call) for name in (guidance.argument, guidance.embedded_argument) if name]
    parameters += [
        (name, module.config) for name in (*probe.tokens.patch_keys, *([guidance.embedded_if] if guidance.embedded_if else []))
    ]
    if probe.tokens.grid != "shape":
        names = ("num_frames", "height", "width") if probe.tokens.grid == "arguments" else (probe.tokens.grid,)
        parameters += [(name, forward) for name in names]
    wrong = [name for name, where in parameters if name not in where]
    return wrong + (misnamed_hooks(probe, module) if probe.execution else [])


def misnamed_hooks(probe: Probe, module: nn.Module) -> list[str]:
    facts = probe.execution
    forward = inspect.signature(type(module).forward).parameters
    wrong = [name for name in facts.refuse if name not in forward]
    wrong += [name for name in facts.refuse_config if name not in module.config]
    wrong += [name for name in facts.blocks if not isinstance(getattr(module, name, None), nn.ModuleList)]
    wrong += [] if isinstance(getattr(module, facts.output, None), nn.Module) else [facts.output]
    blocks = [block for name in facts.blocks for block in getattr(module, name, ())]
    wrong += [name for name in facts.attention if not any(hasattr(block, name) for block in blocks)]
    wrong += ["attention"] * any(all(getattr(block, name, None) is None for name in facts.attention) for block in blocks)
    taken = [inspect.signature(type(block).forward).parameters for block in blocks]
    wrong += [facts.hidden] if any(facts.hidden not in names for names in taken) else []
    optional = [*facts.rotary, *([facts.squared_mask] if facts.squared_mask else [])]
    return wrong + [name for name in optional if not any(name in names for names in taken)]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_probe_exists(name):
    pipeline, _, _ = seen(name)
    module = getattr(pipeline, probe_named(name).tap.components[0])
    probe = find_probe(base.__name__ for base in type(module).__mro__)
    assert probe.family == VARIANTS.get(name, name)
    assert misnamed(probe, module, pipeline) == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("tap", "input", "hidden_state"),
        ("tap", "timestep", "timesteps"),
        ("tokens", "grid", "img_shapes"),
        ("guidance", "argument", "cfg_scale"),
        ("guidance", "embedded_if", "guidance_embed"),
        ("guidance", "extra_call", ("skip_layer",)),
        ("execution", "blocks", ("transformer_block",)),
        ("execution", "attention", ("attn", "attn9")),
        ("execution", "hidden", "hidden_state"),
        ("execution", "rotary", ("rotary_emb",)),
        ("execution", "output", "proj_in"),
        ("execution", "squared_mask", "attention_masks"),
        ("execution", "refuse", ("controlnet",)),
        ("execution", "refuse_config", ("zero_cond_t",)),
    ],
)
def test_a_misspelt_name_is_caught(section, key, value):
    pipeline, _, _ = seen("flux")
    probe = probe_named("flux")
    wrong = replace(probe, **{section: replace(getattr(probe, section), **{key: value})})
    expected = value[-1] if isinstance(value, tuple) else value
    assert expected in misnamed(wrong, pipeline.transformer, pipeline)
    assert misnamed(probe, pipeline.transformer, pipeline) == []


# -- what passes through the network ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_x_t_and_prediction_have_the_declared_layout(name):
    _, steps, _ = seen(name)
    probe = probe_named(name)
    rank = {"packed": 3, "BCHW": 4, "BCFHW": 5, "BFCHW": 5, "list": 5}[probe.tokens.layout]
    for step in steps:
        for call in step.calls:
            x = call.arguments[probe.tap.input]
            assert isinstance(x, list) == (probe.tokens.layout == "list")
            assert isinstance(call.returned, tuple) == (probe.output.returns == "tuple")
            x = torch.stack(x) if isinstance(x, list) else x
            assert x.ndim == rank
            expected = list(x.shape)
            expected[channel_axis(probe)] *= 2 if probe.output.learned_variance == "second-half" else 1
            assert list(predicted(probe, call).shape) == expected
            assert torch.as_tensor(call.arguments[probe.tap.timestep]).ndim < 2


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_the_probe_are_those_of_the_latent(name):
    pipeline, steps, _ = seen(name)
    probe = probe_named(name)
    for step in steps:
        for call in step.calls:
            assert tokens_of(probe, getattr(pipeline, call.component), call.arguments) == EXPECTED_TOKENS[name]
            if probe.tokens.layout == "packed":
                assert call.arguments[probe.tap.input].shape[1] == EXPECTED_TOKENS[name]


@pytest.mark.parametrize("name", NAMES)
def test_prediction_type_is_the_schedulers_or_flow(name):
    pipeline, _, _ = seen(name)
    config = pipeline.scheduler.config
    flow = "FlowMatch" in type(pipeline.scheduler).__name__ or config.prediction_type == "flow_prediction"
    assert probe_named(name).output.prediction == ("flow" if flow else "scheduler")


def test_two_transformers_are_used_in_the_declared_order():
    _, steps, _ = seen("wan2.2")
    order = [call.component for step in steps for call in step.calls]
    assert set(order) == {"transformer", "transformer_2"}
    assert tuple(dict.fromkeys(order)) == probe_named("wan").tap.components
    assert order == sorted(order)


# -- guidance ---------------------------------------------------------------------------------------------------------------


def branches_of(probe: Probe, step: Step) -> dict[str, torch.Tensor]:
    """Predictions by branch, as the scheduler would get them: sign applied, learned variance left out."""
    outputs = [probe.output.sign * predicted(probe, call) for call in step.calls]
    parts = outputs[0].chunk(2) if probe.guidance.calls == "batched" else outputs
    if probe.output.learned_variance == "second-half":
        parts = [part.chunk(2, channel_axis(probe))[0] for part in parts]
    return dict(zip(probe.guidance.branches, parts, strict=True))


def rebuilds(probe: Probe, step: Step, scale: float, up_to_length: bool) -> bool:
    """Whether uncond + scale * (cond - uncond) is what the scheduler got."""
    branch = branches_of(probe, step)
    guided = (branch["uncond"] + scale * (branch["cond"] - branch["uncond"])).flatten()
    given = step.prediction[: 1 if probe.guidance.stacked_step else None].flatten()
    if up_to_length:  # Qwen-Image rescales every token's vector
        width = step.prediction.shape[-1]
        guided, given = (functional.normalize(x.reshape(-1, width), dim=-1).flatten() for x in (guided, given))
    return torch.allclose(guided, given, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "flux2"])
def test_branches_rebuild_the_guided_prediction(name):
    _, steps, call = seen(name, guided=True)
    probe = probe_named(name)
    scale = call[probe.guidance.argument] + (name == "z-image")  # cond + scale * (cond - uncond)
    up_to_length = name == "qwen-image"
    swapped = replace(probe, guidance=replace(probe.guidance, branches=probe.guidance.branches[::-1]))
    negated = replace(probe, output=replace(probe.output, sign=-probe.output.sign))
    for step in steps:
        assert rebuilds(probe, step, scale, up_to_length)
        assert not rebuilds(swapped, step, scale, up_to_length)
        assert not rebuilds(negated, step, scale, up_to_length)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "flux2"])
def test_one_branch_is_left_when_the_named_argument_switches_guidance_off(name):
    pipeline, _, call = seen(name, guided=True)
    probe = probe_named(name)
    off = {probe.guidance.argument: 0.0 if name == "z-image" else 1.0, "num_inference_steps": 2}
    with watched(pipeline, probe.tap.components) as steps:
        pipeline(**call | off, generator=torch.Generator().manual_seed(0))
    assert [len(step.calls) for step in steps] == [1] * len(steps)
    assert {predicted(probe, step.calls[0]).shape[0] for step in steps} == {1}


@pytest.mark.parametrize("name", ["flux", "flux2", "hunyuanvideo"])
def test_embedded_guidance_is_one_call_that_follows_its_argument(name):
    pipeline, steps, call = seen(name)
    probe = probe_named(name)
    assert pipeline.transformer.config[probe.guidance.embedded_if]
    assert [len(step.calls) for step in steps] == [1, 1, 1]
    with watched(pipeline, probe.tap.components) as other:
        more = {probe.guidance.embedded_argument: 9.0, "num_inference_steps": 3}
        pipeline(**call | more, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other[0].sample, steps[0].sample)
    assert not torch.equal(other[0].prediction, steps[0].prediction)


@pytest.mark.parametrize("name", NAMES)
def test_the_scheduler_steps_the_stacked_batch_only_where_the_probe_says(name):
    _, steps, _ = seen(name, guided=True)
    expected = 2 if probe_named(name).guidance.stacked_step else 1
    assert {step.sample.shape[0] for step in steps} == {expected}
    if expected == 2:
        assert all(torch.equal(*step.prediction.chunk(2)) for step in steps)


def test_skip_layer_guidance_is_an_extra_call_with_the_named_argument():
    pipeline, _, call = seen("sd3")
    probe = probe_named("sd3")
    with watched(pipeline, probe.tap.components) as steps:
        more = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.9}
        pipeline(**call | more | {"num_inference_steps": 4}, generator=torch.Generator().manual_seed(0))
    extra = [[any(c.arguments.get(name) is not None for name in probe.guidance.extra_call) for c in s.calls] for s in steps]
    assert [False] in extra
    assert [False, True] in extra
    assert all(calls in ([False], [False, True]) for calls in extra)


# -- the tiny pipelines themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flux", "wan2.2", "dit", "unet"])
def test_pipelines_are_deterministic_and_leave_the_global_generator_alone(name):
    before = torch.random.get_rng_state()
    first, call = build(name)
    second, again = build(name)
    assert torch.equal(torch.random.get_rng_state(), before)
    results = [
        next(iter(pipeline(**arguments, generator=torch.Generator().manual_seed(3)).values()))
        for pipeline, arguments in ((first, call), (second, again), (first, call))
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    other = next(iter(first(**call, generator=torch.Generator().manual_seed(4)).values()))
    assert not torch.equal(results[0], other)


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_is_left_at_zero(name):
    pipeline, _, _ = seen(name)
    module = getattr(pipeline, probe_named(name).tap.components[0])
    assert [key for key, value in module.named_parameters() if value.ndim and not value.any()] == []
