"""What the sampler is handed at every step of a run that skips whole steps, as combinations of the outputs that were computed.

Reuse, forecast, correction and learned weights are all linear in the computed outputs. So one matrix of numbers says what a step
schedule does: the executor multiplies by it, and a replay of a recording squares it. Row n holds the coefficients of the outputs
of the computed steps in what the sampler gets at step n.

Weights are those of the sampler: final latent = A x_T + sum_n weights[n] output_n (`capture.sampler_weights`). Coordinates are
where lines are drawn: the sampler's sigma on a flow path, else sigma / alpha.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import InputError

_SAME = 1e-9  # two steps at one coordinate (Heun evaluates a point twice) define no line


@dataclass(frozen=True, eq=False)
class StepCoefficients:
    """Coefficients of a step schedule.

    Args:
        computed: bool (step,): at which steps the network is called. The first is.
        handed: float64 (step, step): row n, column m: share of the output of step m in what the sampler gets at step n. Columns
            of skipped steps are 0, and so is everything right of the diagonal.
    """

    computed: np.ndarray
    handed: np.ndarray

    def __len__(self) -> int:
        return len(self.computed)

    @property
    def last_use(self) -> list[int]:
        """(step,): the last step at which each step's output is still needed; -1 for skipped steps."""
        return [int(np.flatnonzero(column)[-1]) if column.any() else -1 for column in self.handed.T]

    def final_error(self, weights: np.ndarray) -> np.ndarray:
        """(step,): coefficients of the outputs of a full run in the error of the final latent.

        To first order: the network's outputs are taken to be those of the full run.
        """
        return np.asarray(weights @ (self.handed - np.eye(len(self))))


def reuse(computed: Sequence[int], steps: int) -> StepCoefficients:
    """The last computed output stands for the skipped ones.

    >>> reuse([0, 2], 4).handed.tolist()
    [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    """
    return forecast(computed, np.arange(steps, dtype=float), order=0)


def forecast(computed: Sequence[int], coordinate: np.ndarray, order: int = 1) -> StepCoefficients:
    """The polynomial of `order` through the last computed outputs: 0 reuse, 1 a line, 2 a parabola; lower while few."""
    flags, handed = _flags(computed, len(coordinate)), np.zeros((len(coordinate), len(coordinate)))
    for step in range(len(coordinate)):
        nodes = _before(flags, coordinate, step, order + 1)
        handed[step, nodes] = _lagrange(coordinate[nodes], coordinate[step])
    return StepCoefficients(flags, handed)


def corrected(computed: Sequence[int], coordinate: np.ndarray, weights: np.ndarray, order: int = 1) -> StepCoefficients:
    """A forecast whose error is made good at the next computed step.

    There the outputs on both sides of the gap are known, and the line between them is the better stand-in. The weighted sum of
    the differences over the gap, divided by the computed step's own weight, is added to what the sampler gets.
    """
    sums = [_inside(weights, gap) @ between(coordinate, gap) for gap in gaps(computed)]
    return _with_corrections(forecast(computed, coordinate, order), weights, sums)


def gaps(computed: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of neighbouring computed steps with skipped steps between them.

    >>> gaps([0, 1, 4, 5, 8])
    [(1, 4), (5, 8)]
    """
    steps = sorted(computed)
    return [(left, right) for left, right in pairwise(steps) if right - left > 1]


def between(coordinate: np.ndarray, gap: tuple[int, int]) -> np.ndarray:
    """(skipped step, step): coefficients of the line between the two ends of a gap; those of its left end where they coincide."""
    left, right = gap
    inside = coordinate[left + 1 : right]
    rows = np.zeros((len(inside), len(coordinate)))
    span = coordinate[right] - coordinate[left]
    share = (inside - coordinate[left]) / span if abs(span) > _SAME else np.zeros(len(inside))
    rows[:, left], rows[:, right] = 1 - share, share
    return rows


def _inside(weights: np.ndarray, gap: tuple[int, int]) -> np.ndarray:
    """Weights of the skipped steps of a gap."""
    return weights[gap[0] + 1 : gap[1]]


def _with_corrections(base: StepCoefficients, weights: np.ndarray, better: Sequence[np.ndarray]) -> StepCoefficients:
    """better: a gap each, (step,): coefficients of the weighted sum of what should have stood for the skipped outputs."""
    handed = base.handed.copy()
    for gap, row in zip(gaps(np.flatnonzero(base.computed).tolist()), better, strict=True):
        left, right = gap
        if weights[right] != 0:  # a step that moves nothing can make nothing good
            handed[right] += (row - _inside(weights, gap) @ base.handed[left + 1 : right]) / weights[right]
    return StepCoefficients(base.computed, handed)


def learned(
    grams: np.ndarray, computed: Sequence[int], coordinate: np.ndarray, weights: np.ndarray, *, terms: int = 3, ridge: float = 0.0
) -> StepCoefficients:
    """As `corrected`, with coefficients fitted to recordings by least squares in the place of the line's.

    Of each skipped step: a forecast from the last `terms` computed outputs. Of each gap: a correction from the output at its
    right end and those `terms`. Both in closed form from Gram matrices.

    Args:
        grams: (recording, step, step), `gram_of_steps` of full runs.
        terms: how many computed outputs a forecast is made of.
        ridge: strength of the pull toward the line, relative to the mean energy of the outputs. Large values give `corrected`.
    """
    total = grams.sum(axis=0)
    base = forecast(computed, coordinate)
    handed = base.handed.copy()
    for step in np.flatnonzero(~base.computed).tolist():
        nodes = _before(base.computed, coordinate, step, terms)
        handed[step, nodes] = _fit(total, nodes, _unit(step, len(coordinate)), base.handed[step, nodes], ridge)
    fitted = StepCoefficients(base.computed, handed)
    better = []
    for left, right in gaps(computed):
        nodes = np.array([right, *_before(base.computed, coordinate, left, terms)])
        target = np.zeros(len(coordinate))
        target[left + 1 : right] = _inside(weights, (left, right))
        line = _inside(weights, (left, right)) @ between(coordinate, (left, right))
        row = np.zeros(len(coordinate))
        row[nodes] = _fit(total, nodes, target, line[nodes], ridge)
        better.append(row)
    return _with_corrections(fitted, weights, better)


def choose_ridge(
    grams: np.ndarray,
    computed: Sequence[int],
    coordinate: np.ndarray,
    weights: np.ndarray,
    *,
    terms: int = 3,
    ridges: Sequence[float] = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e6),
) -> float:
    """The ridge whose coefficients leave the smallest error on recordings that they were not fitted to (leave one out).

    The last of `ridges` is as good as the line, so recordings that do not suffice give the line.
    """
    if len(grams) < 2:
        return float(ridges[-1])
    others = [np.delete(grams, out, axis=0) for out in range(len(grams))]
    errors = []
    for ridge in ridges:
        fits = [learned(rest, computed, coordinate, weights, terms=terms, ridge=ridge).final_error(weights) for rest in others]
        errors.append(sum(float(row @ gram @ row) for row, gram in zip(fits, grams, strict=True)))
    return float(ridges[int(np.argmin(errors))])


def gram_of_steps(outputs: np.ndarray) -> np.ndarray:
    """(step, token, channel) -> (step, step), float64: mean product of the outputs of every two steps."""
    flat = np.asarray(outputs, dtype=np.float64).reshape(len(outputs), -1)
    return np.asarray(flat @ flat.T / flat.shape[1])


def _flags(computed: Sequence[int], steps: int) -> np.ndarray:
    flags = np.zeros(steps, dtype=bool)
    if outside := [step for step in computed if not 0 <= step < steps]:
        raise InputError(f"computed step {outside[0]} lies outside a run of {steps} steps, which count from 0 to {steps - 1}.")
    flags[list(computed)] = True
    if not flags[0]:
        raise InputError("the first step has no earlier output to stand for it; a step schedule begins with step 0.")
    return flags


def _before(flags: np.ndarray, coordinate: np.ndarray, step: int, most: int) -> np.ndarray:
    """Up to `most` computed steps at or before `step`, latest first, at different coordinates."""
    nodes: list[int] = []
    for earlier in range(step, -1, -1):
        if flags[earlier] and all(abs(coordinate[earlier] - coordinate[node]) > _SAME for node in nodes):
            nodes.append(earlier)
        if len(nodes) == most or (nodes and nodes[0] == step):
            break
    return np.array(nodes)


def _lagrange(nodes: np.ndarray, at: float) -> np.ndarray:
    """Coefficients of the values at `nodes` in the polynomial through them, read at `at`."""
    return np.array([np.prod([(at - b) / (a - b) for b in np.delete(nodes, i)]) for i, a in enumerate(nodes)])


def _fit(gram: np.ndarray, nodes: np.ndarray, target: np.ndarray, prior: np.ndarray, ridge: float) -> np.ndarray:
    """Coefficients of the outputs at `nodes` nearest to sum_n target[n] output_n, pulled toward `prior`."""
    inner = gram[np.ix_(nodes, nodes)]
    pull = ridge * np.trace(inner) / len(nodes) * np.eye(len(nodes))
    residual = gram[nodes] @ target - inner @ prior
    return np.asarray(prior + np.linalg.lstsq(inner + pull, residual, rcond=1e-12)[0])


def _unit(step: int, steps: int) -> np.ndarray:
    unit = np.zeros(steps)
    unit[step] = 1.0
    return unit
