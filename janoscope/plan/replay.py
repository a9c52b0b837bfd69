"""Replay: what a schedule would have cost a recorded run, without running the model.

Between two computations a token's output is held, or forecast along the line through its last two. Both are linear in the
recorded outputs, so the error of a token at the end of the run is a quadratic form in its Gram matrix over steps, whatever its
channels: a recording is reduced once, and a schedule costs one product a token level. Tokens are taken not to interact, and the
trajectory to be the recorded one (first order in the error); what that leaves out, stale keys and values above all, is a second
number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..conversion import NoisePath, to_flow_velocity
from ..errors import InputError
from .levels import TokenLevel
from .schedule import StepKind

PARTIAL = (StepKind.MODERATE, StepKind.ACTIVE)


@dataclass(frozen=True, eq=False)
class StepWeights:
    """What a run's steps share. `latent` (step,): change of the final latent for one unit of output error at that step.

    `coordinate` (step,): where forecasts run, the sampler's sigma on a flow path, else sigma / alpha.
    """

    latent: np.ndarray
    coordinate: np.ndarray

    @classmethod
    def of_path(cls, path: NoisePath, prediction: str) -> "StepWeights":
        """Weights of an Euler (DDIM) step of the converted output: gap times d velocity / d output."""
        one, none = np.ones(len(path)), np.zeros(len(path))
        rate = np.asarray(to_flow_velocity(one, none, prediction=prediction, point=path.at()), dtype=np.float64)
        gap = np.nan_to_num(path.gap, nan=0.0)  # a run cut short has no last gap
        # alpha 0: the noisiest sample, of which every finite coordinate is far enough
        ratio = path.sigma / np.maximum(path.alpha, 1e-6)
        return cls(gap * rate, path.sigma if path.family == "flow" else ratio)

    def __len__(self) -> int:
        return len(self.latent)


def gram(outputs: np.ndarray) -> np.ndarray:
    """(step, token, channel) -> (token, pair) float64: mean over channels of the products of every two steps, i <= j, packed.

    Pairs of different steps are doubled, so that a symmetric form B has the value `gram @ packed(B)`.
    """
    values = np.ascontiguousarray(np.moveaxis(np.asarray(outputs, dtype=np.float64), 0, 1))  # (token, step, channel)
    product = values @ np.swapaxes(values, 1, 2) / values.shape[2]
    rows, cols = np.triu_indices(len(outputs))
    return product[:, rows, cols] * np.where(rows == cols, 1.0, 2.0)


def packed(form: np.ndarray) -> np.ndarray:
    """(step, step), symmetric -> (pair,), in the order of `gram`."""
    return form[np.triu_indices(len(form))]


def held_minus_recorded(computed: Sequence[bool], coordinate: np.ndarray, forecast: bool) -> np.ndarray:
    """(step, step): row j holds the coefficients of the recorded outputs in what stands for a token at step j less its own.

    computed: at which steps the token is computed, the first among them. forecast: the line through the last two computed
    values, as `execution.forecast` draws it; the last value while there is only one, or where both lie at one coordinate.

    >>> held_minus_recorded([True, False], np.array([1.0, 0.5]), forecast=False).tolist()
    [[0.0, 0.0], [1.0, -1.0]]
    """
    if not computed[0]:
        raise InputError("a token that is not computed at the first step has nothing to be held; begin with a full step.")
    form = np.zeros((len(computed), len(computed)))
    last, before = 0, None
    for step, is_computed in enumerate(computed):
        if is_computed:
            last, before = step, (last if step else None)
            continue
        form[step, step] -= 1
        form[step, last] += 1
        if forecast and before is not None and coordinate[last] != coordinate[before]:
            ahead = (coordinate[step] - coordinate[last]) / (coordinate[last] - coordinate[before])
            form[step, last] += ahead
            form[step, before] -= ahead
    return form


@dataclass(frozen=True)
class ReplayError:
    """Squared errors in latent units, each (run,), means over tokens and channels.

    output: of the final latent, from held or forecast outputs of tokens that do not interact. stale: of keys and values, in the
    outputs' own units: at partial steps every skipped token's held (or forecast) output less the recorded one, weighted as that
    step, squared and summed over steps. A token's output stands for its keys and values, which no recording holds.
    """

    output: np.ndarray
    stale: np.ndarray


class Replay:
    """Runs with the same steps and grid, reduced. Energies of a token level's schedule are kept, since candidates share them.

    grams: (run, token, pair), of the same number of tokens in every run.
    """

    def __init__(self, weights: StepWeights, grams: np.ndarray):
        pairs = len(weights) * (len(weights) + 1) // 2
        if grams.ndim != 3 or grams.shape[2] != pairs:
            raise InputError(f"Gram matrices of shape {grams.shape} do not fit {len(weights)} steps ({pairs} pairs).")
        self.weights, self._shape = weights, grams.shape[:2]
        self._grams = grams.reshape(-1, pairs)
        self._known: dict[tuple[object, ...], np.ndarray] = {}

    def error(
        self, kinds: Sequence[StepKind], ranks: np.ndarray, *, forecast_output: bool = False, forecast_keys: bool = False
    ) -> ReplayError:
        """The errors of step kinds (step,) and token ranks (run, token)."""
        if ranks.shape != self._shape:
            raise InputError(f"ranks of shape {ranks.shape} do not fit {self._shape} (runs, tokens).")
        output, stale = np.zeros(self._shape), np.zeros(self._shape)
        for level in TokenLevel:
            at = ranks == level.rank
            if at.any():
                output[at] = self._output_energy(kinds, level, forecast_output)[at]
                stale[at] = self._stale_energy(kinds, level, forecast_keys)[at]
        return ReplayError(output.mean(axis=1), stale.mean(axis=1))

    def _output_energy(self, kinds: Sequence[StepKind], level: TokenLevel, forecast: bool) -> np.ndarray:
        """(run, token): squared weighted sum of the output errors over all skipped steps."""
        computed = tuple(kind.least_rank <= level.rank for kind in kinds)

        def form() -> np.ndarray:
            total = self.weights.latent @ held_minus_recorded(computed, self.weights.coordinate, forecast)
            return np.outer(total, total)

        return self._energy(("output", computed, forecast), form)

    def _stale_energy(self, kinds: Sequence[StepKind], level: TokenLevel, forecast: bool) -> np.ndarray:
        """(run, token): sum over partial steps of the squared weighted errors."""
        computed = tuple(kind.least_rank <= level.rank for kind in kinds)
        partial = tuple(kind in PARTIAL for kind in kinds)

        def form() -> np.ndarray:
            each = held_minus_recorded(computed, self.weights.coordinate, forecast)
            each *= (self.weights.latent * np.array(partial))[:, None]
            return each.T @ each

        return self._energy(("stale", computed, partial, forecast), form)

    def _energy(self, key: tuple[object, ...], form: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self._known:
            energy = self._grams @ packed(form())
            # rounding of a sum that is 0 may leave -1e-17
            self._known[key] = np.maximum(energy, 0).reshape(self._shape).astype(np.float32)
        return self._known[key]
