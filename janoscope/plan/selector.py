"""Selectors: before each step the executor asks one for the step's kind and tokens. It looks up a plan, or chooses as it goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..array_api import AnyArray
from .plan import Plan
from .schedule import StepKind, skipped_groups


@dataclass(frozen=True)
class Selection:
    """What to compute at one step. indices: token indices, int64, ascending; None means all tokens."""

    kind: StepKind
    indices: np.ndarray | None


class Selector(Protocol):
    """Chooses the tokens of one generation: asked before each step, in order from step 0, and shown the steps it wants."""

    @property
    def plan(self) -> Plan | None:
        """The plan in force; None before there is one, and for good where a selector needs none."""
        ...

    def select(self, step: int) -> Selection:
        """Kind and tokens of this step, counted from 0."""
        ...

    def writes_keys(self, step: int) -> bool:
        """Whether this full step's keys and values will be read by a later one."""
        ...

    def skipped_groups(self) -> list[np.ndarray]:
        """Tokens that steps may skip, each group skipped as a whole or not at all; known from the first refresh on."""
        ...

    def wants(self, step: int) -> bool:
        """Whether `observe` is to be shown this step."""
        ...

    def observe(self, step: int, sample: AnyArray, output: AnyArray) -> None:
        """The step's x_t and guided prediction, each (item, channel, frame, row, col), NumPy or torch."""
        ...


def selection_of(kind: StepKind, tokens: np.ndarray) -> Selection:
    """A selection of these tokens, or reuse where a partial step has none: the network need not be called."""
    if kind.is_full:
        return Selection(kind, None)
    return Selection(kind if tokens.size else StepKind.REUSE, tokens.astype(np.int64))


def keys_are_read(kinds: Sequence[StepKind], step: int, forecast_keys: bool) -> bool:
    """Whether a later step reads the keys and values of this full step.

    kinds: of every step. forecast_keys: keys and values are extrapolated, so that the step before the first refresh is stored as
    well: it is the first of two points.
    """
    kind, later = kinds[step], kinds[step + 1 :]
    first_of_two = forecast_keys and kind is StepKind.WARMUP and tuple(later[:1]) == (StepKind.REFRESH,)
    return (kind is StepKind.REFRESH or first_of_two) and any(one.is_partial for one in later)


class PlanSelector:
    """Obeys a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan: Plan | None = plan
        self._kinds, self._forecast_keys = plan.step_kind, plan.policy.cache.forecast
        self._groups = skipped_groups(plan.step_kind, plan.ranks)
        self._selections = {kind: selection_of(kind, np.flatnonzero(plan.ranks >= kind.least_rank)) for kind in StepKind}

    def select(self, step: int) -> Selection:
        return self._selections[self._kinds[step]]

    def writes_keys(self, step: int) -> bool:
        return keys_are_read(self._kinds, step, self._forecast_keys)

    def skipped_groups(self) -> list[np.ndarray]:
        return self._groups

    def wants(self, step: int) -> bool:
        return False

    def observe(self, step: int, sample: AnyArray, output: AnyArray) -> None:
        """A plan is made already."""


class RandomSelector(PlanSelector):
    """A plan's step kinds and token counts with tokens drawn anew at every step: the control at exactly equal compute."""

    def __init__(self, plan: Plan, seed: int) -> None:
        super().__init__(plan)
        self._count, self._seed = len(plan.token_level), seed

    def select(self, step: int) -> Selection:
        planned = super().select(step)
        if planned.indices is None or planned.indices.size == 0:
            return planned
        # a stream of its own for each step: the same step gives the same tokens, in whatever order it is asked
        drawn = np.random.default_rng((self._seed, step)).choice(self._count, planned.indices.size, replace=False)
        return Selection(planned.kind, np.sort(drawn).astype(np.int64))

    def skipped_groups(self) -> list[np.ndarray]:
        return [np.arange(self._count)]


def source_steps(kinds: Sequence[StepKind], ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which step each token's keys and values, and each token's output, come from: two int64 arrays (step, token).

    At full steps both are the step's own. A partial step reads the caches: each token's K/V and output are of the last step that
    computed it. The two agree at every step (golden cache_provenance).
    """
    last = np.full(ranks.size, -1, dtype=np.int64)
    rows = []
    for step, kind in enumerate(kinds):
        last = np.where(ranks >= kind.least_rank, step, last)
        rows.append(last)
    kv_source = np.stack(rows)
    return kv_source, kv_source.copy()
