"""Sensitivity of a policy: what is predicted when one of its settings is relaxed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NotRequired, TypedDict

from ...plan import Policy
from ...plan.policy import Split, skips_steps_only
from .expectation import COLLAPSE_DB
from .search import Candidate, Scorer
from .space import LONGEST, Space


@dataclass(frozen=True)
class Looser:
    """One notch looser than the chosen policy: what was changed, and what that is predicted to do."""

    change: str
    compute: float
    quality: float
    worst: float

    def to_json(self) -> "Relaxed":
        """As calibration.json has it."""
        return {"change": self.change, "compute": self.compute, "quality": self.quality, "worst": self.worst}


class Relaxed(TypedDict):
    """A `Looser` in calibration.json. drop_db: of the steepest alone."""

    change: str
    compute: float
    quality: float
    worst: float
    drop_db: NotRequired[float]


class Sensitivity(TypedDict):
    """Predictions around a policy. steepest: the setting whose relaxing costs most; collapse_margin_db: its prediction above
    `collapse_db`, None without PSNR."""

    chosen: float
    measure: str
    notches: list[Relaxed]
    stretched: list[Relaxed]
    steepest: Relaxed | None
    collapse_db: float | None
    collapse_margin_db: float | None


def sensitivity(scorer: Scorer, space: Space, taken: Candidate) -> Sensitivity:
    """What is predicted when one setting of a policy is relaxed by one notch, or all its intervals are stretched."""
    notches = [_looser(scorer, change, policy) for change, policy in looser_policies(taken.policy, space)]
    stretched = [_looser(scorer, f"intervals x {factor:g}", _stretched(taken.policy, factor)) for factor in (1.5, 2.0, 3.0)]
    steepest = min(notches, key=lambda notch: notch.quality, default=None)
    has_psnr = scorer.surrogate.offset_db is not None
    return {
        "chosen": taken.quality,
        "measure": scorer.surrogate.measure,
        "notches": [notch.to_json() for notch in notches],
        "stretched": [notch.to_json() for notch in stretched],
        "steepest": None if steepest is None else {**steepest.to_json(), "drop_db": taken.quality - steepest.quality},
        "collapse_db": COLLAPSE_DB if has_psnr else None,
        "collapse_margin_db": steepest.quality - COLLAPSE_DB if steepest and has_psnr else None,
    }


def _looser(scorer: Scorer, change: str, policy: Policy) -> Looser:
    candidate = scorer.candidate(policy)
    return Looser(change, candidate.compute, candidate.quality, candidate.worst)


def looser_policies(policy: Policy, space: Space) -> Iterator[tuple[str, Policy]]:
    """(what is changed, policy) for every setting one notch looser."""
    every = policy.intervals
    if skips_steps_only(policy):
        wider = every.active + 1
        yield f"interval {every.active} -> {wider}", _with_intervals(policy, wider, wider, wider)
    else:
        if every.active + 1 <= every.moderate:
            yield (
                f"active {every.active} -> {every.active + 1}",
                _with_intervals(policy, every.static, every.moderate, every.active + 1),
            )
        if every.moderate + 1 <= every.static and policy.quantiles != policy.thresholds:
            yield (
                f"moderate {every.moderate} -> {every.moderate + 1}",
                _with_intervals(policy, every.static, every.moderate + 1, every.active),
            )
        if every.static < LONGEST:
            wider = every.static + max(1, every.active)
            yield f"static {every.static} -> {wider}", _with_intervals(policy, wider, every.moderate, every.active)
        yield from _lower_cuts(policy)
    for name in ("warmup", "cooldown"):
        legal = [value for value in getattr(space, f"{name}s") if value < getattr(policy, name)]
        if legal:
            warmup, cooldown = (max(legal), policy.cooldown) if name == "warmup" else (policy.warmup, max(legal))
            yield f"{name} {getattr(policy, name)} -> {max(legal)}", replace(policy, warmup=warmup, cooldown=cooldown)


def _lower_cuts(policy: Policy) -> Iterator[tuple[str, Policy]]:
    if policy.quantiles is not None:
        yield "quantiles + 0.1", replace(policy, quantiles=_raised(policy.quantiles))
    elif policy.thresholds is not None:
        yield "thresholds + 0.1", replace(policy, thresholds=_raised(policy.thresholds))


def _raised(split: Split) -> Split:
    return replace(split, static=min(1.0, split.static + 0.1), moderate=min(1.0, split.moderate + 0.1))


def _with_intervals(policy: Policy, static: int, moderate: int, active: int) -> Policy:
    return replace(policy, intervals=replace(policy.intervals, static=static, moderate=moderate, active=active))


def _stretched(policy: Policy, factor: float) -> Policy:
    every = policy.intervals
    wider: Callable[[int], int] = lambda interval: max(interval, round(interval * factor))
    return _with_intervals(policy, wider(every.static), wider(every.moderate), wider(every.active))
