"""Replay against the plain sum over steps, and its laws: what is not skipped costs nothing."""

from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch

from janoscope.capture.noise_level import final_noise_level, noise_levels
from janoscope.conversion import NoisePath
from janoscope.errors import InputError
from janoscope.plan import Policy, StepKind, TokenLevel, step_kinds
from janoscope.plan.replay import Replay, StepWeights, final_weights, gram, held_minus_recorded, is_one_step, packed

STEPS, TOKENS, CHANNELS, RUNS = 13, 7, 5, 2
SIGMA = np.linspace(1, 0.1, STEPS) ** 2
WEIGHTS = StepWeights.of_path(NoisePath(1000 * SIGMA, 1 - SIGMA, SIGMA, (1.0, 0.0)), "flow")


def policy(**changes):
    table = {
        "name": "p",
        "warmup": 3,
        "cooldown": 1,
        "tile": [1, 2, 2],
        "quantiles": {"static": 0, "moderate": 0},
        "intervals": {"static": 4, "moderate": 2, "active": 1},
    }
    return Policy.from_table(table | changes, "p")


@pytest.fixture
def outputs():
    return np.random.default_rng(0).standard_normal((RUNS, STEPS, TOKENS, CHANNELS)).astype(np.float32)


def replay_of(outputs):
    return Replay(WEIGHTS, np.stack([gram(run) for run in outputs]))


def walked(outputs, kinds, ranks, output):
    """(step, token, channel): what stands for every token, step by step, as the executor goes."""
    held, last, before = np.array(outputs, dtype=np.float64), {}, {}
    for step, kind in enumerate(kinds):
        for token in range(outputs.shape[1]):
            if kind.least_rank <= ranks[token]:
                before[token], last[token] = last.get(token), step
                continue
            a, b = last[token], before[token]
            held[step, token] = outputs[a, token]
            if output != "hold" and b is not None:
                slope = (outputs[a, token].astype(float) - outputs[b, token]) / (WEIGHTS.coordinate[a] - WEIGHTS.coordinate[b])
                held[step, token] += slope * (WEIGHTS.coordinate[step] - WEIGHTS.coordinate[a])
    return held


def corrected(held, outputs, kinds, ranks):
    """`held` with, at every computed step, what the skipped steps before it got wrong against the line between both sides."""
    result = held.copy()
    for token in range(outputs.shape[1]):
        computed = [step for step, kind in enumerate(kinds) if kind.least_rank <= ranks[token]]
        for a, b in pairwise(computed):
            for step in range(a + 1, b):
                share = (WEIGHTS.coordinate[step] - WEIGHTS.coordinate[a]) / (WEIGHTS.coordinate[b] - WEIGHTS.coordinate[a])
                better = outputs[a, token] + share * (outputs[b, token].astype(float) - outputs[a, token])
                result[b, token] += WEIGHTS.latent[step] * (better - held[step, token]) / WEIGHTS.latent[b]
    return result


RANKS = np.array([[1, 2, 3, 1, 2, 3, 1], [3, 3, 2, 2, 1, 1, 1]], dtype=np.int8)


@pytest.mark.parametrize("keys", ["hold", "forecast"])
@pytest.mark.parametrize("output", ["hold", "forecast", "corrected"])
def test_errors_are_those_of_the_walk_through_every_step(outputs, output, keys):
    kinds = step_kinds(policy(), STEPS)
    found = replay_of(outputs).error(kinds, RANKS, output=output, forecast_keys=keys == "forecast")
    partial = np.array([kind in (StepKind.MODERATE, StepKind.ACTIVE) for kind in kinds])
    for run in range(RUNS):
        held = walked(outputs[run], kinds, RANKS[run], output)
        handed_over = corrected(held, outputs[run], kinds, RANKS[run]) if output == "corrected" else held
        final = np.einsum("s,stc->tc", WEIGHTS.latent, handed_over - outputs[run])
        assert found.output[run] == pytest.approx((final**2).mean(), rel=1e-5)
        each = (WEIGHTS.latent * partial)[:, None, None] * (walked(outputs[run], kinds, RANKS[run], keys) - outputs[run])
        assert found.stale[run] == pytest.approx((each**2).sum(axis=0).mean(), rel=1e-5)
        assert found.output[run] > 0


def test_outputs_and_keys_are_held_where_nothing_is_said(outputs):
    kinds = step_kinds(policy(), STEPS)
    silent, told = (replay_of(outputs).error(kinds, RANKS, **said) for said in ({}, {"output": "hold", "forecast_keys": False}))
    assert (silent.output.tolist(), silent.stale.tolist()) == (told.output.tolist(), told.stale.tolist())


def test_what_skips_nothing_costs_nothing(outputs):
    every_step = step_kinds(policy(intervals={"static": 1, "moderate": 1, "active": 1}), STEPS)
    found = replay_of(outputs).error(every_step, RANKS)
    assert found.output.tolist() == found.stale.tolist() == [0, 0]
    all_active = replay_of(outputs).error(step_kinds(policy(), STEPS), np.full_like(RANKS, TokenLevel.ACTIVE.rank))
    assert all_active.output.tolist() == [0, 0]
    one_static = np.full_like(RANKS, TokenLevel.ACTIVE.rank)
    one_static[:, 0] = TokenLevel.STATIC.rank
    assert (replay_of(outputs).error(step_kinds(policy(), STEPS), one_static).output > 0).all()


def test_a_constant_output_is_held_and_a_line_is_forecast_without_error(outputs):
    kinds = step_kinds(policy(), STEPS)
    line = WEIGHTS.coordinate[None, :, None, None] * outputs[:, :1] + 1
    assert replay_of(np.broadcast_to(outputs[:, :1], outputs.shape)).error(kinds, RANKS).output == pytest.approx(0, abs=1e-10)
    assert replay_of(line).error(kinds, RANKS, output="forecast").output == pytest.approx(0, abs=1e-10)
    assert (replay_of(line).error(kinds, RANKS).output > 1e-4).all()


def test_whole_steps_that_are_skipped_leave_no_stale_keys(outputs):
    uniform = step_kinds(policy(intervals={"static": 2, "moderate": 2, "active": 2}), STEPS)
    found = replay_of(outputs).error(uniform, RANKS)
    assert found.stale.tolist() == [0, 0]
    assert (found.output > 0).all()


def test_an_euler_step_weighs_by_its_gap_and_a_ddim_step_by_its_own_rate():
    assert WEIGHTS.latent == pytest.approx(SIGMA - np.append(SIGMA[1:], 0))
    alpha = np.array([0.3, 0.6, 0.9])
    path = NoisePath([900, 600, 300], alpha, np.sqrt(1 - alpha**2), (1.0, 0.0))
    weights = StepWeights.of_path(path, "epsilon")
    sigma, ratio = path.sigma, alpha[1] / alpha[0]
    # DDIM with eta 0: x_1 = (a1 / a0) x_0 + (s1 - s0 a1 / a0) eps, and a velocity's step is x_0 - x_1
    assert weights.latent[0] == pytest.approx(-(sigma[1] - sigma[0] * ratio))
    assert weights.coordinate == pytest.approx(sigma / alpha)


@pytest.mark.parametrize(
    ("scheduler", "kind"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), "flow"),
        (diffusers.DDIMScheduler(clip_sample=False), "epsilon"),
        (diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction"), "v_prediction"),
        (diffusers.CogVideoXDDIMScheduler(clip_sample=False, prediction_type="v_prediction"), "v_prediction"),
    ],
)
def test_final_weights_are_what_one_unit_of_output_does_to_the_samplers_last_latent(scheduler, kind):
    """Against the samplers themselves, which are told nothing of noise paths."""

    def last_latent(outputs):
        scheduler.set_timesteps(len(outputs))
        sample = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        for step, t in enumerate(scheduler.timesteps):
            sample = scheduler.step(outputs[step].reshape(1, 1, 1, 1), t, sample, return_dict=False)[0]
        return sample.item()

    steps = 9
    found = [last_latent(torch.eye(steps, dtype=torch.float64)[step]) for step in range(steps)]
    scheduler.set_timesteps(steps)
    path = NoisePath(*noise_levels(scheduler), tuple(final_noise_level(scheduler)))
    weights = final_weights(path, kind)
    assert -weights == pytest.approx(np.array(found), rel=1e-4)
    if kind == "epsilon":
        control = StepWeights.of_path(path, kind).latent
        assert -control != pytest.approx(np.array(found), rel=0.1), "what is not carried through the later steps is another thing"


@pytest.mark.parametrize("output", ["forecast", "corrected"])
def test_one_value_alone_or_two_at_one_place_are_held(output):
    held = held_minus_recorded([True, False, False], np.array([1.0, 0.5, 0.2]), "hold")
    assert held_minus_recorded([True, False, False], np.array([1.0, 0.5, 0.2]), output).tolist() == held.tolist()
    twice = [True, True, False]
    held = held_minus_recorded(twice, np.array([1.0, 1.0, 0.2]), "hold")
    assert held_minus_recorded(twice, np.array([1.0, 1.0, 0.2]), output).tolist() == held.tolist()
    assert held_minus_recorded(twice, np.array([1.0, 0.9, 0.2]), output).tolist() != held.tolist()


def test_samplers_that_use_a_prediction_once_are_known_by_class_and_config():
    flow, heun = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"
    assert is_one_step({"class": flow, "config": {"stochastic_sampling": False}})
    assert is_one_step({"class": "DDIMScheduler", "config": {}})
    assert not is_one_step({"class": flow, "config": {"stochastic_sampling": True}})
    assert not is_one_step({"class": heun, "config": {}})


def test_a_run_cut_short_has_no_weight_at_its_last_step_and_forecasts_run_along_sigma():
    cut = StepWeights.of_path(NoisePath(1000 * SIGMA, 1 - SIGMA, SIGMA, None), "flow")
    assert cut.latent == pytest.approx([*WEIGHTS.latent[:-1], 0])
    assert cut.coordinate == pytest.approx(SIGMA)


def test_refuses_a_token_that_is_never_computed_and_shapes_that_do_not_fit(outputs):
    with pytest.raises(InputError, match="begin with a full step"):
        held_minus_recorded([False, True], np.array([1.0, 0.5]), "hold")
    with pytest.raises(InputError, match="do not fit"):
        Replay(WEIGHTS, np.zeros((1, 2, 3)))
    with pytest.raises(InputError, match="do not fit"):
        replay_of(outputs).error(step_kinds(policy(), STEPS), RANKS[:1])


def test_the_packed_gram_gives_the_quadratic_form(outputs):
    row = np.random.default_rng(1).standard_normal(STEPS)
    direct = (np.einsum("s,stc->tc", row, outputs[0].astype(float)) ** 2).mean(axis=1)
    assert gram(outputs[0]) @ packed(np.outer(row, row)) == pytest.approx(direct)
