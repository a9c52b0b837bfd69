"""Step schedules: the steps at which a run calls the network at all; at the others a stand-in takes the output's place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True)
class StepSchedule:
    """The `[schedule]` table of a policy: computed steps as a list for one number of steps, or a rule for any.

    Args:
        steps: the number of steps that `computed` counts in; None with a rule.
        computed: steps at which the network is called, ascending from 0; empty with a rule.
        sigma: of each computed step, where known: how the list is carried to another number of steps or another shift.
        every: compute every k-th step between warm-up and cool-down; 0 without a rule.
        warmup, cooldown: how many steps at the beginning and the end are all computed.
    """

    steps: int | None = None
    computed: tuple[int, ...] = ()
    sigma: tuple[float, ...] = ()
    every: int = 0
    warmup: int = 0
    cooldown: int = 0

    def fits(self, steps: int, sigma: Sequence[float] | np.ndarray | None = None) -> bool:
        """Whether a run of `steps` is what the list was made for; a rule fits any."""
        if self.every:
            return True
        same_path = sigma is None or not self.sigma or np.allclose([sigma[step] for step in self.computed], self.sigma, rtol=0.02)
        return steps == self.steps and bool(same_path)

    def computed_steps(self, steps: int, sigma: Sequence[float] | np.ndarray | None = None) -> tuple[int, ...]:
        """The computed steps of a run.

        A list made for another number of steps, or another path of sigma, keeps its share of computed steps and puts them where
        the same sigmas are passed; without sigmas, at the same fractions of the run.

        Args:
            sigma: of every step of the run, falling.
        """
        if self.every:
            last = steps - self.cooldown
            return tuple(n for n in range(steps) if n < max(self.warmup, 1) or n >= last or (n - self.warmup) % self.every == 0)
        if len(self.computed) and self.fits(steps, sigma if self.steps == steps else None):
            return self.computed
        assert self.steps is not None
        count = min(steps, max(2, round(len(self.computed) * steps / self.steps)))
        own = np.array(self.sigma) if self.sigma and sigma is not None else 1 - np.array(self.computed) / max(1, self.steps - 1)
        theirs = np.array(sigma) if self.sigma and sigma is not None else 1 - np.arange(steps) / max(1, steps - 1)
        wanted = np.interp(np.linspace(0, len(own) - 1, count), np.arange(len(own)), own)
        return _nearest_in_order(theirs, wanted)

    def to_json(self) -> dict[str, object]:
        """The table as a policy file has it."""
        if self.every:
            return {"every": self.every, "warmup": self.warmup, "cooldown": self.cooldown}
        table: dict[str, object] = {"steps": self.steps, "computed": list(self.computed)}
        return table | ({"sigma": list(self.sigma)} if self.sigma else {})

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "StepSchedule":
        """From a table that `schedule_faults` found nothing wrong with."""
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        return cls(**values)


def schedule_faults(table: object) -> list[str]:
    """What is wrong with a `[schedule]` table, each with the legal values."""
    if not isinstance(table, Mapping):
        return [f"schedule = {table!r}; a table with steps and computed, or with every, is needed"]
    legal = ("steps", "computed", "sigma") if "computed" in table else ("every", "warmup", "cooldown")
    if unknown := [key for key in table if key not in legal]:
        return [
            f"schedule has no key {unknown[0]!r} beside {'computed' if 'computed' in table else 'every'} ({', '.join(legal)})"
        ]
    if "computed" not in table:
        return _rule_faults(table)
    steps, computed, sigma = table.get("steps"), table["computed"], table.get("sigma")
    if not isinstance(steps, int) or not _is_count(steps, 2):
        return [f"schedule.steps = {steps!r}; legal: integers from 2, the number of steps that computed counts in"]
    if not isinstance(computed, list | tuple) or len(computed) < 2 or not all(_is_count(step, 0) for step in computed):
        return [f"schedule.computed = {computed!r}; legal: a list of two or more steps"]
    faults = []
    if list(computed) != sorted(set(computed)) or computed[0] != 0:
        faults.append("schedule.computed has to ascend and begin with step 0, which nothing can stand for")
    if computed[-1] >= steps:
        faults.append(f"schedule.computed holds step {computed[-1]} of a run of {steps}, which ends with step {steps - 1}")
    if sigma is not None and not (isinstance(sigma, list | tuple) and len(sigma) == len(computed) and all(map(_is_real, sigma))):
        faults.append("schedule.sigma needs a number for each computed step")
    elif sigma is not None and any(later > earlier for earlier, later in pairwise(sigma)):
        faults.append("schedule.sigma has to fall")
    return faults


def _rule_faults(table: Mapping[str, Any]) -> list[str]:
    faults = [] if _is_count(table.get("every"), 1) else [f"schedule.every = {table.get('every')!r}; legal: integers from 1"]
    for key in ("warmup", "cooldown"):
        if key in table and not _is_count(table[key], 0):
            faults.append(f"schedule.{key} = {table[key]!r}; legal: integers from 0")
    return faults


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= 1_000_000


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _nearest_in_order(sigma: np.ndarray, wanted: np.ndarray) -> tuple[int, ...]:
    """Steps whose sigma is nearest to the wanted ones, each later than the one before, the first step 0."""
    chosen = [0]
    for index, value in enumerate(wanted[1:], start=1):
        room = len(sigma) - (len(wanted) - 1 - index)  # the later ones need a step each
        allowed = np.arange(chosen[-1] + 1, room)
        chosen.append(int(allowed[np.argmin(np.abs(sigma[allowed] - value))]))
    return tuple(chosen)
