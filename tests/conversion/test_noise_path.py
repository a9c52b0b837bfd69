"""The noise path: rates on the sampler's own gaps, tangents, closed forms, and the ends that have no neighbour."""

import numpy as np
import pytest

from janoscope.conversion import NoisePath
from janoscope.errors import InputError


def cosine_path(time, final=(1.0, 0.0)):
    """Variance preserving, angle = time * pi / 2000 so that a timestep of 1000 is pure noise."""
    angle = np.asarray(time) * np.pi / 2000
    return NoisePath(time, np.cos(angle), np.sin(angle), final)


def test_backward_rates_divide_by_each_steps_own_gap():
    path = NoisePath([900.0, 500.0, 400.0], [0.1, 0.5, 0.7], [0.9, 0.8, 0.3], final=(0.9, 0.2))
    point = path.at()
    assert path.gap.tolist() == [400, 100, 100]  # the last gap repeats the one before it
    np.testing.assert_allclose(point.alpha_rate, [-0.4 / 400, -0.2 / 100, -0.2 / 100])
    np.testing.assert_allclose(point.sigma_rate, [0.1 / 400, 0.5 / 100, 0.1 / 100])


def test_time_is_sigma_on_flow_and_edm_paths():
    sigma = np.array([1.0, 0.7, 0.2])
    flow = NoisePath(sigma * 1000, 1 - sigma, sigma)
    edm = NoisePath([3.0, 2.0, 1.0], np.ones(3), [80.0, 5.0, 0.1])
    assert (flow.family, flow.time_unit) == ("flow", "sigma")
    assert (edm.family, edm.time_unit) == ("variance-exploding", "sigma")
    for path, alpha_rate in ((flow, -1.0), (edm, 0.0)):
        for derivative in ("backward", "tangent", "closed-form"):
            point = path.at(derivative=derivative)
            np.testing.assert_allclose(point.alpha_rate, alpha_rate, atol=1e-12)
            np.testing.assert_allclose(point.sigma_rate, 1.0, atol=1e-12)
    np.testing.assert_allclose(edm.gap, [75.0, 4.9, 0.1])


@pytest.mark.parametrize("derivative", ["tangent", "closed-form"])
def test_tangent_beats_backward_on_uneven_gaps(derivative):
    time = np.array([900.0, 810.0, 760.0, 640.0, 600.0, 470.0, 380.0, 350.0, 200.0])
    path, angle = cosine_path(time), time * np.pi / 2000
    exact = np.cos(angle) * np.pi / 2000
    error = np.abs(path.at(derivative=derivative).sigma_rate - exact)[1:-1]
    crude = np.abs(path.at(derivative="backward").sigma_rate - exact)[1:-1]
    assert error.max() < 0.05 * crude.max()


def test_tangent_of_a_parabola_is_exact_at_the_ends_as_well():
    time = np.array([900.0, 500.0, 400.0])
    path = NoisePath(time, 1e-6 * time**2 - 2e-3 * time + 1, 2e-3 * time - 1e-6 * time**2 / 2, final=None)
    point = path.at(derivative="tangent")
    np.testing.assert_allclose(point.alpha_rate, 2e-6 * time - 2e-3)
    np.testing.assert_allclose(point.sigma_rate, 2e-3 - 1e-6 * time)
    # negative control: chords are not
    assert abs(path.at(0).alpha_rate - point.alpha_rate[0]) > 1e-4


def test_tangent_of_two_points_is_their_chord():
    path = cosine_path([900.0, 300.0], final=None)
    for step in (0, 1):
        assert path.at(step, "tangent").sigma_rate == pytest.approx((path.sigma[0] - path.sigma[1]) / 600)


def test_closed_form_of_a_preserving_path_keeps_x_on_the_circle():
    point = cosine_path([1000.0, 700.0, 300.0]).at(derivative="closed-form")
    np.testing.assert_allclose(point.alpha * point.alpha_rate + point.sigma * point.sigma_rate, 0, atol=1e-15)


def test_last_step_of_a_cut_run_uses_the_gap_before_it():
    whole, cut = cosine_path([900.0, 600.0, 300.0]), cosine_path([900.0, 600.0], final=None)
    assert np.isnan(cut.gap[-1])
    assert cut.at(1).alpha_rate == whole.at(0).alpha_rate != 0
    # negative control: the next pair, where it is known, gives another rate
    assert cosine_path([900.0, 600.0], final=(whole.alpha[2], whole.sigma[2])).at(1).alpha_rate == pytest.approx(
        whole.at(1).alpha_rate
    )
    assert whole.at(1).alpha_rate != pytest.approx(whole.at(0).alpha_rate, rel=0.1)


def test_final_pair_equal_to_the_last_does_not_stop_the_velocity():
    """DDIM with set_alpha_to_one=False and a last timestep of 0 ends on the pair it stands on."""
    alpha, sigma = np.cos([0.9, 0.01]), np.sin([0.9, 0.01])
    point = NoisePath([20.0, 0.0], alpha, sigma, final=(alpha[1], sigma[1])).at(1)
    assert point.sigma_rate == pytest.approx((sigma[0] - sigma[1]) / 20)


@pytest.mark.parametrize(
    ("time", "last_gap"),
    [
        ([900.0, 600.0, 600.0], 300.0),  # a second visit moves nothing; the gap before it is repeated
        ([3.0, 2.5, 2.0], 0.5),
        ([500.0], 500.0),  # one step alone ends at timestep 0
        ([0.0], 1.0),  # and has to move, from wherever it stands
    ],
)
def test_last_gap_repeats_the_one_before_it_or_leads_to_0(time, last_gap):
    halves = np.full(len(time), 0.6), np.full(len(time), 0.2)  # of no family, so time is the timestep
    assert NoisePath(time, *halves).gap[-1] == last_gap


def test_two_noise_levels_of_one_timestep_share_a_rate():
    """Schedulers round timesteps; a difference over no time would be infinite."""
    path = NoisePath([900.0, 600.0, 600.0, 300.0], [0.1, 0.5, 0.52, 0.8], [0.9, 0.7, 0.69, 0.3], final=None)
    assert path.at().alpha_rate.tolist() == pytest.approx([-0.4 / 300, -0.3 / 300, -0.3 / 300, -0.3 / 300])


def test_repeated_points_share_their_rates():
    """Heun and PNDM evaluate a point twice; the second visit has a gap of 0."""
    once, twice = cosine_path([900.0, 600.0, 300.0]), cosine_path([900.0, 600.0, 600.0, 300.0])
    for derivative in ("backward", "tangent", "closed-form"):
        wanted = once.at(derivative=derivative).sigma_rate[[0, 1, 1, 2]]
        np.testing.assert_allclose(twice.at(derivative=derivative).sigma_rate, wanted)


def test_refuses_what_has_no_rate_or_no_sense():
    with pytest.raises(InputError, match="toward noise at step 2"):
        cosine_path([300.0, 200.0, 600.0])
    with pytest.raises(InputError, match="not finite"):
        NoisePath([1.0], [np.nan], [1.0])
    with pytest.raises(InputError, match="shapes"):
        NoisePath([1.0, 0.0], [1.0], [0.0])
    with pytest.raises(InputError, match="single point"):
        NoisePath([500.0], [0.6], [0.8], final=None).at(0)
    with pytest.raises(InputError, match="closed-form"):
        NoisePath([9.0, 5.0], [0.5, 0.9], [0.6, 0.2]).at(0, "closed-form")
    with pytest.raises(InputError, match="backward, tangent, closed-form"):
        cosine_path([9.0, 5.0]).at(0, "forward")
    with pytest.raises(InputError, match="outside the noise path of 2"):
        cosine_path([9.0, 5.0]).at(2)


def test_refuses_paths_without_steps_and_with_two_axes():
    for bad in ([], [[1.0, 0.5]]):
        with pytest.raises(InputError, match="one timestep, alpha and sigma for each step"):
            NoisePath(bad, bad, bad)


def test_names_the_first_step_that_runs_back_however_little():
    sigma = np.array([0.5, 0.5, 0.4, 0.6])
    with pytest.raises(InputError, match=r"at step 3 \(sigma grows\)"):
        NoisePath(sigma * 1000, 1 - sigma, sigma)


def test_holds_read_only_copies_in_float64():
    given = np.array([3, 1])
    path = NoisePath(given, [1, 1], given)
    given[:] = 0
    assert (path.sigma.dtype, path.sigma.tolist()) == (np.float64, [3.0, 1.0])
    with pytest.raises(ValueError, match="read-only"):
        path.alpha[0] = 2


def test_one_step_is_floats_counted_from_either_end():
    path = cosine_path([900.0, 300.0])
    first, last = path.at(0), path.at(-1)
    assert vars(path.at(-2)) == vars(first)
    assert {type(value) for value in vars(first).values()} == {float}
    assert (last.alpha, last.sigma) == (path.alpha[1], path.sigma[1])


def test_repr_shows_family_unit_and_ends():
    assert repr(NoisePath([9.0, 5.0, 1.0], [0.1, 0.5, 0.8], [0.9, 0.5, 0.2], final=None)) == (
        "<NoisePath flow, 3 steps, time in sigma: alpha 0.1 -> 0.8, sigma 0.9 -> 0.2, final unknown>"
    )
    assert repr(NoisePath([1000.0, 500.0], [0.0, 0.5], [1.0, 0.5])) == (
        "<NoisePath flow, 2 steps, time in sigma: alpha 0 -> 0.5, sigma 1 -> 0.5, final alpha 1, sigma 0>"
    )
