"""Replay against the plain sum over steps, and its laws: what is not skipped costs nothing."""

import numpy as np
import pytest

from janoscope.conversion import NoisePath
from janoscope.errors import InputError
from janoscope.plan import Policy, StepKind, TokenLevel, step_kinds
from janoscope.plan.replay import Replay, StepWeights, gram, held_minus_recorded, packed

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


def walked(outputs, kinds, ranks, forecast):
    """(step, token, channel): what stands for every token, step by step, as the executor goes."""
    held, last, before = np.array(outputs, dtype=np.float64), {}, {}
    for step, kind in enumerate(kinds):
        for token in range(outputs.shape[1]):
            if kind.least_rank <= ranks[token]:
                before[token], last[token] = last.get(token), step
                continue
            a, b = last[token], before[token]
            held[step, token] = outputs[a, token]
            if forecast and b is not None:
                slope = (outputs[a, token].astype(float) - outputs[b, token]) / (WEIGHTS.coordinate[a] - WEIGHTS.coordinate[b])
                held[step, token] += slope * (WEIGHTS.coordinate[step] - WEIGHTS.coordinate[a])
    return held


RANKS = np.array([[1, 2, 3, 1, 2, 3, 1], [3, 3, 2, 2, 1, 1, 1]], dtype=np.int8)


@pytest.mark.parametrize("forecast", [False, True])
def test_errors_are_those_of_the_walk_through_every_step(outputs, forecast):
    kinds = step_kinds(policy(), STEPS)
    found = replay_of(outputs).error(kinds, RANKS, forecast_output=forecast, forecast_keys=forecast)
    partial = np.array([kind in (StepKind.MODERATE, StepKind.ACTIVE) for kind in kinds])
    for run in range(RUNS):
        error = walked(outputs[run], kinds, RANKS[run], forecast) - outputs[run]
        final = np.einsum("s,stc->tc", WEIGHTS.latent, error)
        assert found.output[run] == pytest.approx((final**2).mean(), rel=1e-5)
        each = (WEIGHTS.latent * partial)[:, None, None] * error
        assert found.stale[run] == pytest.approx((each**2).sum(axis=0).mean(), rel=1e-5)
        assert found.output[run] > 0


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
    assert replay_of(line).error(kinds, RANKS, forecast_output=True).output == pytest.approx(0, abs=1e-10)
    assert (replay_of(line).error(kinds, RANKS, forecast_output=False).output > 1e-4).all()


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


def test_refuses_a_token_that_is_never_computed_and_shapes_that_do_not_fit(outputs):
    with pytest.raises(InputError, match="begin with a full step"):
        held_minus_recorded([False, True], np.array([1.0, 0.5]), forecast=False)
    with pytest.raises(InputError, match="do not fit"):
        Replay(WEIGHTS, np.zeros((1, 2, 3)))
    with pytest.raises(InputError, match="do not fit"):
        replay_of(outputs).error(step_kinds(policy(), STEPS), RANKS[:1])


def test_the_packed_gram_gives_the_quadratic_form(outputs):
    row = np.random.default_rng(1).standard_normal(STEPS)
    direct = (np.einsum("s,stc->tc", row, outputs[0].astype(float)) ** 2).mean(axis=1)
    assert gram(outputs[0]) @ packed(np.outer(row, row)) == pytest.approx(direct)
