"""What is asked for, which few candidates are worth a real run, which of them is taken, and how near it stands to a cliff."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from ..plan import Policy
from .calibrate_search import Band, Candidate, Scorer, front
from .calibrate_space import LONGEST, Space
from .calibrate_statistics import COLLAPSE_DB, Expectation, Pick, chosen_by_others, lead, most_likely_best
from .calibrate_surrogate import skips_steps_only

COMPUTE_TOLERANCE = 0.03  # a policy for compute 0.5 computes 0.47 to 0.53
ABOVE = 0.005  # how far above its target a candidate may be predicted
AROUND = 0.12  # on both sides of the target, where the search tells costs apart
PSNR_MARGINS_DB = (0.0, 1.5, 3.0, 5.0, 8.0)  # above a target PSNR: predictions err
PREDICTION_DB = 2.0  # how far predicted differences of means stray between kinds; 0.5 to 2.3 on the bundled image model

Kind = Literal["compute", "speedup", "psnr", "pareto"]


@dataclass(frozen=True)
class Target:
    """What the policy is for. value: a fraction of FLOPs, a factor of wall time, dB; unused for `pareto`."""

    kind: Kind
    value: float = 0.0

    def __post_init__(self) -> None:
        legal = {"compute": 0 < self.value < 1, "speedup": self.value > 1, "psnr": self.value > 0, "pareto": True}
        if not legal[self.kind]:
            ranges = {"compute": "between 0 and 1", "speedup": "above 1", "psnr": "above 0 dB"}
            raise InputError(f"--target-{self.kind} {self.value:g} is out of range; give a number {ranges[self.kind]}.")

    def __str__(self) -> str:
        words = {"compute": f"compute {self.value:g}", "speedup": f"speedup {self.value:g}x", "psnr": f"PSNR {self.value:g} dB"}
        return words.get(self.kind, "the whole front")

    @property
    def band(self) -> Band:
        if self.kind == "compute":
            return Band("compute", max(0.0, self.value - AROUND), min(1.0, self.value + AROUND))
        if self.kind == "speedup":
            return Band("time", max(0.0, 1 / self.value - AROUND), min(1.0, 1 / self.value + AROUND))
        return Band("compute", 0.2, 0.95)


def worth_running(candidates: Sequence[Candidate], target: Target, count: int) -> list[Candidate]:
    """The few to validate, at most `count`: each of another kind where the target is a cost, since predictions are surest within
    a kind; along the front for the others. Empty where none comes near the target."""
    band = target.band
    if target.kind == "psnr":
        found = [_cheapest(candidates, target.value + margin) for margin in PSNR_MARGINS_DB]
        return _different([c for c in found if c is not None])[:count]
    if target.kind == "pareto":
        line = front(candidates, band)
        places = np.linspace(0, len(line) - 1, min(count, len(line))).round().astype(int)
        return [line[place] for place in dict.fromkeys(places.tolist())]
    goal = target.value if target.kind == "compute" else 1 / target.value
    near = [c for c in candidates if goal - COMPUTE_TOLERANCE <= band.of(c) <= goal + ABOVE]
    near = _different(sorted(near, key=lambda c: -c.quality))
    kinds: dict[tuple[str, str], Candidate] = {}
    for candidate in near:
        no_map = skips_steps_only(candidate.policy)
        kinds.setdefault((candidate.method, "" if no_map else candidate.policy.map), candidate)
    best = list(kinds.values())
    # the best that skips steps and the best that skips tokens are always put to the test: between the two predictions err most
    ways = {skips_steps_only(candidate.policy): candidate for candidate in reversed(best)}
    chosen = sorted(best, key=lambda c: c is not ways[skips_steps_only(c.policy)])[:count]
    return chosen + [c for c in near if c not in chosen][: count - len(chosen)]


def _different(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Without those that compute the same and do the same to every recording: where every token is active no map matters."""
    return list({(c.compute, c.each): c for c in reversed(candidates)}.values())[::-1]


def _cheapest(candidates: Sequence[Candidate], quality: float) -> Candidate | None:
    good = [c for c in candidates if c.quality >= quality]
    return min(good, key=lambda c: c.compute) if good else None


@dataclass(frozen=True)
class Validated:
    """A candidate under real runs on prompts held out of the fit. Arrays hold a value a prompt, in one order for all."""

    candidate: Candidate
    psnr: tuple[float, ...]
    compute: tuple[float, ...]
    speedup: tuple[float, ...]

    def mean(self, figure: str) -> float:
        """Of times the median, since other programs disturb single ones."""
        values = getattr(self, figure)
        return float(np.median(values) if figure == "speedup" else np.mean(values))

    def to_json(self) -> dict[str, Any]:
        means = {figure: self.mean(figure) for figure in ("psnr", "compute", "speedup")}
        each = {"psnr": list(self.psnr), "compute": list(self.compute), "speedup": list(self.speedup)}
        return self.candidate.to_json() | {"measured": means, "each": each}


@dataclass(frozen=True)
class Choice:
    """The policy taken. reached: whether it meets the target; expected: PSNR on new prompts, None without validation. lead: over
    the next candidate, see `calibrate_statistics.lead`."""

    taken: Candidate
    validated: Validated | None
    reached: bool
    expected: Expectation | None = None
    lead: Mapping[str, Any] | None = None


def choose(validated: Sequence[Validated], target: Target) -> Choice:
    """The best of the validated: the highest PSNR within a target cost, the lowest compute at a target PSNR.

    Candidates that the prompts do not tell apart are told apart by prediction.
    """
    meets = [v for v in validated if _meets(v, target)]
    pool = meets or list(validated)
    table = np.array([v.psnr for v in pool])
    if target.kind == "psnr":
        at = _least(pool, lambda v: v.mean("compute") if meets else -v.mean("psnr"))
    elif not meets:
        at = _least(pool, lambda v: abs(v.mean(target.kind) - target.value))
    else:
        predicted = [v.candidate.quality for v in pool]
        pick: Pick = lambda seen: most_likely_best(seen, predicted, PREDICTION_DB)
        expected = Expectation.of(table, chosen_by_others(table, pick))
        at = pick(table)
        return Choice(pool[at].candidate, pool[at], True, expected, _lead(pool, table, at))
    expected = Expectation.of(table, [at] * table.shape[1])
    return Choice(pool[at].candidate, pool[at], bool(meets), expected)


def _least(pool: Sequence[Validated], cost: Callable[[Validated], float]) -> int:
    return min(range(len(pool)), key=lambda index: cost(pool[index]))


def _lead(pool: Sequence[Validated], table: np.ndarray, at: int) -> dict[str, Any] | None:
    found = lead(table, at)
    return None if found is None else found | {"over": pool[found["over"]].candidate.method}


def _meets(validated: Validated, target: Target) -> bool:
    if target.kind == "compute":
        return abs(validated.mean("compute") - target.value) <= COMPUTE_TOLERANCE
    if target.kind == "pareto":
        return True
    return validated.mean(target.kind) >= target.value


def choose_unseen(candidates: Sequence[Candidate], target: Target) -> Choice | None:
    """By prediction alone; None where nothing comes near the target."""
    worth = worth_running(candidates, target, count=1)
    return Choice(max(worth, key=lambda c: c.quality), None, True) if worth else None


@dataclass(frozen=True)
class Looser:
    """One notch looser than the chosen policy: what was changed, and what that is predicted to do."""

    change: str
    compute: float
    quality: float
    worst: float

    def to_json(self) -> dict[str, Any]:
        return vars(self).copy()


def cliff(scorer: Scorer, space: Space, taken: Candidate) -> dict[str, Any]:
    """How the ground falls around a policy: every setting one notch looser, and all intervals stretched, as predicted.

    steepest: the notch that costs most. collapse_margin_db: its prediction above COLLAPSE_DB, None without PSNR.
    """
    notches = [_looser(scorer, change, policy) for change, policy in looser_policies(taken.policy, space)]
    stretched = [_looser(scorer, f"intervals x {factor:g}", _stretched(taken.policy, factor)) for factor in (1.5, 2.0, 3.0)]
    steepest = min(notches, key=lambda notch: notch.quality, default=None)
    has_psnr = scorer.surrogate.offset_db is not None
    return {
        "chosen": taken.quality,
        "measure": scorer.surrogate.measure,
        "notches": [notch.to_json() for notch in notches],
        "stretched": [notch.to_json() for notch in stretched],
        "steepest": None if steepest is None else steepest.to_json() | {"drop_db": taken.quality - steepest.quality},
        "collapse_db": COLLAPSE_DB if has_psnr else None,
        "collapse_margin_db": steepest.quality - COLLAPSE_DB if steepest and has_psnr else None,
    }


def _looser(scorer: Scorer, change: str, policy: Policy) -> Looser:
    found = scorer.candidate(policy)
    return Looser(change, found.compute, found.quality, found.worst)


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
            changes: Mapping[str, Any] = {name: max(legal)}
            yield f"{name} {getattr(policy, name)} -> {max(legal)}", replace(policy, **changes)


def _lower_cuts(policy: Policy) -> Iterator[tuple[str, Policy]]:
    cut = "quantiles" if policy.quantiles is not None else "thresholds"
    split = getattr(policy, cut)
    raised = replace(split, static=min(1.0, split.static + 0.1), moderate=min(1.0, split.moderate + 0.1))
    changes: Mapping[str, Any] = {cut: raised}
    yield f"{cut} + 0.1", replace(policy, **changes)


def _with_intervals(policy: Policy, static: int, moderate: int, active: int) -> Policy:
    return replace(policy, intervals=replace(policy.intervals, static=static, moderate=moderate, active=active))


def _stretched(policy: Policy, factor: float) -> Policy:
    every = policy.intervals
    wider: Callable[[int], int] = lambda interval: max(interval, round(interval * factor))
    return _with_intervals(policy, wider(every.static), wider(every.moderate), wider(every.active))
