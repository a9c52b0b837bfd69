"""Every map that could be made after a warm-up, one score a token, so that they can be compared."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...analysis import Complexity, fourier_baseline, gradient_energy, token_means, variance_baseline, velocity_change
from ...analysis.complexity import Padding
from ...analysis.importance import LEAST_CHANNELS
from ...conversion import NoisePath
from ...grid import TokenGrid
from ...plan import Policy
from ...plan.importance import complexity_of, initial_signal, ras_of_step
from .trajectory import StepView

COMPARED_WARMUPS = (5, 10, 15)


def warmups_to_compare(policy: Policy, steps: int) -> list[int]:
    """The policy's own warm-up, and 5, 10 and 15 steps where they lie within the first half of the run."""
    return sorted({warmup for warmup in COMPARED_WARMUPS if warmup <= steps // 2} | {policy.warmup})


class EarlyMaps:
    """Fed the first steps of a run in order, makes the maps of every warm-up in `warmups` when its last step has come.

    Holds the velocities of the longest warm-up as latents, once; `maps` is {warm-up: {map: (token,) scores}}, where a higher
    score asks for more computing, and `complexity` the JANO map of the policy's own warm-up. RAS computes tokens of low spread,
    so its scores are the negated importance.
    """

    def __init__(self, policy: Policy, grid: TokenGrid, path: NoisePath, prediction: str, warmups: Sequence[int]):
        self._policy, self._grid, self._path, self._prediction = policy, grid, path, prediction
        self._warmups = set(warmups)
        # the initial noise, then a velocity a step: one array, of which every signal set is a slice
        self._signals = np.empty((1 + max(warmups), grid.channels, *grid.cells), dtype=np.float32)
        self._previous: np.ndarray | None = None
        self._nonfinite = 0
        self.maps: dict[int, dict[str, np.ndarray]] = {}
        self.complexity: Complexity | None = None

    def add(self, step: int, view: StepView) -> None:
        """One step; those after the longest warm-up are not needed."""
        if step >= max(self._warmups):
            return
        if step == 0:
            self._signals[0] = self._grid.unpack(initial_signal(view.sample, self._path, self._prediction))
        self._signals[1 + step] = self._grid.unpack(view.velocity)
        self._nonfinite += view.nonfinite
        if step + 1 in self._warmups:
            self.maps[step + 1] = self._make(step + 1, view)
        self._previous = view.velocity
        if step + 1 == max(self._warmups):
            self._signals = self._signals[:0].copy()  # gives the memory back
            self._previous = None

    def _make(self, warmup: int, view: StepView) -> dict[str, np.ndarray]:
        grid, policy = self._grid, replace(self._policy, warmup=warmup)
        complexity = self._jano(policy)
        own = warmup == self._policy.warmup
        if own:
            self.complexity = replace(complexity, nonfinite=self._nonfinite)
        maps = {"jano": self._per_token(complexity.enhanced)}
        if own:
            maps |= self._variants(policy)
        maps["x0-gradient"] = np.asarray(gradient_energy(view.x0, grid))
        if self._previous is not None:
            maps["velocity-change"] = np.asarray(velocity_change(self._previous, view.velocity))
        if grid.channels >= LEAST_CHANNELS:
            maps["ras"] = -np.asarray(ras_of_step(view.velocity, grid, self._path, warmup - 1))
        velocities = self._signals[1 : 1 + warmup]
        maps["variance"] = self._per_token(variance_baseline(velocities, policy.tile)[1])
        maps["fft"] = self._per_token(fourier_baseline(velocities, policy.tile)[1])
        return maps

    def _jano(self, policy: Policy) -> Complexity:
        return complexity_of(policy, self._signals[0 if policy.initial_latent else 1 : 1 + policy.warmup])

    def _variants(self, policy: Policy) -> dict[str, np.ndarray]:
        """The JANO map with the other first signal, the other padding (where tiles hang over an edge) and without enhancement."""
        complexity = self.complexity
        assert complexity is not None
        variants = {"jano, not enhanced": complexity.combined}
        if policy.warmup > 1:
            name = "jano, without initial noise" if policy.initial_latent else "jano, with initial noise"
            variants[name] = self._jano(replace(policy, initial_latent=not policy.initial_latent)).enhanced
        if any(cell % size for cell, size in zip(self._grid.cells, policy.tile, strict=True)):
            padding: Padding = "exclude" if policy.padding == "count" else "count"
            variants[f"jano, padding {padding}"] = self._jano(replace(policy, padding=padding)).enhanced
        return {name: self._per_token(scores) for name, scores in variants.items()}

    def _per_token(self, tiles: np.ndarray) -> np.ndarray:
        return token_means(tiles, self._grid, self._policy.tile)
