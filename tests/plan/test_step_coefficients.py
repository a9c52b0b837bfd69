"""Step coefficients against loops written out, and against the replay that token levels use."""

import numpy as np
import pytest

from janoscope.errors import InputError
from janoscope.plan import coefficients as c
from janoscope.plan.replay import held_minus_recorded

STEPS = 9
SIGMA = np.array([1.0, 0.95, 0.8, 0.7, 0.55, 0.4, 0.3, 0.12, 0.05])
WEIGHTS = np.diff(np.append(SIGMA, 0.0))
COMPUTED = [0, 1, 3, 6, 7]


def outputs(seed: int = 0) -> np.ndarray:
    """(step, value): smooth over sigma, with some noise."""
    draw = np.random.default_rng(seed)
    return np.sin(SIGMA[:, None] * 3 + draw.uniform(0, 6, 50)) + 0.02 * draw.standard_normal((STEPS, 50))


def final_latent(handed: np.ndarray, values: np.ndarray) -> np.ndarray:
    return WEIGHTS @ (handed @ values)


def test_reuse_and_forecast_are_what_a_loop_gives():
    values, last, before = outputs(), 0, None
    for step in range(STEPS):
        if step in COMPUTED:
            last, before = step, (last if step else None)
        reused, drawn = values[last], values[last]
        if before is not None and step != last:
            slope = (values[last] - values[before]) / (SIGMA[last] - SIGMA[before])
            drawn = values[last] + slope * (SIGMA[step] - SIGMA[last])
        np.testing.assert_allclose(c.reuse(COMPUTED, STEPS).handed[step] @ values, reused, atol=1e-12)
        np.testing.assert_allclose(c.forecast(COMPUTED, SIGMA).handed[step] @ values, drawn, atol=1e-12)


def test_a_corrected_run_ends_where_the_better_line_leads():
    values = outputs()
    better = values.copy()
    for left, right in c.gaps(COMPUTED):
        for step in range(left + 1, right):
            share = (SIGMA[step] - SIGMA[left]) / (SIGMA[right] - SIGMA[left])
            better[step] = (1 - share) * values[left] + share * values[right]
    better[8] = c.forecast(COMPUTED, SIGMA).handed[8] @ values  # nothing follows it
    coefficients = c.corrected(COMPUTED, SIGMA, WEIGHTS)
    np.testing.assert_allclose(final_latent(coefficients.handed, values), WEIGHTS @ better, atol=1e-12)
    wrong = c.corrected(COMPUTED, SIGMA, WEIGHTS[::-1].copy())  # the negative control: another sampler's weights
    assert np.abs(final_latent(wrong.handed, values) - WEIGHTS @ better).max() > 1e-3


@pytest.mark.parametrize("output", ["hold", "forecast", "corrected"])
def test_the_final_error_is_that_of_the_replay_of_token_levels(output):
    made = {
        "hold": c.reuse(COMPUTED, STEPS),
        "forecast": c.forecast(COMPUTED, SIGMA),
        "corrected": c.corrected(COMPUTED, SIGMA, WEIGHTS),
    }
    flags = [step in COMPUTED for step in range(STEPS)]
    expected = WEIGHTS @ held_minus_recorded(flags, SIGMA, output)
    np.testing.assert_allclose(made[output].final_error(WEIGHTS), expected, atol=1e-12)
    assert np.abs(made[output].final_error(WEIGHTS)).max() > 1e-3


def test_a_run_that_computes_everything_is_the_full_run():
    everything = range(STEPS)
    for made in (c.reuse(everything, STEPS), c.forecast(everything, SIGMA), c.corrected(everything, SIGMA, WEIGHTS)):
        np.testing.assert_array_equal(made.handed, np.eye(STEPS))


def test_a_parabola_is_exact_on_parabolas_and_a_line_is_not():
    values = (SIGMA**2)[:, None]
    parabola, line = (c.forecast([0, 1, 2, 5], SIGMA, order).handed @ values for order in (2, 1))
    np.testing.assert_allclose(parabola[3:5], values[3:5], atol=1e-12)
    assert np.abs(line[3:5] - values[3:5]).min() > 1e-3


def test_outputs_at_one_coordinate_make_no_line():
    twice = np.array([1.0, 0.8, 0.8, 0.5])
    handed = c.forecast([0, 1, 2], twice).handed
    np.testing.assert_allclose(handed[3], [-1.5, 0, 2.5, 0])  # through steps 0 and 2; step 1 lies where step 2 does
    assert np.isfinite(c.corrected([0, 1, 3], twice, np.array([0.2, 0.0, 0.3, 0.5])).handed).all()


def test_learned_weights_beat_the_line_on_runs_like_those_they_learned_from():
    grams = np.stack([c.gram_of_steps(outputs(seed)) for seed in range(8)])
    new = c.gram_of_steps(outputs(99))

    def error(made: c.StepCoefficients) -> float:
        row = made.final_error(WEIGHTS)
        return float(row @ new @ row)

    line = c.corrected(COMPUTED, SIGMA, WEIGHTS)
    fitted = c.learned(grams, COMPUTED, SIGMA, WEIGHTS, terms=3)
    assert error(fitted) < 0.5 * error(line)
    foreign = c.learned(grams[:, ::-1, ::-1], COMPUTED, SIGMA, WEIGHTS, terms=3)  # recordings of something else
    assert error(foreign) > error(fitted)


def test_a_strong_ridge_gives_the_line():
    grams = np.stack([c.gram_of_steps(outputs(seed)) for seed in range(2)])
    strong = c.learned(grams, COMPUTED, SIGMA, WEIGHTS, ridge=1e9)
    np.testing.assert_allclose(strong.handed, c.corrected(COMPUTED, SIGMA, WEIGHTS).handed, atol=1e-6)
    free = c.learned(grams, COMPUTED, SIGMA, WEIGHTS)
    assert np.abs(free.handed - strong.handed).max() > 1e-2


def test_one_recording_is_not_enough_to_learn_from():
    grams = np.stack([c.gram_of_steps(outputs(seed)) for seed in range(8)])
    ridges = (1e-6, 1e6)
    assert c.choose_ridge(grams[:1], COMPUTED, SIGMA, WEIGHTS, ridges=ridges) == 1e6
    assert c.choose_ridge(grams, COMPUTED, SIGMA, WEIGHTS, ridges=ridges) == 1e-6


def test_last_use_says_when_an_output_can_be_dropped():
    assert c.forecast([0, 1, 3], SIGMA[:5]).last_use == [2, 4, -1, 4, -1]


def test_refuses_what_cannot_begin_or_lies_outside():
    with pytest.raises(InputError, match="begins with step 0"):
        c.reuse([1, 2], 4)
    with pytest.raises(InputError, match="computed step 4 lies outside a run of 4 steps"):
        c.reuse([0, 4], 4)
