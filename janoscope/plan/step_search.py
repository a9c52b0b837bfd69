"""Which steps to compute: shortest paths over recorded runs.

Nodes are steps; an edge i -> j says that i and j are computed and nothing between them. Its cost is the squared error of the
final latent that the skipped steps leave, averaged over recordings: ||sum_n weights[n] (stand-in_n - output_n)||^2, with the
line between i and j as the stand-in where outputs are corrected, and the forecast through the two computed outputs before the
gap where they are not. A forecast depends on two computed steps, so paths run over pairs of steps. An early error is amplified
by the network's later answers to it: costs are multiplied by exp(growth (1 - i / steps)).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class StepPath:
    """A step schedule and the error that recordings predict for it.

    computed: the steps at which the network is called, ascending. error: squared, per value of the final latent, amplification
    included; for ranking only.
    """

    computed: tuple[int, ...]
    error: float


@dataclass(frozen=True, eq=False)
class EdgeCosts:
    """inner: (step p, step i, step j): of skipping all between i and j, p the computed step before i; inf where not p < i < j.
    last: (step p, step i): of skipping all steps after i."""

    inner: np.ndarray
    last: np.ndarray


def edge_costs(
    gram: np.ndarray,
    coordinate: np.ndarray,
    weights: np.ndarray,
    *,
    output: str = "corrected",
    growth: float = 0.0,
    forecast_share: float = 0.0,
) -> EdgeCosts:
    """Costs of all edges from the mean Gram matrix of recorded outputs.

    Args:
        gram: (step, step), mean of `gram_of_steps` over recordings.
        output: `corrected`, `forecast` or `hold`.
        growth: how fast an error grows through the rest of the run; 0: not at all.
        forecast_share: of `corrected`: how much of the forecast's error, which the network sees before it is corrected, is added.
    """
    steps = len(gram)
    # cumulative sums over steps of weights, weights * coordinate and weights * output, so that an edge needs no loop over its
    # inside
    sum_weight = np.concatenate([[0.0], np.cumsum(weights)])
    sum_moment = np.concatenate([[0.0], np.cumsum(weights * coordinate)])
    prefix = np.vstack([np.zeros(steps), np.cumsum(np.diag(weights), axis=0)])  # (step + 1, step): coefficients of the sums

    def energies(left: int, other: np.ndarray, right: int | np.ndarray) -> np.ndarray:
        """(edge,): squared error of the line through `left` and each other step, over the steps from left + 1 to right - 1."""
        total = sum_weight[right] - sum_weight[left + 1]
        moment = sum_moment[right] - sum_moment[left + 1]
        span = coordinate[other] - coordinate[left]
        share = np.divide(moment - coordinate[left] * total, span, out=np.zeros(len(other)), where=np.abs(span) > 1e-9)
        if output == "hold":
            share = np.zeros(len(other))
        rows = np.broadcast_to(prefix[left + 1] - prefix[right], (len(other), steps)).copy()
        rows[:, left] += total - share
        rows[np.arange(len(other)), other] += share
        return np.asarray(((rows @ gram) * rows).sum(axis=1))

    inner, last = np.full((steps, steps, steps), np.inf), np.full((steps, steps), np.inf)
    for left in range(1, steps):
        before, amplified = np.arange(left), np.exp(growth * (1 - left / steps))
        after = np.arange(left + 1, steps)
        cost = np.zeros((left, len(after)))
        if output == "corrected" and len(after):
            cost += energies(left, after, after)
        if output != "corrected" or forecast_share:
            seen = np.stack([energies(left, before, right) for right in after.tolist()], axis=1) if len(after) else cost
            cost += (forecast_share if output == "corrected" else 1.0) * seen
        inner[:left, left, left + 1 :] = amplified * cost
        last[:left, left] = amplified * energies(left, before, steps) if left < steps - 1 else 0.0
    return EdgeCosts(inner, last)


def shortest_paths(costs: EdgeCosts, most: int | None = None) -> list[StepPath]:
    """The best schedule of each number of computed steps, from 2 to `most`; steps 0 and 1 are always computed."""
    steps = len(costs.last)
    if steps < 2:
        raise InputError(f"a run of {steps} steps leaves nothing to skip; a step schedule needs at least 2.")
    most = steps if most is None else min(most, steps)
    best = np.full((steps, steps), np.inf)  # (p, i): of paths that end with the computed steps p, i
    best[0, 1] = 0.0
    back: list[np.ndarray] = []
    paths = []
    for count in range(2, most + 1):
        ends = best + costs.last
        p, i = np.unravel_index(int(np.argmin(ends)), ends.shape)
        if np.isfinite(ends[p, i]):
            paths.append(StepPath(_trace(back, int(p), int(i)), max(0.0, float(ends[p, i]))))
        if count < most:
            through = best[:, :, None] + costs.inner
            back.append(np.argmin(through, axis=0))
            best = np.take_along_axis(through, back[-1][None], axis=0)[0]
    return paths


def _trace(back: Sequence[np.ndarray], p: int, i: int) -> tuple[int, ...]:
    path = [i, p]
    for before in reversed(back):
        path.append(int(before[path[-1], path[-2]]))
    return tuple(reversed(path))


def pareto_front(paths: Sequence[StepPath]) -> list[StepPath]:
    """The paths that no path with as few computed steps beats, fewest steps first.

    >>> [path.computed for path in pareto_front([StepPath((0, 1), 2.0), StepPath((0, 1, 2), 3.0), StepPath((0, 1, 2, 3), 1.0)])]
    [(0, 1), (0, 1, 2, 3)]
    """
    front: list[StepPath] = []
    for path in sorted(paths, key=lambda path: (len(path.computed), path.error)):
        if not front or path.error < front[-1].error:
            front.append(path)
    return front


def curvature(gram: np.ndarray, coordinate: np.ndarray) -> np.ndarray:
    """(step,): how far each output lies from the line between its neighbours' outputs, root mean square; nan at both ends.

    In units of the output. Where it is high, steps are worth computing.
    """
    found = np.full(len(gram), np.nan)
    for step in range(1, len(gram) - 1):
        span = coordinate[step + 1] - coordinate[step - 1]
        share = (coordinate[step] - coordinate[step - 1]) / span if span else 0.5
        row = np.zeros(len(gram))
        row[step - 1], row[step], row[step + 1] = 1 - share, -1.0, share
        found[step] = np.sqrt(max(0.0, row @ gram @ row))
    return found


def fidelity(gram: np.ndarray, neighbours: Sequence[int]) -> np.ndarray:
    """(step,): share of each output's energy that its neighbours' outputs can tell by their best combination, 0 to 1.

    neighbours: offsets, such as (-1, -2) for a forecast or (-1, 1) for what lies between. nan where one is missing.
    """
    found = np.full(len(gram), np.nan)
    for step in range(len(gram)):
        nodes = [step + offset for offset in neighbours]
        if all(0 <= node < len(gram) for node in nodes) and gram[step, step] > 0:
            inner, outer = gram[np.ix_(nodes, nodes)], gram[nodes, step]
            found[step] = min(1.0, outer @ np.linalg.lstsq(inner, outer, rcond=1e-12)[0] / gram[step, step])
    return found
