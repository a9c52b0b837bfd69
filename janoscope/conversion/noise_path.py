"""NoisePath: alpha and sigma of every step of a run, and how fast they change."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import InputError

Derivative = Literal["backward", "tangent", "closed-form"]
Family = Literal["flow", "variance-exploding", "variance-preserving", "other"]
Values = float | np.ndarray

# schedulers keep alpha and sigma in float32 (some recompute them from bf16 configs); far below any real step of a path
FAMILY_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class PathPoint:
    """Where on the noise path a sample lies, and the rates of alpha and sigma per unit of time.

    Scalars for one step, or float64 arrays (step,) for many. Rates may be left out where no velocity is asked for.
    """

    alpha: Values
    sigma: Values
    alpha_rate: Values | None = None
    sigma_rate: Values | None = None


@dataclass(frozen=True, repr=False, eq=False)
class NoisePath:
    """alpha and sigma of each recorded sample, x = alpha x0 + sigma eps, for the steps of one run.

    `timestep`, `alpha`, `sigma` are (step,) float64, noisy first. `final` is the pair after the last step: (1, 0) for a finished
    generation; the scheduler's own final value where it has another (`set_alpha_to_one=False`); for a run that was cut short the
    pair of the next step, or None if unknown. A run of 50 steps has 50 gaps: the last leads to `final`.

    Time (`time_unit`) is sigma itself on rectified-flow and EDM paths, else the scheduler's timestep, whose last gap repeats the
    gap before it (as DDIM does; one step alone is taken to end at timestep 0).

    Raises `InputError` for arrays of unequal length, values that are not finite, or time that runs toward noise.

    >>> path = NoisePath([1000.0, 500.0], [0.0, 0.5], [1.0, 0.5])
    >>> path.at(1).sigma_rate
    1.0
    """

    timestep: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    final: tuple[float, float] | None = (1.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("timestep", "alpha", "sigma"):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        shapes = {name: getattr(self, name).shape for name in ("timestep", "alpha", "sigma")}
        if len(set(shapes.values())) != 1 or self.alpha.ndim != 1 or not self.alpha.size:
            raise InputError(f"noise path needs one timestep, alpha and sigma for each step, got shapes {shapes}.")
        if not all(np.isfinite(getattr(self, name)).all() for name in shapes):
            raise InputError("noise path holds values that are not finite; give alpha and sigma of every step.")
        if np.any(np.diff(self.time) > 0):
            at = int(np.argmax(np.diff(self.time) > 0)) + 1
            raise InputError(
                f"noise path runs back toward noise at step {at} ({self.time_unit} grows); give steps from noise to data."
            )

    def __len__(self) -> int:
        return len(self.alpha)

    def __repr__(self) -> str:
        end = "unknown" if self.final is None else f"alpha {self.final[0]:.4g}, sigma {self.final[1]:.4g}"
        return (
            f"<NoisePath {self.family}, {len(self)} steps, time in {self.time_unit}: alpha {self.alpha[0]:.4g} -> "
            f"{self.alpha[-1]:.4g}, sigma {self.sigma[0]:.4g} -> {self.sigma[-1]:.4g}, final {end}>"
        )

    @property
    def family(self) -> Family:
        """Which closed form fits all steps: alpha + sigma = 1, alpha = 1, alpha^2 + sigma^2 = 1, or none."""
        if np.allclose(self.alpha + self.sigma, 1, atol=FAMILY_TOLERANCE):
            return "flow"
        if np.allclose(self.alpha, 1, atol=FAMILY_TOLERANCE):
            return "variance-exploding"
        if np.allclose(self.alpha**2 + self.sigma**2, 1, atol=FAMILY_TOLERANCE):
            return "variance-preserving"
        return "other"

    @property
    def time_unit(self) -> str:
        return "sigma" if self.family in ("flow", "variance-exploding") else "timestep"

    @property
    def time(self) -> np.ndarray:
        """(step,) float64 in `time_unit`, falling."""
        return self.sigma if self.time_unit == "sigma" else self.timestep

    @property
    def gap(self) -> np.ndarray:
        """(step,) time from each step to the next: 0 where a sampler evaluates a point twice, last one NaN without `final`."""
        end = [np.nan] if self.final is None else [self._final_time()]
        return -np.diff(np.concatenate([self.time, end]))

    def at(self, step: int | slice = slice(None), derivative: Derivative = "backward") -> PathPoint:
        """The path at one step (scalars) or several (arrays), with its rates.

        `backward`: differences to the next step over the sampler's own gap, which makes an Euler step of the velocity the DDIM
        step; where nothing moves in that gap (no `final`, or a final pair equal to the last one), the gap before it.
        `tangent`: the parabola through each step and its neighbours, second order for uneven gaps as well.
        `closed-form`: the exact law of the family; its speed along a variance-preserving path is the tangent of the angle.

        Raises:
            InputError: another derivative, a step outside the path, or no closed form.
        """
        makers: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
            "backward": self._backward,
            "tangent": lambda: (self._tangent(0), self._tangent(1)),
            "closed-form": self._closed_form,
        }
        if derivative not in makers:
            raise InputError(f"derivative {derivative!r} is unknown; choose one of {', '.join(makers)}.")
        if isinstance(step, int) and not -len(self) <= step < len(self):
            raise InputError(f"step {step} lies outside the noise path of {len(self)} steps.")
        columns = [values[step] for values in (self.alpha, self.sigma, *makers[derivative]())]
        return PathPoint(*(columns if isinstance(step, slice) else map(float, columns)))

    def _final_time(self) -> float:
        if self.final is not None and self.time_unit == "sigma":
            return float(self.final[1])
        gaps = -np.diff(self.time)
        moved = gaps[gaps > 0]
        last_gap = moved[-1] if moved.size else max(self.time[-1], 1.0)
        return float(self.time[-1] - last_gap)

    def _nodes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distinct points of the path (time, (alpha, sigma)) with the final one, and the node of each step.

        Heun and PNDM visit a point twice; a difference over a gap of nothing has no meaning, so repeats share a node.
        """
        time, pair = self.time, np.stack([self.alpha, self.sigma], axis=1)
        if self.final is not None:
            time, pair = np.append(time, self._final_time()), np.vstack([pair, self.final])
        fresh = np.append(True, (np.diff(time) != 0) & np.any(np.diff(pair, axis=0) != 0, axis=1))
        if fresh.sum() < 2:
            raise InputError(
                "noise path holds a single point, so alpha and sigma have no rate; give the pair after it as `final`."
            )
        return time[fresh], pair[fresh], np.cumsum(fresh)[: len(self)] - 1

    def _backward(self) -> tuple[np.ndarray, np.ndarray]:
        time, pair, node = self._nodes()
        slope = np.diff(pair, axis=0) / np.diff(time)[:, None]  # (gap, alpha and sigma)
        rates = slope[np.minimum(node, len(slope) - 1)]
        return rates[:, 0], rates[:, 1]

    def _tangent(self, column: int) -> np.ndarray:
        time, pair, node = self._nodes()
        return _parabola_slope(pair[:, column], time)[node]

    def _closed_form(self) -> tuple[np.ndarray, np.ndarray]:
        one = np.ones(len(self))
        if self.family == "flow":
            return -one, one
        if self.family == "variance-exploding":
            return 0 * one, one
        if self.family == "other":
            raise InputError(
                f"closed-form rates need a flow, EDM or variance-preserving path, not {self!r}; use backward or tangent."
            )
        time, pair, node = self._nodes()
        speed = _parabola_slope(np.arctan2(pair[:, 1], pair[:, 0]), time)[node]  # of the angle atan2(sigma, alpha)
        return -self.sigma * speed, self.alpha * speed


def _parabola_slope(values: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Three-point slope for uneven gaps, one-sided at the ends; the chord where there are only two points."""
    return np.gradient(values, time, edge_order=2 if len(time) > 2 else 1)


def point_columns(point: PathPoint, names: tuple[str, ...]) -> list[Values]:
    """The named values of a point; an `InputError` names what is missing."""
    missing = [name for name in names if getattr(point, name) is None]
    if missing:
        raise InputError(f"path point lacks {' and '.join(missing)}; take it from NoisePath.at(step), or give the rates.")
    return [getattr(point, name) for name in names]
