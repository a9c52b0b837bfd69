"""Plan: what one generation will do. A level for every token, a kind for every step, what it was made for. Frozen, no tensor."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import TypeVar

import numpy as np

from ..decode import decode_json
from ..errors import InputError
from ..shape import misfit
from .cost import Predicted, predict
from .facts import ModelFacts
from .fingerprint import Fingerprint
from .levels import TokenLevel, ranks_of, token_ranks, words_of
from .policy import Cache, Policy
from .schedule import StepKind, counts, ladder, step_kinds

SCHEMA = "janoscope-plan/1"
Word = TypeVar("Word", bound=StrEnum)
AGAIN = "make it again with `janoscope analyze`"


@dataclass(frozen=True)
class Plan:
    """One generation's plan; one recording, one plan.

    token_level: a level a token, in token order (frame, row, col; col fastest). step_kind: a kind a step, counted from 0.
    predicted: compute (fraction of FLOPs), speedup (wall time), cache_bytes. id: of the analysis that its file belongs to.
    """

    fingerprint: Fingerprint
    policy: Policy
    token_level: tuple[TokenLevel, ...] = field(repr=False)
    step_kind: tuple[StepKind, ...] = field(repr=False)
    predicted: Predicted
    id: str | None = field(default=None, compare=False, repr=False)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Token levels as int8 ranks (token,): 1 static, 2 moderate, 3 active. Read-only: every reader gets the same array."""
        ranks = ranks_of(self.token_level)
        ranks.flags.writeable = False
        return ranks

    @property
    def skips_nothing(self) -> bool:
        """Whether every token is computed at every step, so that the plan saves nothing."""
        least = min(level.rank for level in self.token_level)
        return all(kind.least_rank <= least for kind in self.step_kind)

    def with_cache(self, cache: Cache) -> "Plan":
        """The same plan with another cache; what that takes is not known here."""
        return replace(
            self, policy=replace(self.policy, cache=cache), predicted=self.predicted._replace(cache_bytes=None), id=None
        )

    def to_json(self) -> dict[str, object]:
        return {
            "schema": SCHEMA,
            "fingerprint": self.fingerprint.to_json(),
            "policy": self.policy.to_json(),
            "token_level": [level.value for level in self.token_level],
            "step_kind": [kind.value for kind in self.step_kind],
            "predicted": self.predicted._asdict(),
            **({} if self.id is None else {"id": self.id}),
        }

    def to_text(self) -> str:
        """The content of plan.json."""
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_text(cls, text: str, origin: str = "plan") -> "Plan":
        # not only finite numbers: what `measured_on` of a policy says may be unknown
        return cls.from_json(decode_json(text, origin, f"{AGAIN.capitalize()}.", finite=False), origin)

    @classmethod
    def from_json(cls, data: object, origin: str = "plan") -> "Plan":
        """The inverse of `to_json`; raises InputError in one line for anything that cannot be obeyed."""
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            met = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise InputError(f"{origin} is no plan: its schema is {met!r}, this version reads {SCHEMA!r}; {AGAIN}.")
        keys = {"schema", "fingerprint", "policy", "token_level", "step_kind", "predicted"}
        if faults := [f"lacks {k!r}" for k in sorted(keys - set(data))] + [
            f"has unknown {k!r}" for k in data if k not in keys | {"id"}
        ]:
            raise InputError(f"{origin} {', '.join(faults)}; {AGAIN}.")
        fingerprint = Fingerprint.from_json(data["fingerprint"], origin)
        policy = Policy.from_json(data["policy"], f"{origin}: policy")
        levels = _words(data["token_level"], TokenLevel, "token_level", fingerprint.grid.count, origin)
        kinds = _words(data["step_kind"], StepKind, "step_kind", fingerprint.steps, origin)
        _check_order(kinds, origin)
        if fault := misfit(data.get("id"), str | None, "id"):
            raise InputError(f"{origin}: {fault}; {AGAIN}.")
        return cls(fingerprint, policy, levels, kinds, _predicted(data["predicted"], origin), data.get("id"))

    def describe(self) -> str:
        """Text for people: shares of the levels, the ladder of the steps, what is predicted."""
        grid, print_ = self.fingerprint.grid, self.fingerprint
        seen = Counter(self.token_level)
        shares = ", ".join(f"{seen[level]} {level} ({seen[level] / grid.count:.1%})" for level in reversed(TokenLevel))
        steps = ", ".join(f"{count} {kind}" for kind, count in counts(self.step_kind).items() if count)
        predicted, cache = self.predicted, self.predicted.cache_bytes
        lines = [
            f"plan      {self.policy.name} for {print_.model}, prompt {print_.prompt!r}, seed {print_.seed}",
            f"tokens    {grid.count} ({' x '.join(map(str, grid.tokens))}): {shares}",
            f"steps     {print_.steps}: {steps}",
            f"ladder    {ladder(self.step_kind)}",
            f"predicted compute {predicted.compute:.3f} of the full run's FLOPs (FLOP ratio {predicted.flop_ratio:.2f}x), "
            f"cache {'unknown' if cache is None else f'{cache / 2**20:.1f} MiB'}",
        ]
        if self.skips_nothing:
            lines.append(f"note      nothing can be skipped: every token is computed at every step ({self._why_full()})")
        return "\n".join(lines)

    def _why_full(self) -> str:
        policy, steps = self.policy, self.fingerprint.steps
        if policy.warmup + policy.cooldown >= steps:
            return f"warm-up {policy.warmup} + cool-down {policy.cooldown} leave none of {steps} between them"
        if policy.intervals.static * policy.intervals.moderate == 0:
            return "an interval of 0 makes every step full"
        return "no token's level is ever skipped at these intervals"


def make_plan(policy: Policy, scores: np.ndarray, fingerprint: Fingerprint, facts: ModelFacts | None = None) -> Plan:
    """The plan of one generation from its importance scores.

    scores: (frames, rows, cols) of tiles for the jano map, or (token,); see `token_ranks`. Grid and steps are the fingerprint's.
    Without facts the prediction counts image tokens and leaves cache_bytes open.
    """
    return plan_from_ranks(policy, token_ranks(scores, policy, fingerprint.grid), fingerprint, facts)


def plan_from_ranks(policy: Policy, ranks: np.ndarray, fingerprint: Fingerprint, facts: ModelFacts | None = None) -> Plan:
    """The plan for token ranks (token,) that are known already, such as a batch's highest."""
    if ranks.shape != (fingerprint.grid.count,):
        raise InputError(f"levels of shape {ranks.shape} do not fit the {fingerprint.grid.count} tokens of the grid.")
    kinds = step_kinds(policy, fingerprint.steps)
    return Plan(fingerprint, policy, words_of(ranks), kinds, predict(kinds, ranks, facts, policy.cache))


def _words(data: object, kind: type[Word], name: str, count: int, origin: str) -> tuple[Word, ...]:
    legal = {word.value: word for word in kind}
    if not isinstance(data, list) or len(data) != count:
        met = f"{len(data)} words" if isinstance(data, list) else repr(data)
        raise InputError(f"{origin}: {name} has {met}, its fingerprint asks for {count}; {AGAIN}.")
    if wrong := [word for word in data if not isinstance(word, str) or word not in legal]:
        raise InputError(f"{origin}: {name} holds {wrong[0]!r}; legal: {', '.join(legal)}.")
    return tuple(legal[word] for word in data)


def _check_order(kinds: tuple[StepKind, ...], origin: str) -> None:
    """A partial step reads caches that only a refresh writes; a reuse step returns an output that a full step left."""
    refreshed = full = False
    for step, kind in enumerate(kinds):
        if kind.is_partial and not refreshed:
            raise InputError(
                f"{origin}: step {step} is {kind}, but no refresh stands before it; begin with one after the warm-up."
            )
        if kind is StepKind.REUSE and not full:
            raise InputError(f"{origin}: step {step} is reuse, but no full step stands before it; begin with one.")
        refreshed, full = refreshed or kind is StepKind.REFRESH, full or kind.is_full


def _predicted(data: object, origin: str) -> Predicted:
    if not isinstance(data, Mapping) or set(data) != set(Predicted._fields):
        raise InputError(f"{origin}: predicted is {data!r}; it needs {', '.join(Predicted._fields)}; {AGAIN}.")
    for name, value in data.items():
        if value is None and name == "cache_bytes":
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
            raise InputError(f"{origin}: predicted {name} = {value!r}; a number from 0 is needed; {AGAIN}.")
    return Predicted(**data)
