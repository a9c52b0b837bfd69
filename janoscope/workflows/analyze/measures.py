"""The one pass over a recording: every step is read once, converted once, and handed to everything that measures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...analysis import Complexity, Convergence, ConvergenceAccumulator, velocity_change
from ...analysis.importance import LEAST_CHANNELS
from ...plan import Policy
from ...plan.importance import ras_of_step
from .early_maps import EarlyMaps, warmups_to_compare
from .trajectory import RunView

RAS_STEP_OF_FIGURE_3 = 5  # the supplementary's claim is about this step
RAS_SHARES = (0, 0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class RunMeasures:
    """What one pass gives.

    early_maps: {warm-up: {map: (token,)}}. raw_change: (step - 1, token), rms change of the raw output;
    raw_is_velocity: that output is the flow velocity, and its change that of `convergence`. ras_importance: {step:
    (token,)}, spread of the coming update; empty for a latent of one channel, which has none. masked: (token,), tokens that held
    a value that is not finite at some step; nonfinite: how many such values.
    """

    complexity: Complexity
    convergence: Convergence
    early_maps: Mapping[int, Mapping[str, np.ndarray]]
    raw_change: np.ndarray
    raw_is_velocity: bool
    ras_importance: Mapping[int, np.ndarray]
    masked: np.ndarray
    nonfinite: int


def read_run(
    view: RunView,
    policy: Policy,
    *,
    hold_steps: int,
    tolerance: float,
    more_ras_steps: Sequence[int] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> RunMeasures:
    """Measure one item of a recording: the last step's x0 first, then all steps in order, one in memory at a time."""
    grid, steps = view.recording.grid, view.steps
    accumulator = ConvergenceAccumulator(view.last_x0(), hold_steps=hold_steps, tolerance=tolerance)
    early = EarlyMaps(policy, grid, view.path, view.prediction, warmups_to_compare(policy, steps))
    ras, changes = {}, []
    kept = {*ras_steps(policy, steps), *more_ras_steps} if grid.channels >= LEAST_CHANNELS else set()
    masked, nonfinite, previous = np.zeros(grid.count, dtype=bool), 0, None
    for step in range(steps):
        now = view.step(step)
        accumulator.add(now.velocity, now.x0)
        early.add(step, now)
        if step in kept:
            ras[step] = np.asarray(ras_of_step(now.velocity, grid, view.path, step))
        if previous is not None and not view.raw_is_velocity:
            changes.append(np.asarray(velocity_change(previous.output, now.output)))
        masked |= now.masked
        nonfinite += now.nonfinite
        previous = now
        if on_step:
            on_step(step + 1, steps)
    convergence = accumulator.result()
    assert early.complexity is not None
    raw = convergence.velocity_change[1:] if view.raw_is_velocity else np.stack(changes)
    return RunMeasures(early.complexity, convergence, early.maps, raw, view.raw_is_velocity, ras, masked, nonfinite)


def ras_steps(policy: Policy, steps: int) -> list[int]:
    """Steps whose RAS importance is kept: the supplementary's, the last of the warm-up, and six over the run."""
    shares = {round(share * (steps - 1)) for share in RAS_SHARES}
    return sorted(step for step in shares | {RAS_STEP_OF_FIGURE_3, policy.warmup - 1} if step < steps)
