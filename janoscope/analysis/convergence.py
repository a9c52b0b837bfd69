"""Convergence: when each token settles, and the error of reusing its velocity, read step by step from a recording."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..array_api import AnyArray
from ..errors import InputError
from .arrays import to_host

# rms distance in units of the latent: a tenth of a unit-variance latent is below what a decoded picture shows
TOLERANCE = 0.1
CHANGE_TOLERANCE = 0.1  # of the velocity's own rms
HOLD_STEPS = 7


@dataclass(frozen=True, repr=False, eq=False)
class Convergence:
    """How each token of one generation settles. Arrays are float32; the token axis may carry leading axes (item, ...).

    `velocity_rms`, `velocity_change` (step, token): rms over channels of the velocity, and of its difference to the step before
    (NaN at step 0). `x0_distance` (step, token): rms distance of the x0 estimate to the last one. `convergence_step` (token,)
    int64: the first step from which the distance stays below `tolerance` to the end. `reuse_error` (token,): rms error of a
    velocity that is reused for 1 to `hold_steps` steps instead of computed, over all steps it can start from; `reuse_error_steps`
    (steps reused - 1, token) the same for each number of steps alone, NaN where the run is shorter.
    `nonfinite`: input values that were NaN or infinite and counted as 0.
    """

    velocity_rms: np.ndarray
    velocity_change: np.ndarray
    x0_distance: np.ndarray
    convergence_step: np.ndarray
    reuse_error: np.ndarray
    reuse_error_steps: np.ndarray
    tolerance: float
    hold_steps: int
    nonfinite: int

    @property
    def relative_change(self) -> np.ndarray:
        """(step, token): velocity change over the velocity's own rms; 0 where both are 0."""
        return np.divide(
            self.velocity_change,
            self.velocity_rms,
            out=np.where(self.velocity_change > 0, np.inf, self.velocity_change),
            where=self.velocity_rms > 0,
        )

    def velocity_convergence_step(self, tolerance: float = CHANGE_TOLERANCE) -> np.ndarray:
        """(token,) int64: the first step from which the relative change stays below the tolerance to the end."""
        return convergence_step(self.relative_change, tolerance)

    def __repr__(self) -> str:
        early, middle, late = np.quantile(self.convergence_step, [0.25, 0.5, 0.75])
        bad = f", {self.nonfinite} non-finite values counted as 0" if self.nonfinite else ""
        return (
            f"<Convergence of {self.convergence_step.size} tokens over {len(self.x0_distance)} steps: settled (x0 within "
            f"{self.tolerance:g}) at step {early:g} {middle:g} {late:g} (quartiles), median reuse error over {self.hold_steps} "
            f"steps {np.median(self.reuse_error):.3g}{bad}>"
        )


class ConvergenceAccumulator:
    """Takes the steps of a generation one at a time, in order, and holds no more than `hold_steps` velocities.

    `final_x0` (..., token, channel) is the x0 estimate of the last step: read that one first, then feed all steps.

    >>> steps = ConvergenceAccumulator(np.zeros((1, 2)), hold_steps=1)
    >>> for size in (2.0, 1.0, 0.0): steps.add(np.full((1, 2), size), np.full((1, 2), size))
    >>> result = steps.result()
    >>> result.convergence_step.tolist(), result.reuse_error.tolist()
    ([2], [1.0])
    """

    def __init__(self, final_x0: AnyArray, *, hold_steps: int = HOLD_STEPS, tolerance: float = TOLERANCE) -> None:
        if hold_steps < 1:
            raise InputError(f"hold_steps {hold_steps} must be at least 1.")
        if not tolerance > 0:
            raise InputError(f"tolerance {tolerance} must be above 0; the distance of x0 to its last value never falls below 0.")
        self._final, _ = _finite(final_x0)
        self._nonfinite = 0  # the last step is fed again, and counted then
        self._past: deque[np.ndarray] = deque(maxlen=hold_steps)
        self._tolerance = tolerance
        self._rms: list[np.ndarray] = []
        self._change: list[np.ndarray] = []
        self._distance: list[np.ndarray] = []
        self._error = np.zeros((hold_steps, *self._final.shape[:-1]))  # squared errors, summed by steps reused - 1, float64

    def add(self, velocity: AnyArray, x0: AnyArray) -> None:
        """One step: flow velocity and x0 estimate, each (..., token, channel)."""
        (now, bad_velocity), (estimate, bad_x0) = _finite(velocity), _finite(x0)
        if estimate.shape != self._final.shape or now.shape[:-1] != self._final.shape[:-1]:
            raise InputError(
                f"step {len(self._rms)} has velocity {now.shape} and x0 {estimate.shape}, expected {self._final.shape}."
            )
        self._nonfinite += bad_velocity + bad_x0
        for age, past in enumerate(reversed(self._past)):
            self._error[age] += _mean_square(now - past)
        previous = self._past[-1] if self._past else np.full_like(now, np.nan)
        self._rms.append(np.sqrt(_mean_square(now)))
        self._change.append(np.sqrt(_mean_square(now - previous)))
        self._distance.append(np.sqrt(_mean_square(estimate - self._final)))
        self._past.append(now.copy())

    def result(self) -> Convergence:
        """What was fed so far, taken as the whole generation. Raises `InputError` for fewer than two steps."""
        if len(self._rms) < 2:
            raise InputError(f"convergence needs two steps or more, got {len(self._rms)}.")
        distance = np.stack(self._distance)
        starts = np.maximum(len(self._rms) - 1 - np.arange(len(self._error)), 0)  # steps that can be reused for that long
        each = np.divide(self._error.T, starts, out=np.full(self._error.T.shape, np.nan), where=starts > 0).T
        return Convergence(
            velocity_rms=np.stack(self._rms),
            velocity_change=np.stack(self._change),
            x0_distance=distance,
            convergence_step=convergence_step(distance, self._tolerance),
            reuse_error=np.sqrt(self._error.sum(axis=0) / starts.sum()).astype(np.float32),
            reuse_error_steps=np.sqrt(each).astype(np.float32),
            tolerance=self._tolerance,
            hold_steps=self._past.maxlen or 0,
            nonfinite=self._nonfinite,
        )


def measure_convergence(
    velocity: Sequence[AnyArray], x0: Sequence[AnyArray], *, hold_steps: int = HOLD_STEPS, tolerance: float = TOLERANCE
) -> Convergence:
    """Convergence of a whole run. One step is in memory at a time, so a lazy view of a recording is never loaded whole.

    Args:
        velocity, x0: (step, ..., token, channel) arrays, or anything with a length that gives one step by index.
        hold_steps: most steps that a velocity is reused for.
        tolerance: rms distance in latent units under which an x0 estimate counts as settled.

    Raises:
        InputError: fewer than two steps, or lengths that differ.
    """
    if len(velocity) != len(x0) or len(x0) < 2:
        raise InputError(f"convergence needs velocity and x0 of the same two steps or more, got {len(velocity)} and {len(x0)}.")
    steps = ConvergenceAccumulator(x0[len(x0) - 1], hold_steps=hold_steps, tolerance=tolerance)
    for step in range(len(x0)):
        steps.add(velocity[step], x0[step])
    return steps.result()


def convergence_step(distance: np.ndarray, tolerance: float) -> np.ndarray:
    """First step from which (step, ...) stays below the tolerance for good; the number of steps where it never does."""
    outside = ~(distance < tolerance)
    last_outside = len(distance) - 1 - np.argmax(outside[::-1], axis=0)
    return np.where(outside.any(axis=0), last_outside + 1, 0)


def reuse_error(velocity: Sequence[AnyArray], hold_steps: int) -> np.ndarray:
    """(..., token) float32: rms error of a velocity reused for 1 to `hold_steps` steps, over all steps it can start from."""
    steps = ConvergenceAccumulator(velocity[0], hold_steps=hold_steps)
    for step in range(len(velocity)):
        now = velocity[step]
        steps.add(now, now)
    return steps.result().reuse_error


def _finite(values: AnyArray) -> tuple[np.ndarray, int]:
    host = to_host(values).astype(np.float32, copy=False)
    good = np.isfinite(host)
    bad = int(host.size - np.count_nonzero(good))
    return (np.where(good, host, np.float32(0)) if bad else host), bad


def _mean_square(values: np.ndarray) -> np.ndarray:
    return np.einsum("...c,...c->...", values, values) / values.shape[-1]
