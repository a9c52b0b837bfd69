"""The selector of a policy: collects its warm-up, analyses it as a recording is analysed, then obeys the plan."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..array_api import AnyArray
from ..conversion import NoisePath
from .facts import ModelFacts
from .fingerprint import Fingerprint
from .importance import importance_scores
from .levels import highest, token_ranks
from .plan import Plan, plan_from_ranks
from .policy import Policy
from .schedule import step_kinds
from .selector import PlanSelector, Selection, Selector, keys_are_read


@dataclass(frozen=True)
class Latents:
    """One warm-up step: x_t and the prediction after guidance, each (item, channel, frame, row, col), NumPy or torch."""

    sample: AnyArray
    output: AnyArray


class PolicySelector:
    """Full steps by a policy until its warm-up is over, then whatever obeys the plan that the warm-up gives.

    Args:
        policy: its map is made of the warm-up, and is no oracle.
        fingerprint: of the generation. prediction: what its network predicts. path: its noise levels.
        facts: gives the sizes that predictions need, asked when the plan is made; None where they are not known.
        choose: what obeys the plan; controls put another selector here.
    """

    def __init__(
        self,
        policy: Policy,
        fingerprint: Fingerprint,
        prediction: str,
        path: NoisePath,
        facts: Callable[[], ModelFacts | None],
        choose: Callable[[Plan], Selector] = PlanSelector,
    ):
        self._policy, self._fingerprint, self._prediction, self._path = policy, fingerprint, prediction, path
        self._facts, self._choose = facts, choose
        self._kinds = step_kinds(policy, fingerprint.steps)
        self._warmup: list[Latents] = []
        self._inner: Selector | None = None
        self.plan: Plan | None = None
        if policy.warmup == 0:
            self._adopt_plan()

    def select(self, step: int) -> Selection:
        return Selection(self._kinds[step], None) if self._inner is None else self._inner.select(step)

    def writes_keys(self, step: int) -> bool:
        return keys_are_read(self._kinds, step, self._policy.cache.forecast)

    def skipped_groups(self) -> list[np.ndarray]:
        return [np.arange(self._fingerprint.grid.count)] if self._inner is None else self._inner.skipped_groups()

    def wants(self, step: int) -> bool:
        return self.plan is None and step < self._policy.warmup

    def observe(self, step: int, sample: AnyArray, output: AnyArray) -> None:
        self._warmup.append(Latents(sample, output))
        if step + 1 == self._policy.warmup:
            self._adopt_plan()

    def _adopt_plan(self) -> None:
        ranks = highest([self._ranks(item) for item in range(self._items)])
        self.plan = plan_from_ranks(self._policy, ranks, self._fingerprint, self._facts())
        self._inner = self._choose(self.plan)
        self._warmup.clear()

    @property
    def _items(self) -> int:
        """Of the batch; an item's active token is active for all, since they share one sequence."""
        return len(self._warmup[0].output) if self._warmup else 1  # a random map may do without a warm-up

    def _ranks(self, item: int) -> np.ndarray:
        """Token ranks by one item's map."""
        samples, outputs = [step.sample[item] for step in self._warmup], [step.output[item] for step in self._warmup]
        grid, seed = self._fingerprint.grid, self._fingerprint.seed
        scores = importance_scores(
            self._policy, samples, outputs, path=self._path, prediction=self._prediction, grid=grid, seed=seed
        )
        return token_ranks(scores, self._policy, grid)
