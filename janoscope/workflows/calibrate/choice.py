"""Which few candidates are worth a real run, and which of them is taken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...plan.policy import skips_steps_only
from .expectation import Expectation, Lead, Pick, chosen_by_others, lead, most_likely_best
from .search import Candidate, front
from .target import COMPUTE_TOLERANCE, Target

ABOVE = 0.005  # how far above its target a candidate may be predicted
PSNR_MARGINS_DB = (0.0, 1.5, 3.0, 5.0, 8.0)  # above a target PSNR: predictions err
PREDICTION_DB = 2.0  # how far predicted differences of means are off between kinds; 0.5 to 2.3 on the bundled image model


def worth_running(candidates: Sequence[Candidate], target: Target, count: int) -> list[Candidate]:
    """The few to validate, at most `count`: each of another kind where the target is a cost, since predictions are surest within
    a kind; along the front for the others. Empty where none comes near the target."""
    band = target.band
    if target.kind == "psnr":
        cheapest = [_cheapest(candidates, target.value + margin) for margin in PSNR_MARGINS_DB]
        return _different([c for c in cheapest if c is not None])[:count]
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

    def to_json(self) -> dict[str, object]:
        means = {figure: self.mean(figure) for figure in ("psnr", "compute", "speedup")}
        each = {"psnr": list(self.psnr), "compute": list(self.compute), "speedup": list(self.speedup)}
        return self.candidate.to_json() | {"measured": means, "each": each}


@dataclass(frozen=True)
class Choice:
    """The policy taken. reached: whether it meets the target; expected: PSNR on new prompts, None without validation. lead: over
    the next candidate."""

    taken: Candidate
    validated: Validated | None
    reached: bool
    expected: Expectation | None = None
    lead: Lead | None = None


def choose(validated: Sequence[Validated], target: Target) -> Choice:
    """The best of the validated: the highest PSNR within a target cost, the lowest compute at a target PSNR.

    Between candidates that the prompts do not separate, predictions decide.
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


def _lead(pool: Sequence[Validated], table: np.ndarray, at: int) -> Lead | None:
    ahead = lead(table, at)
    return None if ahead is None else Lead(ahead.by, ahead.standard_error, pool[int(ahead.over)].candidate.method)


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
