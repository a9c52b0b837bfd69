"""Selectors: before each step the executor asks one for the step's kind and tokens. It looks up a plan, or chooses as it goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from .plan import Plan
from .schedule import StepKind, skipped_groups


@dataclass(frozen=True)
class Selection:
    """What to compute at one step. indices: token indices, int64, ascending; None means all tokens."""

    kind: StepKind
    indices: np.ndarray | None


class Selector(Protocol):
    """Asked once a step, in order, from step 0."""

    def select(self, step: int) -> Selection:
        """Kind and tokens of this step, counted from 0."""
        ...


@runtime_checkable
class ObservingSelector(Protocol):
    """A selector that chooses from what the last step gave. metric: of the importance that it wants (`ras_importance`)."""

    @property
    def metric(self) -> Literal["std", "l2norm"]: ...

    def select(self, step: int) -> Selection: ...

    def wants(self, step: int) -> bool:
        """Whether the importance measured at this step is needed."""
        ...

    def observe(self, step: int, importance: np.ndarray) -> None:
        """Take the importance (token,) of the prediction that the sampler used at this step."""
        ...


def selection_of(kind: StepKind, tokens: np.ndarray) -> Selection:
    """A selection of these tokens, or reuse where a partial step has none: the network need not be called."""
    if kind.is_full:
        return Selection(kind, None)
    return Selection(kind if tokens.size else StepKind.REUSE, tokens.astype(np.int64))


class PlanSelector:
    """Obeys a plan. skipped_groups: of its tokens, see `skipped_groups`; a selector without it may skip any token."""

    def __init__(self, plan: Plan) -> None:
        ranks = plan.ranks
        self.skipped_groups = skipped_groups(plan.step_kind, ranks)
        self._kinds = plan.step_kind
        self._selections = {kind: selection_of(kind, np.flatnonzero(ranks >= kind.least_rank)) for kind in StepKind}

    def select(self, step: int) -> Selection:
        return self._selections[self._kinds[step]]


class RandomSelector:
    """A plan's step kinds and token counts with tokens drawn anew at every step: the control at exactly equal compute."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._inner = PlanSelector(plan)
        self._count = len(plan.token_level)
        self._seed = seed

    def select(self, step: int) -> Selection:
        planned = self._inner.select(step)
        if planned.indices is None or planned.indices.size == 0:
            return planned
        # a stream of its own for each step: the same step gives the same tokens, in whatever order it is asked
        drawn = np.random.default_rng((self._seed, step)).choice(self._count, planned.indices.size, replace=False)
        return Selection(planned.kind, np.sort(drawn).astype(np.int64))


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
