"""Paired statistics: the same prompt and seed under two methods, and two methods at equal compute. Intervals resample prompts."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
Key = tuple[str, int]  # prompt, seed


@dataclass(frozen=True)
class Estimate:
    """A mean over runs and its bootstrap percentile interval; both ends None where fewer than two prompts or runs are at hand."""

    value: float
    low: float | None
    high: float | None
    runs: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(values: Mapping[Key, float], seed: int = 0, weights: Mapping[Key, float] | None = None) -> Estimate:
    """The mean of one value a run. Runs of one prompt are drawn together, unless there is only one prompt.

    weights: of the runs; None: alike. Ratios weighed by their denominators have the ratio of the sums for a mean.

    >>> estimate({("a", 0): 2.0, ("b", 0): 0.5}, weights={("a", 0): 1.0, ("b", 0): 4.0}).value
    0.8
    """
    by_prompt: dict[str, list[Key]] = {}
    for key in values:
        by_prompt.setdefault(key[0], []).append(key)
    groups = list(by_prompt.values()) if len(by_prompt) > 1 else [[key] for key in values]
    weight_of = dict.fromkeys(values, 1.0) if weights is None else weights
    sums = np.array([sum(values[key] * weight_of[key] for key in group) for group in groups])
    counts = np.array([sum(weight_of[key] for key in group) for group in groups])
    mean = float(sums.sum() / counts.sum())
    if len(groups) < 2:
        return Estimate(mean, None, None, len(values))
    drawn = _resamples(len(groups), seed)
    low, high = _interval(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return Estimate(mean, float(low), float(high), len(values))


def paired(first: Mapping[Key, float], second: Mapping[Key, float]) -> Estimate | None:
    """first - second over the runs that both have; None where there are none."""
    common = {key: first[key] - second[key] for key in first if key in second}
    return estimate(common) if common else None


def front_name(method: str, options: Mapping[str, str]) -> str:
    """The method with its options that are no numbers: rows of one name lie on one front and differ in their setting.

    A number at the end of a preset's name is a setting too.

    >>> front_name("uniform", {"k": "3", "output": "forecast"}), front_name("ras", {"end": "N", "ratio": "0.5"})
    ('uniform:output=forecast', 'ras:end=N')
    >>> front_name("jano", {"preset": "jano/flux-1/2"}), front_name("jano", {"preset": "demo/best-step-0.6"})
    ('jano:preset=jano/flux-1', 'jano:preset=demo/best-step')
    """
    settings = {key: re.sub(r"[/-][\d.]+$", "", value) if key == "preset" else value for key, value in options.items()}
    words = [f"{key}={value}" for key, value in settings.items() if not re.fullmatch(r"[\d./+-]+", value)]
    return method + (":" + ",".join(words) if words else "")


def undominated(points: Sequence[tuple[float, float] | None]) -> list[bool]:
    """Which (compute, quality) points no other beats in quality at the same compute or less; None never is.

    >>> undominated([(0.4, 30.0), (0.5, 29.0), (0.6, 40.0), None])
    [True, False, True, False]
    """
    known = [point for point in points if point is not None]
    return [
        point is not None and not any(c <= point[0] and q >= point[1] and (c, q) != point for c, q in known) for point in points
    ]


def at_compute(points: Sequence[tuple[float, float]], compute: float) -> float | None:
    """Quality of a front at this compute, on the lines between its (compute, quality) points; None outside them.

    >>> at_compute([(0.4, 30.0), (0.6, 40.0)], 0.5)
    35.0
    """
    ordered = sorted(points)
    if len(ordered) < 2 or not ordered[0][0] <= compute <= ordered[-1][0]:
        return None
    return float(np.interp(compute, [c for c, _ in ordered], [q for _, q in ordered]))


def equal_compute(row: Mapping[Key, tuple[float, float]], front: Sequence[Mapping[Key, tuple[float, float]]]) -> Estimate | None:
    """Quality of a row minus that of another method's front at the same compute, run by run; None where they never meet.

    Both map a run to (compute, quality); `front` has one mapping for each of the rows on the front.
    """
    differences = {}
    for key, (compute, quality) in row.items():
        other = at_compute([points[key] for points in front if key in points], compute)
        if other is not None:
            differences[key] = quality - other
    return estimate(differences) if differences else None


def estimate_of(name: str, values: Iterable[float | None]) -> dict[str, Any]:
    """{name: mean, interval: [low, high] or nulls, recordings: count} of the values that exist."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    low, high = interval_of_mean(known)
    return {name: float(known.mean()) if known.size else None, "interval": [low, high], "recordings": int(known.size)}


def interval_of_mean(values: np.ndarray) -> tuple[Any, Any]:
    """Bootstrap percentile bounds of the mean over the first axis; None for fewer than two cases."""
    if len(values) < 2:
        return None, None
    weights = np.stack([np.bincount(row, minlength=len(values)) for row in _resamples(len(values))]) / len(values)
    low, high = _interval(np.tensordot(weights, values, axes=1))
    return (float(low), float(high)) if values.ndim == 1 else (low, high)


def _resamples(cases: int, seed: int = 0) -> np.ndarray:
    """(resample, case): which cases each bootstrap resample draws."""
    return np.random.default_rng(seed).integers(cases, size=(RESAMPLES, cases))


def _interval(means: np.ndarray) -> np.ndarray:
    """Percentile bounds of resampled means, over the first axis."""
    return np.asarray(np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0))
