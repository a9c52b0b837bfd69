"""Every map that could be made after a warm-up, one score a token, so that they can be held against each other."""

from dataclasses import replace
from typing import Protocol

import numpy as np

from ..analysis import Complexity, fourier_baseline, gradient_energy, ras_importance, token_means, variance_baseline, velocity_change
from ..conversion import NoisePath
from ..plan import Policy
from ..recording import Recording


class Run(Protocol):
    """One item of a recording, read as velocities and x0 estimates (token, channel)."""

    recording: Recording
    path: NoisePath

    def velocity(self, step: int) -> np.ndarray: ...

    def x0(self, step: int) -> np.ndarray: ...

    def scores(self, policy: Policy) -> Complexity: ...


def early_maps(run: Run, policy: Policy, warmup: int) -> dict[str, np.ndarray]:
    """(token,) scores by map name, from the first `warmup` steps; a higher score asks for more computing.

    RAS computes tokens of low spread, so its map is the negated importance; see docs/concepts.md.
    """
    grid, last = run.recording.grid, warmup - 1
    velocities = np.stack([run.velocity(step) for step in range(warmup)])  # (step, token, channel)
    cells = grid.unpack(velocities)  # (step, channel, frame, row, col)
    sigma = run.path.sigma
    following = float(sigma[last + 1]) if last + 1 < len(sigma) else 0.0
    return {
        "jano": token_means(run.scores(replace(policy, warmup=warmup)).enhanced, grid, policy.tile),
        "x0-gradient": np.asarray(gradient_energy(run.x0(last), grid)),
        "velocity-change": np.asarray(velocity_change(velocities[-2], velocities[-1])),
        "ras": -np.asarray(ras_importance(velocities[-1], grid, sigma=float(sigma[last]), sigma_next=following)),
        "variance": token_means(variance_baseline(cells, policy.tile)[1], grid, policy.tile),
        "fft": token_means(fourier_baseline(cells, policy.tile)[1], grid, policy.tile),
    }
