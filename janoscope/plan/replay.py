"""Replay: what a schedule would have cost a recorded run, without running the model.

Between two computations a token's output is held, or forecast along the line through its last two, corrected afterwards or
not. All of it is linear in the recorded outputs, so the error of a token at the end of the run is a quadratic form in its Gram
matrix over steps, whatever its channels: a recording is reduced once, and a schedule costs one product a token level. Tokens are
taken not to interact, and the trajectory to be the recorded one (first order in the error); what that leaves out, stale keys and
values above all, is a second number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..conversion import NoisePath, to_flow_velocity
from ..errors import InputError
from .levels import TokenLevel
from .schedule import StepKind

# x_next = a x + b prediction; multistep samplers use a prediction again, ancestral ones add noise
ONE_STEP_SAMPLERS = ("FlowMatchEulerDiscreteScheduler", "DDIMScheduler", "CogVideoXDDIMScheduler")


def is_one_step(scheduler: Mapping[str, Any]) -> bool:
    """Whether `final_weights` hold for a sampler, described by its class and config. DDIM: at eta 0."""
    return scheduler["class"] in ONE_STEP_SAMPLERS and not scheduler["config"].get("stochastic_sampling")


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


def final_weights(path: NoisePath, prediction: str) -> np.ndarray:
    """(step,): change of the latent after the last step for one unit of each step's output, all other outputs staying.

    Of an Euler step of the converted output (a DDIM step), x_next = x - gap (p x + r output): gap r, carried through the later
    steps' 1 - gap p, with the sign of `StepWeights`. Along a flow path p is 0 and these are the gaps.
    """
    one, none = np.ones(len(path)), np.zeros(len(path))
    point, gap = path.at(), np.nan_to_num(path.gap, nan=0.0)
    rate, drift = (to_flow_velocity(*given, prediction=prediction, point=point) for given in ((one, none), (none, one)))
    carried = np.cumprod((1 - gap * drift)[::-1])[::-1]
    return np.asarray(gap * rate * np.append(carried[1:], 1.0), dtype=np.float64)


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


def held_minus_recorded(computed: Sequence[bool], coordinate: np.ndarray, output: str) -> np.ndarray:
    """(step, step): row j holds the coefficients of the recorded outputs in what stands for a token at step j less its own.

    computed: at which steps the token is computed, the first among them. output: `hold`; `forecast`, the line through the last
    two computed values, as `execution.forecast` draws it; the last value while there is only one, or where both lie at one
    coordinate; `corrected`, in sum over the steps, the line between the values on either side, where another is to come.

    >>> held_minus_recorded([True, False, True], np.array([1.0, 0.5, 0.0]), "hold").tolist()
    [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]
    >>> held_minus_recorded([True, False, True], np.array([1.0, 0.5, 0.0]), "corrected").tolist()
    [[0.0, 0.0, 0.0], [0.5, -1.0, 0.5], [0.0, 0.0, 0.0]]
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
        if output == "hold":
            continue
        following = next((later for later in range(step, len(computed)) if computed[later]), None)
        other = following if output == "corrected" and following is not None else before
        if other is not None and coordinate[last] != coordinate[other]:
            ahead = (coordinate[step] - coordinate[last]) / (coordinate[last] - coordinate[other])
            form[step, last] += ahead
            form[step, other] -= ahead
    return form


@dataclass(frozen=True)
class ReplayError:
    """Squared errors in latent units, each (run,), means over tokens and channels.

    output: of the final latent, from held, forecast or corrected outputs of tokens that do not interact. stale: of keys and
    values, in the outputs' own units: at partial steps every skipped token's held (or forecast) output less the recorded one,
    weighted as that step, squared and summed over steps. A token's output stands for its keys and values, which no recording
    holds.
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
        self, kinds: Sequence[StepKind], ranks: np.ndarray, *, output: str = "hold", forecast_keys: bool = False
    ) -> ReplayError:
        """The errors of step kinds (step,) and token ranks (run, token)."""
        if ranks.shape != self._shape:
            raise InputError(f"ranks of shape {ranks.shape} do not fit {self._shape} (runs, tokens).")
        of_outputs, stale = np.zeros(self._shape), np.zeros(self._shape)
        for level in TokenLevel:
            at = ranks == level.rank
            if at.any():
                of_outputs[at] = self._output_energy(kinds, level, output)[at]
                stale[at] = self._stale_energy(kinds, level, "forecast" if forecast_keys else "hold")[at]
        return ReplayError(of_outputs.mean(axis=1), stale.mean(axis=1))

    def _output_energy(self, kinds: Sequence[StepKind], level: TokenLevel, output: str) -> np.ndarray:
        """(run, token): squared weighted sum of the output errors over all skipped steps."""
        computed = tuple(kind.least_rank <= level.rank for kind in kinds)

        def form() -> np.ndarray:
            total = self.weights.latent @ held_minus_recorded(computed, self.weights.coordinate, output)
            return np.outer(total, total)

        return self._energy(("output", computed, output), form)

    def _stale_energy(self, kinds: Sequence[StepKind], level: TokenLevel, keys: str) -> np.ndarray:
        """(run, token): sum over partial steps of the squared weighted errors."""
        computed = tuple(kind.least_rank <= level.rank for kind in kinds)
        partial = tuple(kind.is_partial for kind in kinds)

        def form() -> np.ndarray:
            each = held_minus_recorded(computed, self.weights.coordinate, keys)
            each *= (self.weights.latent * np.array(partial))[:, None]
            return each.T @ each

        return self._energy(("stale", computed, partial, keys), form)

    def _energy(self, key: tuple[object, ...], form: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self._known:
            energy = self._grams @ packed(form())
            # rounding of a sum that is 0 may leave -1e-17
            self._known[key] = np.maximum(energy, 0).reshape(self._shape).astype(np.float32)
        return self._known[key]
