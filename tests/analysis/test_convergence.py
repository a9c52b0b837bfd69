"""Convergence step by step: values worked out by hand, the definition in one piece, and that no run is loaded whole."""

import numpy as np
import pytest
import torch

from janoscope.analysis import ConvergenceAccumulator, convergence_step, measure_convergence, reuse_error
from janoscope.errors import InputError


def run_of(steps=11, tokens=7, channels=5, seed=0):
    velocity, x0 = np.random.default_rng(seed).normal(size=(2, steps, tokens, channels)).astype(np.float32)
    return velocity, x0


def test_settles_at_the_first_step_from_which_it_stays_close():
    distance = np.array([[9.0, 0.0, 9.0, 1.0], [0.05, 0.0, 9.0, 0.1], [0.2, 0.0, 9.0, 0.05], [0.05, 0.0, 9.0, np.nan], [0.0] * 4])
    assert convergence_step(distance, 0.1).tolist() == [3, 0, 4, 4]
    # negative control: the first crossing would be another answer for token 0
    assert np.argmax(distance[:, 0] < 0.1) == 1
    assert convergence_step(np.ones((3, 2)), 0.1).tolist() == [3, 3]


def test_measures_are_the_definitions():
    velocity, x0 = run_of()
    convergence = measure_convergence(velocity, x0, hold_steps=3, tolerance=1.2)
    rms = lambda values: np.sqrt((values.astype(np.float64) ** 2).mean(axis=-1))
    np.testing.assert_allclose(convergence.velocity_rms, rms(velocity), rtol=1e-5)
    assert np.isnan(convergence.velocity_change[0]).all()
    np.testing.assert_allclose(convergence.velocity_change[1:], rms(np.diff(velocity, axis=0)), rtol=1e-5)
    np.testing.assert_allclose(convergence.relative_change[1:], rms(np.diff(velocity, axis=0)) / rms(velocity[1:]), rtol=1e-5)
    np.testing.assert_allclose(convergence.x0_distance, rms(x0 - x0[-1]), rtol=1e-5)
    np.testing.assert_array_equal(convergence.convergence_step, convergence_step(convergence.x0_distance, 1.2))
    held = [rms(velocity[start + k] - velocity[start]) ** 2 for start in range(11) for k in (1, 2, 3) if start + k < 11]
    np.testing.assert_allclose(convergence.reuse_error, np.sqrt(np.mean(held, axis=0)), rtol=1e-5)
    np.testing.assert_allclose(reuse_error(velocity, 3), convergence.reuse_error)
    assert np.all(np.abs(reuse_error(velocity, 4) - convergence.reuse_error) > 1e-6)
    for k in (1, 2, 3):
        errors = rms(velocity[k:] - velocity[:-k])
        np.testing.assert_allclose(convergence.reuse_error_steps[k - 1], np.sqrt((errors**2).mean(axis=0)), rtol=1e-5)
    assert np.all(np.abs(convergence.reuse_error_steps[0] - convergence.reuse_error_steps[2]) > 1e-6)


def test_reuse_for_longer_than_the_run_has_no_error_but_leaves_the_rest():
    velocity, x0 = run_of(steps=3)
    long, short = (measure_convergence(velocity, x0, hold_steps=k) for k in (5, 2))
    np.testing.assert_array_equal(long.reuse_error, short.reuse_error)
    np.testing.assert_array_equal(long.reuse_error_steps[:2], short.reuse_error_steps)
    assert np.isnan(long.reuse_error_steps[2:]).all()


def test_velocity_settles_by_its_own_size():
    """Token 1 is token 0 a thousand times larger: relative change does not see that, an absolute one would."""
    shape = np.array([1.0, 2.0, 2.5, 2.55, 2.56])
    velocity = shape[:, None, None] * np.array([1.0, 1000.0])[None, :, None] * np.ones(3)
    convergence = measure_convergence(velocity, velocity)
    assert convergence.velocity_convergence_step(0.1).tolist() == [3, 3]
    assert convergence.velocity_convergence_step(0.3).tolist() == [2, 2]
    assert convergence_step(convergence.velocity_change, 0.1).tolist() == [3, 5]


def test_linear_drift_costs_its_slope():
    velocity = np.arange(6.0)[:, None, None] * np.array([0.0, 1.0, 2.0])[None, :, None] * np.ones(4)
    np.testing.assert_allclose(reuse_error(velocity, 1), [0, 1, 2])
    # held for 1 and 2 steps: five errors of 1 and four of 2 (squared: 1 and 4)
    np.testing.assert_allclose(reuse_error(velocity, 2), np.array([0, 1, 2]) * np.sqrt(21 / 9))


def test_items_stay_apart():
    velocity, x0 = run_of(tokens=6)
    items = measure_convergence(velocity.reshape(11, 2, 3, 5), x0.reshape(11, 2, 3, 5))
    flat = measure_convergence(velocity, x0)
    np.testing.assert_array_equal(items.reuse_error.ravel(), flat.reuse_error)
    np.testing.assert_array_equal(items.convergence_step.ravel(), flat.convergence_step)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)])
def test_tensors_of_any_width_agree(dtype, tolerance):
    velocity, x0 = run_of()
    wanted = measure_convergence(velocity, x0)
    convergence = measure_convergence(torch.from_numpy(velocity).to(dtype), torch.from_numpy(x0).to(dtype))
    np.testing.assert_allclose(convergence.reuse_error, wanted.reuse_error, rtol=tolerance)
    np.testing.assert_allclose(convergence.x0_distance, wanted.x0_distance, rtol=tolerance)
    assert convergence.reuse_error.dtype == np.float32


class OneAtATime:
    """A run that is values on reading; remembers how many of its steps were alive at once."""

    def __init__(self, values):
        self.values, self.alive, self.most = values, 0, 0

    def __len__(self):
        return len(self.values)

    def __getitem__(self, step):
        owner = self

        class Step(np.ndarray):
            def __del__(self):
                if type(self.base) is not Step:
                    owner.alive -= 1

        assert isinstance(step, int)
        values = self.values[step].copy().view(Step)
        self.alive += 1
        self.most = max(self.most, self.alive)
        return values


def test_a_lazy_run_is_read_one_step_at_a_time():
    velocity, x0 = run_of(steps=23)
    lazy = OneAtATime(velocity), OneAtATime(x0)
    convergence = measure_convergence(*lazy, hold_steps=2)
    np.testing.assert_array_equal(convergence.reuse_error, measure_convergence(velocity, x0, hold_steps=2).reuse_error)
    assert max(run.most for run in lazy) <= 3


def test_caller_may_reuse_its_buffers():
    velocity, x0 = run_of()
    steps = ConvergenceAccumulator(x0[-1], hold_steps=3)
    buffer = np.empty_like(velocity[0])
    for one_velocity, one_x0 in zip(velocity, x0, strict=True):
        buffer[:] = one_velocity
        steps.add(buffer, one_x0)
    np.testing.assert_array_equal(steps.result().reuse_error, measure_convergence(velocity, x0, hold_steps=3).reuse_error)


def test_non_finite_values_are_counted():
    velocity, x0 = run_of()
    velocity[2, 3, 1], x0[10, 0, 0] = np.inf, np.nan
    convergence = measure_convergence(velocity, x0)
    assert convergence.nonfinite == 2
    velocity[2, 3, 1], x0[10, 0, 0] = 0, 0
    np.testing.assert_array_equal(convergence.reuse_error, measure_convergence(velocity, x0).reuse_error)
    np.testing.assert_array_equal(convergence.x0_distance, measure_convergence(velocity, x0).x0_distance)
    assert "2 non-finite values counted as 0" in repr(convergence)


def test_two_steps_are_enough():
    velocity = np.array([[[1.0]], [[4.0]]])
    convergence = measure_convergence(velocity, velocity, hold_steps=3)
    assert (convergence.reuse_error.tolist(), convergence.x0_distance.tolist()) == ([3.0], [[3.0], [0.0]])
    np.testing.assert_array_equal(convergence.reuse_error_steps, [[3.0], [np.nan], [np.nan]])


def test_refuses_runs_it_cannot_measure():
    velocity, x0 = run_of()
    with pytest.raises(InputError, match="got 11 and 10"):
        measure_convergence(velocity, x0[:10])
    with pytest.raises(InputError, match="got 1 and 1"):
        measure_convergence(velocity[:1], x0[:1])
    with pytest.raises(InputError, match="hold_steps 0"):
        measure_convergence(velocity, x0, hold_steps=0)
    with pytest.raises(InputError, match="tolerance 0 must be above 0"):
        measure_convergence(velocity, x0, tolerance=0)
    with pytest.raises(InputError, match="step 0 has velocity"):
        measure_convergence(velocity[:, :6], x0)


def test_repr_tells_when_tokens_settle():
    velocity, x0 = np.zeros((4, 3, 2)), np.zeros((4, 3, 2))
    x0[:2, 0] = 1
    assert repr(measure_convergence(velocity, x0, hold_steps=2)) == (
        "<Convergence of 3 tokens over 4 steps: settled (x0 within 0.1) at step 0 0 1 (quartiles), "
        "median reuse error over 2 steps 0>"
    )
