"""Where served keys, values and outputs come from, told by their values; and whole RAS runs against the official ones."""

import json
from functools import partial
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from generations import Tiny, generate, policy
from tiny_transformers import NETWORKS, redraw_zeros

from janoscope.execution import Executor
from janoscope.execution.attention_calls import AttentionCalls
from janoscope.grid import TokenGrid
from janoscope.plan import RasOptions, RasSelector, source_steps

RAS_CASES = sorted((Path(__file__).parents[1] / "golden").glob("ras_*.npz"))


def matched_steps(history, served):
    """For each token the latest step whose fresh value (token, channel) equals what is served; -1 where none does."""
    source = np.full(len(served), -1)
    for step, (rows, fresh) in enumerate(history):
        if rows is not None:
            same = (fresh == served[rows]).all(dim=-1).numpy()
            source[rows.numpy()[same]] = step
    return source


@pytest.mark.parametrize("family", ["flux", "sd3", "wan"])
def test_served_keys_come_from_the_steps_that_the_plan_says(family, monkeypatch):
    tiny = Tiny(family)
    fresh, found = [], []
    honest = AttentionCalls._served

    def watching(self, given, number):
        result = honest(self, given, number)
        if self._layer == layer and self._cache is executor._run._caches._kept["transformer", 0]:
            count = executor.summary.image_tokens
            image = slice(-count, None) if tiny.probe.execution.text == "first" else slice(0, count)
            step = executor._run._step
            rows = torch.arange(count) if self._rows is None else self._rows.image(torch.device("cpu"))
            fresh.extend([(None, None)] * (step - len(fresh)))
            key = given["key"][0, 0]
            own = key[-len(rows) :] if tiny.probe.execution.text == "first" else key[: len(rows)]
            fresh.append((rows, own.clone()))
            found.append((step, matched_steps(fresh, result["key"][0, 0][image])))
        return result

    monkeypatch.setattr(AttentionCalls, "_served", watching)
    with tiny.executor(policy(intervals={"static": 6, "moderate": 3, "active": 1})) as executor:
        layer = next(iter(tiny_layers(tiny)))
        generate(tiny.pipe, tiny.call, num_inference_steps=11)
    expected, _ = source_steps(executor.plan.step_kind, executor.plan.ranks)
    assert [step for step, _ in found] == list(range(2, 10))
    for step, source in found:
        np.testing.assert_array_equal(source, expected[step])
    assert len(np.unique(found[5][1])) == 3, "tokens of three ages were told apart"


def tiny_layers(tiny):
    first = tiny.probe.execution.blocks[0]
    yield f"{first}.0.{tiny.probe.execution.attention[0]}"


def ras_case(path):
    with np.load(path) as data:
        arrays = {key: data[key] for key in data.files}
    return json.loads(str(arrays["params"])), arrays


@pytest.mark.parametrize("path", RAS_CASES, ids=lambda path: path.stem)
def test_a_whole_ras_run_drops_the_official_tokens_and_ends_at_the_official_sample(path):
    """A network whose last layer says the golden velocities: selection, held outputs and the sampler are all ours."""
    params, golden = ras_case(path)
    grid = TokenGrid(params["C"], (1, params["H"], params["W"]), (1, 2, 2))
    velocity = grid.pack(torch.from_numpy(golden["velocity"])[:, :, None])
    pipe, probe = flux_of(params["C"]), Tiny("flux").probe
    options = RasOptions(
        start=params["start"],
        end=params["end"],
        resets=tuple(int(step) for step in params["reset"].split(",")),
        ratio=params["sample_ratio"],
        high_ratio=params["high_ratio"],
        starvation=params["starvation_scale"],
        skip_step=params["skip_num_step"],
        skip_length=params["skip_num_step_length"],
        metric=params["metric"],
    )
    last, source, dropped = np.full(grid.count, -1), [], []

    def say(hidden):
        step, rows = len(executor.summary.steps), executor._state.rows
        chosen = torch.arange(grid.count) if rows is None else rows.image(hidden.device)
        assert hidden.shape[1] == len(chosen)
        last[chosen.numpy()] = step
        source.append(last.copy())
        dropped.append(~np.isin(np.arange(grid.count), chosen.numpy()))
        return velocity[step][chosen][None]

    pipe.transformer.proj_out.forward = say
    with Executor(pipe, probe, selector=partial(RasSelector, options)) as executor:
        start = grid.pack(torch.from_numpy(golden["x0"])[None, :, None])
        text = {"prompt_embeds": torch.zeros(1, 9, 32), "pooled_prompt_embeds": torch.zeros(1, 32)}
        size = {"height": 8 * params["H"], "width": 8 * params["W"]}
        result = pipe(
            **text, **size, latents=start, sigmas=golden["sigmas"][:-1].tolist(), output_type="latent", return_dict=False
        )[0]
    np.testing.assert_allclose(pipe.scheduler.sigmas.numpy(), golden["sigmas"], atol=1e-6)
    np.testing.assert_array_equal(np.stack(dropped), golden["dropped"])
    np.testing.assert_array_equal(np.stack(source), golden["source_step"])
    final = grid.unpack(result)[0, :, 0].numpy()
    np.testing.assert_allclose(final, golden["final_sample"], atol=2e-5)
    assert (
        np.abs(final - (golden["x0"] + (np.diff(golden["sigmas"])[:, None, None, None] * golden["velocity"]).sum(0))).max() > 1e-2
    )


def flux_of(channels):
    """A tiny Flux pipeline of this many latent channels, without text encoders."""
    name, config = NETWORKS["flux"]
    network = redraw_zeros(getattr(diffusers, name)(**config | {"in_channels": 4 * channels}))
    absent = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.FluxPipeline(scheduler=scheduler, transformer=network, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe
