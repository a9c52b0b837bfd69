"""The step rule: a kind for every step, from the policy's warm-up, cool-down and intervals (contract, "Step rule")."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from ..errors import InputError
from .levels import TokenLevel
from .policy import Policy


class StepKind(StrEnum):
    """What is computed at a step."""

    WARMUP = "warmup"  # every token, nothing cached: the map is not known yet
    REFRESH = "refresh"  # every token, and the caches are written
    MODERATE = "moderate"  # moderate and active tokens
    ACTIVE = "active"  # active tokens
    REUSE = "reuse"  # nothing: the last outputs serve again
    COOLDOWN = "cooldown"  # every token, caches untouched

    @property
    def is_full(self) -> bool:
        """Whether every token is computed."""
        return self in (StepKind.WARMUP, StepKind.REFRESH, StepKind.COOLDOWN)

    @property
    def is_partial(self) -> bool:
        """Whether some tokens may be computed and others skipped."""
        return self in (StepKind.MODERATE, StepKind.ACTIVE)

    @property
    def least_rank(self) -> int:
        """The lowest token rank that is computed; above every rank where nothing is."""
        if self.is_full:
            return TokenLevel.STATIC.rank
        return {StepKind.MODERATE: TokenLevel.MODERATE.rank, StepKind.ACTIVE: TokenLevel.ACTIVE.rank}.get(
            self, TokenLevel.ACTIVE.rank + 1
        )


# one letter a step; the ladder of `plan show`
LETTERS = {
    StepKind.WARMUP: "W",
    StepKind.REFRESH: "R",
    StepKind.MODERATE: "m",
    StepKind.ACTIVE: "a",
    StepKind.REUSE: ".",
    StepKind.COOLDOWN: "C",
}


def step_kinds(policy: Policy, steps: int) -> tuple[StepKind, ...]:
    """The kind of each of `steps` steps, counted from 0.

    With d = step - warmup between warm-up and cool-down: d % static = 0 refresh, else d % moderate = 0 moderate, else
    d % active = 0 active, else reuse. A static or moderate interval of 0 makes every step full: those before the map's end are
    warm-up, the others cool-down, the same as when warm-up and cool-down leave nothing between them.
    """
    if steps < 1:
        raise InputError(f"{steps} steps cannot be planned; a run has at least 1.")
    if policy.schedule is not None:
        computed = set(policy.schedule.computed_steps(steps))
        return tuple(StepKind.REFRESH if step in computed else StepKind.REUSE for step in range(steps))
    return tuple(_kind(policy, step, steps) for step in range(steps))


def _kind(policy: Policy, step: int, steps: int) -> StepKind:
    every = policy.intervals
    if step < policy.warmup:
        return StepKind.WARMUP
    if step >= steps - policy.cooldown or every.static * every.moderate == 0:
        return StepKind.COOLDOWN
    since = step - policy.warmup
    for interval, kind in (
        (every.static, StepKind.REFRESH),
        (every.moderate, StepKind.MODERATE),
        (every.active, StepKind.ACTIVE),
    ):
        if since % interval == 0:
            return kind
    return StepKind.REUSE


def skipped_groups(kinds: Sequence[StepKind], ranks: np.ndarray) -> list[np.ndarray]:
    """Tokens that partial steps skip, parted so that every step skips a group as a whole or not at all.

    The static tokens, then the moderate ones where some step computes the active alone: indices, int64, ascending.
    """
    partial = {kind for kind in kinds if not kind.is_full and (ranks >= kind.least_rank).any()}
    below = [level.rank for level in (TokenLevel.STATIC, TokenLevel.MODERATE)]
    groups = [np.flatnonzero(ranks == rank) for rank in below if any(kind.least_rank > rank for kind in partial)]
    return [group for group in groups if group.size]


def ladder(kinds: Sequence[StepKind]) -> str:
    """One letter a step: W warm-up, R refresh, m moderate, a active, . reuse, C cool-down.

    >>> ladder([StepKind.WARMUP, StepKind.REFRESH, StepKind.ACTIVE, StepKind.COOLDOWN])
    'WRaC'
    """
    return "".join(LETTERS[kind] for kind in kinds)


def counts(kinds: Sequence[StepKind]) -> dict[StepKind, int]:
    """Steps of each kind, every kind named."""
    seen = Counter(kinds)
    return {kind: seen[kind] for kind in StepKind}
