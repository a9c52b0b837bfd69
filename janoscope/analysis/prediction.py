"""How well an early map predicts what a token will need: rank correlation, agreement of classes, separation; with intervals.

Tokens of one image are not independent: neighbours share a tile's score and a scene's content. Every interval here resamples
groups (`groups`, e.g. `tile_of_tokens`) whole; without groups each token is its own and the interval is too narrow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

RESAMPLES = 1000
LEVEL = 0.95
DRAWN_AT_ONCE = 1 << 20  # 8 MiB of counts
CACHED = 1 << 24  # 32 MiB of counts: more are drawn again whenever they are read


@dataclass(frozen=True)
class Estimate:
    """A value and its bootstrap percentile interval; all NaN where a map is constant."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class MapScore:
    """One map against one target, both per token; `agreement` is the share of tokens in the same class (`class_agreement`)."""

    map: str
    target: str
    spearman: Estimate
    agreement: Estimate

    def __str__(self) -> str:
        return f"{self.map} -> {self.target}: Spearman {self.spearman}, same class {self.agreement}"


def map_predicts(
    maps: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[MapScore, ...]:
    """Every map against every target: early scores against `convergence_step`, `reuse_error`, ...

    Args:
        maps, targets: (token,) by name.
        groups: (token,) group of each token, resampled whole; None resamples single tokens. seed: of the resamples.

    Raises:
        InputError: arrays of other shapes, or values that are not finite.
    """
    ordered_targets = {name: _Ordered.of(values) for name, values in targets.items()}
    resamples = _Resamples(RESAMPLES, seed)  # the same for every pair, so drawn once
    map_scores = []
    for map_name, scores in maps.items():
        ordered = _Ordered.of(scores)  # sorting costs most, so each array is sorted once
        for target_name, target in ordered_targets.items():
            cases = (ordered, target, _checked_groups(ordered, target, groups), resamples)
            map_scores.append(MapScore(map_name, target_name, _spearman(*cases), _class_agreement(*cases, {})))
    return tuple(map_scores)


def spearman(
    scores: np.ndarray, target: np.ndarray, *, groups: np.ndarray | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Spearman's rank correlation of two (token,) arrays, ties at their mean rank, with a bootstrap interval.

    Ranks are taken once and resampled with their tokens, not taken anew in each resample. NaN where either array is constant.
    """
    ordered, other = _Ordered.of(scores), _Ordered.of(target)
    return _spearman(ordered, other, _checked_groups(ordered, other, groups), _Resamples(resamples, seed))


def _spearman(scores: "_Ordered", target: "_Ordered", groups: np.ndarray, resamples: "_Resamples") -> Estimate:
    a, b = scores.mean_ranks, target.mean_ranks
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Estimate(np.nan, np.nan, np.nan)
    a, b = a - a.mean(), b - b.mean()
    terms = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b])  # (moment, token)
    moments = np.stack([np.bincount(groups, weights=term) for term in terms], axis=1)  # (group, moment)
    values = [_correlation(drawn @ moments) for drawn in resamples.of(len(moments))]
    return Estimate(float(_correlation(moments.sum(axis=0))), *_quantiles(np.concatenate(values)))


def quantile_classes(values: np.ndarray, *, static: float = 0.3, moderate: float = 0.6) -> np.ndarray:
    """0, 1 or 2 for each of (token,): the lowest share `static`, those up to `moderate`, the rest; equal values stay together."""
    if not 0 <= static <= moderate <= 1:
        raise InputError(f"quantiles static {static} and moderate {moderate} must satisfy 0 <= static <= moderate <= 1.")
    return _Ordered.of(values).classes(static, moderate)


def class_agreement(
    scores: np.ndarray,
    target: np.ndarray,
    *,
    static: float = 0.3,
    moderate: float = 0.6,
    groups: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Share of tokens that a map puts in the class their target asks for, each cut at its own quantiles.

    By chance alone the share is about static^2 + (moderate - static)^2 + (1 - moderate)^2, 0.34 at the defaults.
    """
    ordered, other = _Ordered.of(scores), _Ordered.of(target)
    cuts = {"static": static, "moderate": moderate}
    return _class_agreement(ordered, other, _checked_groups(ordered, other, groups), _Resamples(resamples, seed), cuts)


def _class_agreement(
    scores: "_Ordered", target: "_Ordered", groups: np.ndarray, resamples: "_Resamples", cuts: Mapping[str, float]
) -> Estimate:
    same = scores.classes(**cuts) == target.classes(**cuts)
    hits, sizes = np.bincount(groups, weights=same), np.bincount(groups)
    values = [(drawn @ hits) / (drawn @ sizes) for drawn in resamples.of(len(sizes))]
    return Estimate(float(same.mean()), *_quantiles(np.concatenate(values)))


def separation(
    step_change: np.ndarray,
    active: np.ndarray,
    static: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """How well the change separates active tokens from static ones in the middle of a run: the area under the ROC curve.

    Args:
        step_change: (step, token), e.g. `Convergence.velocity_change`; each token's score is its median over the steps between 25
            and 75 % of the run.
        active, static: (token,) booleans, disjoint.
        groups, resamples, seed: of the bootstrap, see `map_predicts`.

    Returns:
        1: every active token above every static one; 0.5: no separation; ties count half. NaN where a class is empty.

    Raises:
        InputError: fewer than two steps, or tokens that are both.
    """
    steps = len(step_change)
    if steps < 2:
        raise InputError(f"a run's middle needs two steps or more, got {steps}.")
    middle = step_change[int(np.ceil(0.25 * steps)) : int(np.floor(0.75 * steps)) + 1]
    scores = np.median(middle, axis=0)
    active, static = np.asarray(active, dtype=bool), np.asarray(static, dtype=bool)
    groups = _checked_groups(_Ordered.of(scores), _Ordered.of(active), groups)
    if np.any(active & static):
        raise InputError(f"{np.count_nonzero(active & static)} tokens are both active and static; the classes must be disjoint.")
    _, place = np.unique(scores, return_inverse=True)
    whole = _area(place, active.astype(float), static.astype(float))
    draws = (drawn for several in _draws(int(groups.max()) + 1, resamples, seed) for drawn in several)
    values = [_area(place, drawn[groups] * active, drawn[groups] * static) for drawn in draws]
    return Estimate(whole, *_quantiles(np.array(values)))


def _area(place: np.ndarray, active: np.ndarray, static: np.ndarray) -> float:
    """Weighted probability that an active token lies above a static one, on places in order of value."""
    above, below = np.bincount(place, weights=active), np.bincount(place, weights=static)
    pairs = above.sum() * below.sum()
    return float(np.dot(above, np.cumsum(below) - below / 2) / pairs) if pairs else np.nan


def _correlation(moments: np.ndarray) -> np.ndarray:
    """Pearson's, from the sums of 1, a, b, a a, b b, a b along the last axis; NaN where one of the two does not vary."""
    n, a, b, aa, bb, ab = np.moveaxis(moments, -1, 0)
    spread = (n * aa - a * a) * (n * bb - b * b)
    return np.asarray((n * ab - a * b) / np.sqrt(np.where(spread > 0, spread, np.nan)))


class _Resamples:
    """How often each group is drawn in each of `count` resamples: always the same draws, cached where they are small."""

    def __init__(self, count: int, seed: int):
        self._count, self._seed = count, seed
        self._cached: dict[int, list[np.ndarray]] = {}  # by the number of groups; (resample, group) uint16

    def of(self, groups: int) -> Iterator[np.ndarray]:
        """(resample, group) float64, as many resamples at a time as stay small in memory."""
        # a group is drawn at most as often as there are groups
        if groups * self._count > CACHED or groups > np.iinfo(np.uint16).max:
            yield from _draws(groups, self._count, self._seed)
            return
        if groups not in self._cached:
            self._cached = {groups: [drawn.astype(np.uint16) for drawn in _draws(groups, self._count, self._seed)]}
        for drawn in self._cached[groups]:
            yield drawn.astype(np.float64)


def _draws(groups: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each group is drawn: (resample, group) float64, as many resamples at a time as stay small in memory."""
    rng = np.random.default_rng(seed)
    most = max(1, DRAWN_AT_ONCE // groups)
    for start in range(0, resamples, most):
        count = min(most, resamples - start)
        drawn = rng.integers(groups, size=(count, groups)) + groups * np.arange(count)[:, np.newaxis]
        yield np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups).astype(np.float64)


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    defined = values[~np.isnan(values)]  # a resample may draw no token of a class
    if not defined.size:
        return np.nan, np.nan
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class _Ordered:
    """Of each of (token,) values, how many lie strictly below it and how many equal it, itself included."""

    below: np.ndarray
    equal: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "_Ordered":
        values = np.asarray(values)
        if values.ndim != 1 or not values.size:
            raise InputError(f"one value a token is needed, got an array of shape {values.shape}.")
        if not np.isfinite(values).all():
            raise InputError("a map or target holds NaN or infinite values; rank correlation has no place for them.")
        order = np.argsort(values)
        ordered = values[order]
        first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))  # where a run of equal values begins
        lengths = np.diff(np.append(first, values.size))
        below, equal = np.empty((2, values.size), dtype=np.int64)
        below[order], equal[order] = np.repeat(first, lengths), np.repeat(lengths, lengths)
        return cls(below, equal)

    @property
    def mean_ranks(self) -> np.ndarray:
        """From 1; equal values share the mean of their ranks."""
        return self.below + (self.equal + 1) / 2

    def classes(self, static: float = 0.3, moderate: float = 0.6) -> np.ndarray:
        """As `quantile_classes`."""
        share = self.below / self.below.size
        return (share >= static).astype(np.int64) + (share >= moderate)


def _checked_groups(scores: _Ordered, target: _Ordered, groups: np.ndarray | None) -> np.ndarray:
    """Groups counted from 0 without gaps; each token its own where none are given."""
    numbered = np.arange(scores.below.size) if groups is None else np.unique(groups, return_inverse=True)[1]
    if not scores.below.shape == target.below.shape == numbered.shape:
        shapes = f"map {scores.below.shape}, target {target.below.shape}, groups {numbered.shape}"
        raise InputError(f"one value a token is needed, got {shapes}.")
    return numbered
