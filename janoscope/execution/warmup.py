"""The warm-up: keep its predictions, analyse them in place, make the plan. The same functions that analyse a recording do it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..analysis import ras_importance
from ..analysis.arrays import to_host
from ..conversion import NoisePath
from ..grid import TokenGrid
from ..plan import (
    Fingerprint,
    ModelFacts,
    ObservingSelector,
    Plan,
    PlanSelector,
    Policy,
    Selection,
    Selector,
    StepKind,
    highest,
    plan_from_ranks,
    token_ranks,
)
from ..plan.importance import importance_scores


class Warmup:
    """Collects (item, channel, frame, row, col) latents of the warm-up steps, NumPy or torch, until the plan is made."""

    def __init__(
        self,
        policy: Policy,
        fingerprint: Fingerprint,
        prediction_type: str,
        path: NoisePath,
    ):
        self._policy, self._fingerprint = policy, fingerprint
        self._prediction_type, self._path = prediction_type, path
        self._samples: list[Any] = []
        self._outputs: list[Any] = []

    def add(self, sample: Any, output: Any) -> None:
        """One warm-up step: x_t and the prediction after guidance."""
        self._samples.append(sample)
        self._outputs.append(output)

    def make_plan(self, facts: ModelFacts | None) -> Plan:
        """The plan, from every item's map; an item's active token is active for all, since they share one sequence."""
        grid, seed = self._fingerprint.grid, self._fingerprint.seed
        ranks = []
        for item in range(len(self._outputs[0]) if self._outputs else 1):  # a random map may do without a warm-up
            samples, outputs = [s[item] for s in self._samples], [o[item] for o in self._outputs]
            scores = importance_scores(
                self._policy, samples, outputs, path=self._path, prediction=self._prediction_type, grid=grid, seed=seed
            )
            ranks.append(token_ranks(scores, self._policy, grid))
        return plan_from_ranks(self._policy, highest(ranks), self._fingerprint, facts)


class Steering(Protocol):
    """Asked before each step, told after it. plan: the plan in force, None before there is one."""

    plan: Plan | None

    def select(self, step: int) -> Selection:
        """What to compute at this step."""
        ...

    def writes_keys(self, step: int) -> bool:
        """Whether this full step's keys and values will be read."""
        ...

    def skipped_groups(self, tokens: int) -> list[np.ndarray]:
        """Tokens that steps may skip, each group skipped as a whole or not at all; known from the first refresh on."""
        ...

    def wants(self, step: int) -> bool:
        """Whether `step_ends` needs this step's latents."""
        ...

    def step_ends(self, step: int, sample: Any, output: Any) -> None:
        """x_t and the guided prediction, (item, channel, frame, row, col), NumPy or torch."""


class Planned:
    """Steps by a plan, or by the kinds that a policy fixes in advance until `make_plan` gives one.

    kinds: of every step. choose: what obeys the plan. forecast_keys: keys and values are extrapolated, so that the step before
    the first refresh is stored as well: it is the first of two points.
    warmup, make_plan: take the warm-up's latents, then give the plan; None where a plan is given.
    """

    def __init__(
        self,
        kinds: Sequence[StepKind],
        choose: Callable[[Plan], Selector] = PlanSelector,
        *,
        plan: Plan | None = None,
        collect: Callable[[Any, Any], None] | None = None,
        make_plan: Callable[[], Plan] | None = None,
        warmup: int = 0,
        forecast_keys: bool = False,
    ):
        self._kinds, self._choose, self._forecast_keys = tuple(kinds), choose, forecast_keys
        self._collect, self._make_plan, self._warmup = collect, make_plan, warmup
        self.plan: Plan | None = None
        self._selector: Selector | None = None
        if plan is not None:
            self._adopt(plan)
        elif warmup == 0 and make_plan is not None:
            self._adopt(make_plan())

    def _adopt(self, plan: Plan) -> None:
        self.plan, self._selector = plan, self._choose(plan)

    def select(self, step: int) -> Selection:
        return Selection(self._kinds[step], None) if self._selector is None else self._selector.select(step)

    def writes_keys(self, step: int) -> bool:
        kind, later = self._kinds[step], self._kinds[step + 1 :]
        first_of_two = self._forecast_keys and kind is StepKind.WARMUP and later[:1] == (StepKind.REFRESH,)
        return (kind is StepKind.REFRESH or first_of_two) and any(k.is_partial for k in later)

    def skipped_groups(self, tokens: int) -> list[np.ndarray]:
        return _skipped_groups(self._selector, tokens)

    def wants(self, step: int) -> bool:
        return self.plan is None and step < self._warmup

    def step_ends(self, step: int, sample: Any, output: Any) -> None:
        assert self._collect is not None
        assert self._make_plan is not None
        self._collect(sample, output)
        if step + 1 == self._warmup:
            self._adopt(self._make_plan())


class Choosing:
    """Steps by a selector that chooses as it goes, from the spread of the coming update (RAS).

    sigma: of every step and after the last; its differences scale all tokens alike.
    """

    plan: Plan | None = None

    def __init__(self, selector: Selector, grid: TokenGrid, sigma: Sequence[float]):
        self._selector, self._grid, self._sigma = selector, grid, sigma

    def select(self, step: int) -> Selection:
        return self._selector.select(step)

    def writes_keys(self, step: int) -> bool:
        return self.select(step).kind is StepKind.REFRESH

    def skipped_groups(self, tokens: int) -> list[np.ndarray]:
        return _skipped_groups(self._selector, tokens)

    def wants(self, step: int) -> bool:
        return isinstance(self._selector, ObservingSelector) and self._selector.wants(step)

    def step_ends(self, step: int, sample: Any, output: Any) -> None:
        assert isinstance(self._selector, ObservingSelector)
        sigma, following = self._sigma[step], self._sigma[step + 1]
        tokens = self._grid.pack(output)
        gap = {"sigma": sigma, "sigma_next": following}
        importance = np.stack([to_host(ras_importance(item, self._grid, **gap, metric=self._selector.metric)) for item in tokens])
        self._selector.observe(step, importance.max(axis=0))


def _skipped_groups(selector: Selector | None, tokens: int) -> list[np.ndarray]:
    return getattr(selector, "skipped_groups", [np.arange(tokens)])
