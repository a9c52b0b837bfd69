"""What stands for skipped tokens: hand-computed lines, their axis, and the way from a network's output to tokens and back."""

import copy

import diffusers
import pytest
import torch
from generations import Tiny, policy

from janoscope.capture.noise_level import final_noise_level, noise_levels
from janoscope.conversion import NoisePath
from janoscope.errors import ExecutionError
from janoscope.execution.caching.forecast import Corrected, Forecast, Held, OutputTokens, forecast_coordinates
from janoscope.grid import TokenGrid
from janoscope.plan import final_weights


def column(*values):
    """(item, token, channel) of one item and one channel."""
    return torch.tensor(values)[None, :, None]


@pytest.mark.parametrize(("kind", "expected"), [(Held, [4.0, 7.0, 30.0]), (Forecast, [4.0, 9.0, 50.0])])
def test_a_token_is_held_or_lies_on_the_line_through_its_last_two_values(kind, expected):
    """Coordinates 1.0, 0.8, 0.7 and read at 0.6: token 1 by 2.0 per 0.1 (0.7 to 0.6), token 2 by 10 per 0.1 (0.8 to 0.6)."""
    kept = kind(axis=1)
    kept.store(1.0, column(4.0, 3.0, 10.0))
    kept.store(0.8, column(4.0, 5.0, 30.0))
    kept.update(0.7, torch.tensor([1]), column(7.0))
    if kind is Forecast:
        torch.testing.assert_close(kept.read(0.7), column(4.0, 7.0, 40.0))
    torch.testing.assert_close(kept.read(0.6), column(*expected))


def test_one_value_is_held_and_a_point_visited_twice_gives_no_line():
    kept = Forecast(axis=1)
    kept.store(1.0, column(4.0, 3.0))
    assert torch.equal(kept.read(0.5), column(4.0, 3.0))
    kept.store(1.0, column(5.0, 3.0))
    assert torch.equal(kept.read(0.5), column(5.0, 3.0))


def test_a_computed_token_is_read_back_bit_for_bit():
    values = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    kept = Forecast(axis=2)
    for step, at in enumerate((1.0, 0.7, 0.35)):
        kept.store(at, values + step / 3)
        assert torch.equal(kept.read(at), values + step / 3)


def test_bf16_lines_are_drawn_in_float32():
    """256 + 1 does not exist in bfloat16; the line from 255 to 256 read at its middle rounds to 255.5, not to 255."""
    kept = Forecast(axis=1)
    kept.store(1.0, column(252.0).bfloat16())
    kept.store(0.5, column(254.0).bfloat16())
    assert kept.read(0.25).item() == 255.0
    assert kept.read(0.25).dtype == torch.bfloat16


def test_a_computed_token_makes_up_for_its_forecasts_with_the_line_between_both_sides():
    """At 1.0, 0.8, (0.7 skipped), 0.6 with gaps 0.2, 0.1, 0.1, 0.6: the line 0, 2 reads 3 at 0.7; between 2 and 8 lies 5."""
    kept = Corrected(axis=1)
    kept.store(1.0, column(0.0, 0.0))
    assert torch.equal(kept.handed_over(1.0, 0.2), column(0.0, 0.0))
    kept.store(0.8, column(2.0, 2.0))
    assert torch.equal(kept.handed_over(0.8, 0.1), column(2.0, 2.0)), "nothing was skipped, nothing is owed"
    kept.update(0.7, torch.tensor([1]), column(3.5))
    torch.testing.assert_close(kept.handed_over(0.7, 0.1), column(3.0, 3.5))
    kept.store(0.6, column(8.0, 4.0))
    torch.testing.assert_close(kept.handed_over(0.6, 0.6), column(8.0 + (5.0 - 3.0) * 0.1 / 0.6, 4.0))
    torch.testing.assert_close(kept.handed_over(0.5, 0.1), column(11.0, 4.5)), "drawn through what was computed, once paid"


def test_a_step_that_moves_nothing_makes_up_for_nothing():
    """A sigma that stands twice in a user's list has weight 0; its correction would be infinite."""
    kept = Corrected(axis=1)
    for at, value in ((1.0, 0.0), (0.8, 2.0)):
        kept.store(at, column(value))
        kept.handed_over(at, 0.1)
    kept.handed_over(0.7, 0.1)
    kept.store(0.6, column(8.0))
    assert torch.equal(kept.handed_over(0.6, 0.0), column(8.0))


@pytest.mark.parametrize("family", ["flux", "sd3", "cogvideox", "dit"])
def test_a_corrected_run_hands_over_what_the_lines_between_computed_outputs_lack(family):
    """All tokens every third step, no guidance: the network's own outputs are known; the sampler's weights are tested apart."""
    tiny = Tiny(family)
    if family == "dit":  # clips by default, as no published DiT does
        tiny.pipe.scheduler = diffusers.DDIMScheduler.from_config(tiny.pipe.scheduler.config, clip_sample=False)
    raw, handed = {}, []
    network, step = tiny.pipe.transformer.forward, tiny.pipe.scheduler.step

    def below_the_executor(*args, **kwargs):
        output = network(*args, **kwargs)
        raw[len(handed)] = output[0].clone()
        return output

    def watched(model_output, *args, **kwargs):
        handed.append(model_output.clone())
        return step(model_output, *args, **kwargs)

    tiny.pipe.transformer.forward, tiny.pipe.scheduler.step = below_the_executor, watched
    every_third = {"static": 3, "moderate": 3, "active": 3}
    _, executor = tiny.run(policy(intervals=every_third, output="corrected"), guidance_scale=1.0)
    assert executor.summary.kinds == ["warmup"] * 2 + ["refresh", "reuse", "reuse"] + ["refresh", "reuse", "cooldown"]
    raw = {
        at: output[:, : handed[0].shape[1]] if family == "dit" else output for at, output in raw.items()
    }  # no learned variance
    scheduler, at = tiny.pipe.scheduler, forecast_coordinates(tiny.pipe.scheduler)
    kind = "flow" if family in ("flux", "sd3") else "v_prediction" if family == "cogvideox" else "epsilon"
    weights = final_weights(NoisePath(*noise_levels(scheduler), final_noise_level(scheduler)), kind)

    def line(a, b, s):
        return raw[a] + (raw[b] - raw[a]) * (at[s] - at[a]) / (at[b] - at[a])

    for before, last, now, skipped in ((1, 2, 5, (3, 4)), (2, 5, 7, (6,))):
        for s in skipped:
            torch.testing.assert_close(handed[s], line(before, last, s), rtol=1e-3, atol=1e-4)
        owed = sum(weights[s] * (line(last, now, s) - line(before, last, s)) for s in skipped) / weights[now]
        torch.testing.assert_close(handed[now], raw[now] + owed, rtol=1e-3, atol=1e-4)
        assert owed.abs().max() > 1e-3, "a correction must show"


SAMPLERS = {
    "euler": ("flux", diffusers.FlowMatchEulerDiscreteScheduler, {}),
    "unipc": ("wan", diffusers.UniPCMultistepScheduler, {}),
    "unipc-1": ("wan", diffusers.UniPCMultistepScheduler, {"solver_order": 1}),
    "dpm-1": ("wan", diffusers.DPMSolverMultistepScheduler, {"solver_order": 1}),
    "dpm-2": ("wan", diffusers.DPMSolverMultistepScheduler, {"solver_order": 2}),
    "dpm-3": ("wan", diffusers.DPMSolverMultistepScheduler, {"solver_order": 3}),
    "dpm-epsilon": ("pixart", diffusers.DPMSolverMultistepScheduler, {}),
    "ddim": ("cogvideox", diffusers.CogVideoXDDIMScheduler, {}),
    "deis": ("pixart", diffusers.DEISMultistepScheduler, {}),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_corrected_run_ends_where_the_lines_between_computed_outputs_lead_the_sampler(sampler):
    """Brute force, without weights: the sampler itself is stepped with the network's outputs and, between them, the lines.

    The outputs that the run was handed at skipped steps are forecasts, and its latents differ on the way; the end is the same.
    """
    family, scheduler_class, options = SAMPLERS[sampler]
    tiny = Tiny(family)
    tiny.pipe.scheduler = scheduler_class.from_config(tiny.pipe.scheduler.config, **options)
    steps, raw, results = [], {}, []
    network, step = tiny.pipe.transformer.forward, tiny.pipe.scheduler.step
    begin = []

    def below_the_executor(*args, **kwargs):
        output = network(*args, **kwargs)
        raw[len(steps)] = output[0].clone()
        return output

    def watched(model_output, timestep, sample, *args, **kwargs):
        if not begin:
            begin.append((copy.deepcopy(tiny.pipe.scheduler), sample.clone()))
        steps.append((model_output.clone(), timestep))
        result = step(model_output, timestep, sample, *args, **kwargs)
        results.append((result[0] if isinstance(result, tuple) else result.prev_sample).clone())
        return result

    tiny.pipe.transformer.forward, tiny.pipe.scheduler.step = below_the_executor, watched
    every_third = {"static": 3, "moderate": 3, "active": 3}
    _, executor = tiny.run(policy(intervals=every_third, output="corrected"), guidance_scale=1.0)
    assert executor.summary.kinds == ["warmup"] * 2 + ["refresh", "reuse", "reuse"] + ["refresh", "reuse", "cooldown"]
    at = forecast_coordinates(begin[0][0])
    channels = steps[0][0].shape[1]
    raw = {n: output[:, :channels] if family == "pixart" else output for n, output in raw.items()}  # no learned variance

    def end(handed):
        scheduler, sample = copy.deepcopy(begin[0][0]), begin[0][1].clone()
        for n, (_, timestep) in enumerate(steps):
            sample = type(scheduler).step(scheduler, handed[n], timestep, sample, return_dict=False)[0]
        return sample

    def line(a, b, s):
        return raw[a] + (raw[b] - raw[a]) * (at[s] - at[a]) / (at[b] - at[a])

    forecasts = {3: line(1, 2, 3), 4: line(1, 2, 4), 6: line(2, 5, 6)}
    between = {3: line(2, 5, 3), 4: line(2, 5, 4), 6: line(5, 7, 6)}
    size = float(results[-1].abs().max())
    torch.testing.assert_close(end({n: output for n, (output, _) in enumerate(steps)}), results[-1], rtol=0, atol=1e-4 * size)
    off = (end(raw | between) - results[-1]).abs().max()
    assert off < 1e-3 * size
    assert (end(raw | forecasts) - results[-1]).abs().max() > 20 * off, "control: without corrections it ends elsewhere"


@pytest.mark.parametrize(
    ("family", "scheduler", "arguments", "reason"),
    [
        ("flux", diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), {}, "FlowMatchEulerDiscreteScheduler adds"),
        ("pixart", diffusers.DDIMScheduler(clip_sample=False), {"eta": 0.5}, "DDIMScheduler adds noise at its steps"),
        (
            "pixart",
            diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
            {},
            "DPMSolverMultistepScheduler adds",
        ),
        ("dit", None, {}, "DDIMScheduler is not linear in the outputs .thresholding or clipping."),
        ("pixart", diffusers.DPMSolverMultistepScheduler(thresholding=True), {}, "is not linear in the outputs .thresholding"),
    ],
)
def test_samplers_with_noise_or_thresholding_are_refused_a_correction_and_forecast(family, scheduler, arguments, reason):
    tiny = Tiny(family)
    tiny.pipe.scheduler = scheduler or tiny.pipe.scheduler
    with pytest.raises(ExecutionError, match=f"{reason}.*take output = .forecast."):
        tiny.run(policy(output="corrected"), **arguments)
    tiny.run(policy(output="forecast"), **arguments)


def test_the_axis_is_the_samplers_sigma_or_the_ratio_of_noise_to_signal():
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    flow.set_timesteps(4)
    assert forecast_coordinates(flow) == pytest.approx(flow.sigmas[:4].tolist())
    ddim = diffusers.DDIMScheduler()
    ddim.set_timesteps(4)
    bars = ddim.alphas_cumprod[ddim.timesteps].tolist()
    assert forecast_coordinates(ddim) == pytest.approx([((1 - bar) / bar) ** 0.5 for bar in bars], rel=1e-6)
    dpm = diffusers.DPMSolverMultistepScheduler()
    dpm.set_timesteps(4)
    assert forecast_coordinates(dpm) == pytest.approx(dpm.sigmas[:4].tolist())
    flow.set_timesteps(4)
    flow.set_begin_index(1)  # a run from a picture starts later
    assert forecast_coordinates(flow) == pytest.approx(flow.sigmas[1:4].tolist())


@pytest.mark.parametrize(
    ("layout", "shape"), [("packed", (2, 6, 20)), ("BCHW", (2, 5, 4, 6)), ("BCFHW", (2, 5, 1, 4, 6)), ("BFCHW", (2, 1, 5, 4, 6))]
)
def test_an_output_becomes_tokens_and_the_same_output_again(layout, shape):
    grid = TokenGrid(5, (1, 4, 6), (1, 2, 2))
    output = torch.arange(240.0).reshape(shape)
    tokens = OutputTokens(layout, grid)
    assert tokens.split((output,)).shape == (2, 6, 20)
    assert torch.equal(tokens.join(tokens.split(output), (output, "kept"))[0], output)
    moved = tokens.split(output).clone()
    moved[:, 1] += 1000  # token 1 is row 0, column 1: cells (0..1, 2..3)
    changed = tokens.join(moved, output) != output
    assert int(changed.sum()) == 2 * 20
    if layout == "BCHW":
        assert changed[:, :, :2, 2:4].all()


def test_learned_variance_goes_along():
    grid = TokenGrid(4, (1, 4, 6), (1, 2, 2))
    output = torch.randn(2, 8, 4, 6)
    tokens = OutputTokens("BCHW", grid)
    assert torch.equal(tokens.join(tokens.split(output), output), output)


@pytest.mark.parametrize("family", ["flux", "sd3", "wan", "cogvideox", "pixart", "dit", "cogvideox-1.5", "hunyuanvideo"])
def test_a_run_of_reuse_steps_calls_no_block_and_forecasts_what_a_line_gives(family):
    """Every second step computed; what the scheduler is handed between lies on the line through the two computed before."""
    tiny = Tiny(family)
    every_second = {"static": 2, "moderate": 2, "active": 2}
    seen, blocks = [], []
    block = tiny.pipe.transformer.get_submodule(tiny.probe.execution.blocks[0])[0]
    handle = block.register_forward_hook(lambda *_: blocks.append(len(seen)))
    step = tiny.pipe.scheduler.step

    def watched(model_output, *args, **kwargs):
        seen.append(model_output.clone())
        return step(model_output, *args, **kwargs)

    tiny.pipe.scheduler.step = watched
    _, executor = tiny.run(policy(intervals=every_second, output="forecast"))
    at = forecast_coordinates(tiny.pipe.scheduler)
    assert executor.summary.kinds == ["warmup"] * 2 + ["refresh", "reuse"] * 2 + ["refresh", "cooldown"]
    assert sorted(set(blocks)) == [0, 1, 2, 4, 6, 7]
    expected = seen[4] + (seen[4] - seen[2]) / (at[4] - at[2]) * (at[5] - at[4])
    torch.testing.assert_close(seen[5], expected, rtol=1e-3, atol=1e-4)
    assert (seen[5] - seen[4]).abs().max() > 1e-3, "holding would be another thing"
    assert executor.summary.cache_bytes == 0, "keys and values that no step reads are not kept"
    handle.remove()


def test_a_forecast_of_keys_doubles_the_cache_and_changes_the_result():
    tiny = Tiny("sd3")
    held, first = tiny.run(policy())
    ahead, second = tiny.run(policy(cache={"strategy": "kv", "forecast": True}))
    assert second.summary.cache_bytes == 2 * first.summary.cache_bytes == 2 * first.plan.predicted.cache_bytes
    assert (held - ahead).abs().max() > 1e-3


def test_a_map_that_the_warm_up_cannot_give_is_refused():
    tiny = Tiny("flux")
    for changes, told in (
        ({"map": "oracle"}, "full run"),
        ({"warmup": 0}, "least is 1"),
        ({"map": "velocity-change", "warmup": 1}, "least is 2"),
    ):
        with pytest.raises(ExecutionError, match=told):
            tiny.executor(policy(**changes))


@pytest.mark.parametrize("name", ["x0-gradient", "velocity-change", "ras", "random"])
@pytest.mark.parametrize("family", ["flux", "pixart", "wan"])
def test_every_map_cuts_its_levels_in_mid_generation(name, family):
    tiny = Tiny(family)
    _, executor = tiny.run(policy(map=name))
    levels = executor.summary.token_levels
    assert min(levels.values()) > 0
    _, jano = tiny.run(policy())
    assert executor.plan.token_level != jano.plan.token_level
