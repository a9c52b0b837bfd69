"""The shortest path against every schedule there is."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from janoscope.errors import InputError
from janoscope.plan import coefficients, step_search

STEPS = 8
SIGMA = np.array([1.0, 0.93, 0.8, 0.7, 0.52, 0.4, 0.2, 0.07])
WEIGHTS = np.diff(np.append(SIGMA, 0.0))
VALUES = np.random.default_rng(3).standard_normal((STEPS, 40)).cumsum(axis=0)
GRAM = coefficients.gram_of_steps(VALUES)


def edges_of(computed: tuple[int, ...], output: str, growth: float) -> float:
    """The cost of a schedule, edge by edge, from the coefficients' own rows."""
    made = {
        "corrected": lambda: coefficients.corrected(computed, SIGMA, WEIGHTS),
        "forecast": lambda: coefficients.forecast(computed, SIGMA),
        "hold": lambda: coefficients.reuse(computed, STEPS),
    }[output]()
    total, ends = 0.0, [*computed, STEPS]
    for left, right in pairwise(ends):
        shown = slice(left + 1, right + 1) if output == "corrected" and right < STEPS else slice(left + 1, right)
        row = WEIGHTS[shown] @ (made.handed - np.eye(STEPS))[shown]
        total += np.exp(growth * (1 - left / STEPS)) * float(row @ GRAM @ row)
    return total


@pytest.mark.parametrize("output", ["corrected", "forecast", "hold"])
@pytest.mark.parametrize("growth", [0.0, 3.0])
def test_finds_the_best_of_all_schedules(output, growth):
    costs = step_search.edge_costs(GRAM, SIGMA, WEIGHTS, output=output, growth=growth)
    paths = step_search.shortest_paths(costs)
    assert [len(path.computed) for path in paths] == list(range(2, STEPS + 1))
    for path in paths:
        every = [(0, 1, *rest) for rest in combinations(range(2, STEPS), len(path.computed) - 2)]
        errors = {computed: edges_of(computed, output, growth) for computed in every}
        assert path.error == pytest.approx(min(errors.values()), abs=1e-9)
        assert errors[path.computed] == pytest.approx(path.error, abs=1e-9)
        if len(every) > 1:
            assert max(errors.values()) > path.error + 1e-6


def test_the_forecast_share_adds_what_the_network_sees_before_the_correction():
    plain, both, forecast = (
        step_search.edge_costs(GRAM, SIGMA, WEIGHTS, **options)
        for options in ({}, {"forecast_share": 0.5}, {"output": "forecast"})
    )
    inside = np.isfinite(plain.inner)
    np.testing.assert_allclose(both.inner[inside], plain.inner[inside] + 0.5 * forecast.inner[inside], atol=1e-12)
    assert (both.inner[inside] > plain.inner[inside]).any()


def test_growth_moves_computed_steps_to_the_beginning():
    def mean_step(growth: float) -> float:
        paths = step_search.shortest_paths(step_search.edge_costs(GRAM, SIGMA, WEIGHTS, growth=growth))
        return float(np.mean(paths[3].computed))

    assert mean_step(8.0) < mean_step(0.0)


def test_curvature_is_nothing_on_a_line_and_something_off_it():
    line = coefficients.gram_of_steps(SIGMA[:, None] * np.array([[1.0, -2.0]]) + 3)
    found = step_search.curvature(line, SIGMA)
    assert np.isnan(found[[0, -1]]).all()
    np.testing.assert_allclose(found[1:-1], 0, atol=1e-6)
    assert (step_search.curvature(GRAM, SIGMA)[1:-1] > 0.1).all()


def test_fidelity_is_one_where_neighbours_tell_all_and_less_for_noise():
    line = coefficients.gram_of_steps(SIGMA[:, None] * np.array([[1.0, -2.0]]) + 3)
    np.testing.assert_allclose(step_search.fidelity(line, (-1, 1))[1:-1], 1)
    noise = coefficients.gram_of_steps(np.random.default_rng(0).standard_normal((STEPS, 400)))
    assert (step_search.fidelity(noise, (-1, -2))[2:] < 0.2).all()


def test_a_run_of_one_step_leaves_nothing_to_skip():
    with pytest.raises(InputError, match="leaves nothing to skip"):
        step_search.shortest_paths(step_search.EdgeCosts(np.zeros((1, 1, 1)), np.zeros((1, 1))))
