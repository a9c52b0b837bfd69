"""RAS: token selection after every step from the prediction's own variance (Liu et al. 2025, github.com/microsoft/RAS a9c5ec8).

Steps count from 0. A RAS step computes the tokens kept by the choice made at the end of the step before; a dropped token reuses
its last computed prediction. Importance comes from outside: the standard deviation (or norm) of each token's prediction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..analysis.arrays import to_host
from ..analysis.importance import ras_importance
from ..array_api import AnyArray
from ..errors import ExecutionError, InputError
from ..grid import TokenGrid
from .plan import Plan
from .schedule import StepKind
from .selector import Selection, selection_of


@dataclass(frozen=True)
class RasOptions:
    """The official options under their meaning; defaults are the official defaults.

    start, end: first and last RAS step (end None: the last step of the run; the official default is 30). resets: full steps
    between them. ratio: share of tokens computed. high_ratio: share of the dropped that is taken from the most important end; at
    1, the default, the lowest are computed. starvation: exponent a drop (the official command line always runs with 0.1,
    whatever it is given). skip_step, skip_length: the dropped number grows by skip_step every skip_length steps; 0:
    constant. metric: what makes a token important, the spread or the size of its coming update.
    official: keep two quirks. On: at `end` the previous choice is used again, and a dropped token becomes likelier to be dropped
    again at the high end. Off: `end` chooses anew, and at both ends a drop makes the next one less likely.
    """

    start: int = 4
    end: int | None = None
    resets: tuple[int, ...] = (12, 22)
    ratio: float = 0.5
    high_ratio: float = 1.0
    starvation: float = 0.1
    skip_step: int = 0
    skip_length: int = 0
    metric: Literal["std", "l2norm"] = "std"
    official: bool = True

    def __post_init__(self) -> None:
        faults = []
        if self.start < 1:
            faults.append(f"start = {self.start}; a RAS step reads caches that the step before wrote, so the least is 1")
        if self.end is not None and self.end < self.start:
            faults.append(f"end = {self.end} lies before start = {self.start}")
        if self.official and self.end == self.start:
            faults.append(f"start = end = {self.start} leaves the official rule no step to choose at; set official = False")
        if not 0 < self.ratio <= 1:
            faults.append(f"ratio = {self.ratio}; legal: above 0, up to 1")
        if not 0 <= self.high_ratio <= 1:
            faults.append(f"high_ratio = {self.high_ratio}; legal: 0 to 1")
        if self.metric not in ("std", "l2norm"):
            faults.append(f"metric = {self.metric!r}; legal: std, l2norm")
        if self.skip_step and self.skip_length < 1:
            faults.append(f"skip_step = {self.skip_step} needs a skip_length from 1")
        if faults:
            raise InputError(f"RAS cannot run so: {'; '.join(faults)}.")


def skip_counts(options: RasOptions, steps: int, tokens: int) -> np.ndarray:
    """Tokens to drop at each step, (step,) int64: 0 before `start` and at resets."""
    average = int((1 - options.ratio) * tokens)
    step = np.arange(steps)
    if options.skip_step:
        middle = ((steps + options.start) // options.skip_length) // 2
        wanted = (average + options.skip_step * (step // options.skip_length - middle)) // 64 * 64
    else:
        wanted = np.full(steps, average)
    return np.where((step < options.start) | np.isin(step, options.resets), 0, np.clip(wanted, 0, tokens)).astype(np.int64)


def drop_mask(importance: np.ndarray, drops: np.ndarray, skip: int, options: RasOptions) -> np.ndarray:
    """Which tokens to drop, (token,) bool.

    importance: (token,), larger is more important. drops: how often each was dropped so far. skip: how many to drop. The lowest
    `skip * (1 - high_ratio)` and the highest `skip * high_ratio` go, both truncated to whole tokens.
    """
    low, high = int(skip * (1 - options.high_ratio)), int(skip * options.high_ratio)
    factor = np.exp(options.starvation * np.asarray(drops, dtype=np.float64))
    dropped = np.zeros(importance.size, dtype=bool)
    order = np.argsort(importance * factor, kind="stable")
    dropped[order[:low]] = True
    # the official factor raises a dropped token's importance; at the high end that is the wrong direction
    order = order if options.official else np.argsort(importance / factor, kind="stable")
    order = order[~dropped[order]]
    dropped[order[order.size - high :]] = True
    return dropped


class RasSelector:
    """The state of one RAS run: drop counts, and the choice in force. Make a new one for each generation.

    Args:
        grid: of the run's latent.
        sigma: (step + 1,): of every step and after the last; its differences scale all tokens alike.
    """

    plan: Plan | None = None  # RAS needs none

    def __init__(self, options: RasOptions, grid: TokenGrid, sigma: Sequence[float]) -> None:
        self.options = options
        self._grid, self._sigma = grid, sigma
        self._steps = len(sigma) - 1
        self._end = self._steps if options.end is None else options.end
        self._skip = skip_counts(options, self._steps, grid.count)
        self._drops = np.zeros(grid.count)  # only differences matter, so the official start at -(steps + 1) changes nothing
        self._dropped: np.ndarray | None = None

    @property
    def drops(self) -> np.ndarray:
        """How often each token was dropped so far, (token,)."""
        return self._drops.copy()

    def is_ras(self, step: int) -> bool:
        return self.options.start <= step <= self._end and step not in self.options.resets

    def wants(self, step: int) -> bool:
        """Whether the choice for the next step is made from this step's importance."""
        following = step + 1
        last = self._end - 1 if self.options.official else self._end
        return following < self._steps and following <= last and self.is_ras(following)

    def observe(self, step: int, sample: AnyArray, output: AnyArray) -> None:
        """Choose by the step's guided prediction, (item, channel, frame, row, col); of a batch by the most important item."""
        gap = {"sigma": self._sigma[step], "sigma_next": self._sigma[step + 1]}
        tokens, metric = self._grid.pack(output), self.options.metric
        importance = np.stack([to_host(ras_importance(item, self._grid, **gap, metric=metric)) for item in tokens])
        self.choose(step, importance.max(axis=0))

    def choose(self, step: int, importance: np.ndarray) -> None:
        """Choose the next step's tokens by the importance (token,) of this step's prediction, where the next step skips any."""
        if self.wants(step):
            self._dropped = drop_mask(importance, self._drops, int(self._skip[step + 1]), self.options)
            self._drops = self._drops + self._dropped

    def select(self, step: int) -> Selection:
        if not self.is_ras(step):
            return Selection(self._full_kind(step), None)
        if self._dropped is None:
            raise ExecutionError(f"RAS has no choice for step {step}: show step {step - 1} to observe() first.")
        return selection_of(StepKind.ACTIVE, np.flatnonzero(~self._dropped))

    def writes_keys(self, step: int) -> bool:
        return self.select(step).kind is StepKind.REFRESH

    def skipped_groups(self) -> list[np.ndarray]:
        return [np.arange(self._grid.count)]

    def _full_kind(self, step: int) -> StepKind:
        """K and V are written in full at the step before `start` and at resets; past the end nothing reads them."""
        if step > self._end:
            return StepKind.COOLDOWN
        return StepKind.WARMUP if step < self.options.start - 1 else StepKind.REFRESH
