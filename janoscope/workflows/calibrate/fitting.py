"""One network's calibration: a few real runs fit the surrogate, the search, validation on held-out prompts, and the choice."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import InputError
from .choice import Validated, choose, choose_unseen, worth_running
from .result import Fit
from .runs import Generation, Ran, Runs
from .search import Band, Candidate, Scorer, front, probes, search
from .sensitivity import sensitivity
from .space import Space, Span, nothing_to_skip
from .surrogate import Agreement, Observed, StepTimes, Surrogate, agreement, cross_validated, fit_surrogate, method_class
from .target import Budget, Effort, Target
from .tracks import Tracks

STUDY = "study.journal"
OnStep = Callable[[int, int], None]
Progress = Callable[[str], AbstractContextManager[OnStep | None]]


def silent(label: str) -> AbstractContextManager[OnStep | None]:
    """Progress that nobody watches."""
    return nullcontext()


@dataclass(frozen=True)
class Fitting:
    """One calibration under way. runs, budget: None without a model."""

    directory: Path
    target: Target
    effort: Effort
    progress: Progress
    runs: Runs | None = None
    fit_on: Sequence[Generation] = ()
    held_out: Sequence[Generation] = ()
    budget: Budget | None = None

    def fit(self, tracks: Tracks, span: Span) -> Fit:
        """The calibration of one network; of one that runs too few steps, and where nothing meets the target, the reason."""
        space = Space.of_span(tracks.grid, tracks.steps, span, tracks.outputs)
        if space is None:
            return Fit(span, note=nothing_to_skip(tracks.steps, span))
        observed = self._observe(tracks, space)
        surrogate = fit_surrogate([run for run, _ in observed])
        times = self._times([ran for _, ran in observed]) if self.target.kind == "speedup" else None
        scorer = Scorer(tracks, surrogate, times)
        candidates = self._search(scorer, space, self.target.band)
        validated = self._validate(worth_running(candidates, self.target, self.budget.candidates if self.budget else 0))
        if self.runs is None:
            choice = choose_unseen(candidates, self.target)
        else:
            choice = choose(validated, self.target) if validated else None
        return Fit(
            span,
            surrogate=surrogate,
            times=times,
            agreement=_agreement([run for run, _ in observed], validated),
            front=tuple(front(candidates, self.target.band)),
            validated=tuple(validated),
            choice=choice,
            sensitivity=None if choice is None else sensitivity(scorer, space, choice.taken),
            tried=len(candidates),
            note="" if choice else _out_of_reach(self.target, candidates),
        )

    def _observe(self, tracks: Tracks, space: Space) -> list[tuple[Observed, Ran]]:
        """Real runs of a few policies, each on one of the recorded prompts, and what their replays say."""
        if self.runs is None or self.budget is None or self.budget.fit_runs == 0:
            return []
        drawn = probes(Scorer(tracks, Surrogate()), space, _wide(self.target), self.budget.fit_runs, self.effort.seed)
        order = {run: index for index, run in enumerate(tracks.runs)}
        wanted = [replace(self.fit_on[i % len(self.fit_on)], policy=c.policy, recorded=False) for i, c in enumerate(drawn)]
        with self.progress("fit runs") as on_step:
            made = self.runs.make(wanted, on_step)
        found = []
        for number, (generation, ran) in enumerate(zip(wanted, made, strict=True)):
            if ran is None or ran.psnr is None or generation.policy is None:
                continue
            score, at = tracks.score(generation.policy), order[generation.prompt, generation.seed]
            policy = replace(generation.policy, name=f"probe {number}")
            found.append((Observed(policy, float(score.output[at]), float(score.stale[at]), ran.psnr), ran))
        return found

    def _times(self, fitted: Sequence[Ran]) -> StepTimes:
        assert self.runs is not None
        full = [ran for g in self.held_out if (ran := self.runs.known.get(g.key)) is not None]
        steps = [step for ran in full for step in ran.steps]
        outside = [ran.wall_s - sum(s.seconds for s in ran.steps) - ran.wall_s / (len(ran.steps) + 1) for ran in full]
        return StepTimes.measured(steps, [s for ran in fitted for s in ran.steps], float(np.median(outside)))

    def _search(self, scorer: Scorer, space: Space, band: Band) -> list[Candidate]:
        effort = self.effort
        with self.progress("search") as on_step:
            return search(scorer, space, band, self.directory / STUDY, trials=effort.trials, seed=effort.seed, on_trial=on_step)

    def _validate(self, few: Sequence[Candidate]) -> list[Validated]:
        """Every candidate on every held-out prompt; prompts where a candidate failed count for none."""
        if self.runs is None or not few:
            return []
        wanted = [replace(g, policy=candidate.policy) for candidate in few for g in self.held_out]
        with self.progress("validate") as on_step:
            made = self.runs.make(wanted, on_step)
        table = [made[i * len(self.held_out) : (i + 1) * len(self.held_out)] for i in range(len(few))]
        whole = [p for p in range(len(self.held_out)) if all(row[p] is not None for row in table)]
        if not whole:
            raise InputError(f"no held-out prompt ran under every candidate: {'; '.join(self.runs.failures)[:500]}")
        return [self._validated(candidate, [row[p] for p in whole], whole) for candidate, row in zip(few, table, strict=True)]

    def _validated(self, candidate: Candidate, ran: Sequence[Ran | None], prompts: Sequence[int]) -> Validated:
        assert self.runs is not None
        known = [run for run in ran if run is not None]
        full = [self.runs.known[self.held_out[p].key].wall_s for p in prompts]
        return Validated(
            candidate,
            tuple(float(run.psnr or 0.0) for run in known),
            tuple(float(run.compute or 0.0) for run in known),
            tuple(whole / run.wall_s for whole, run in zip(full, known, strict=True)),
        )


def _wide(target: Target) -> Band:
    """Computes to fit the surrogate over: further out than the search goes."""
    if target.kind == "compute":
        return Band("compute", max(0.15, target.value - 0.25), min(0.95, target.value + 0.3))
    return Band("compute", 0.25, 0.9)


def _agreement(observed: Sequence[Observed], validated: Sequence[Validated]) -> dict[str, Agreement]:
    """How the surrogate ranks: single runs of the fit, each predicted without its own policy; and the validated, mean by mean."""
    runs = agreement(
        [method_class(run.policy) for run in observed], cross_validated(observed).tolist(), [run.psnr for run in observed]
    )
    means = agreement(
        [v.candidate.method for v in validated], [v.candidate.quality for v in validated], [v.mean("psnr") for v in validated]
    )
    return {"fit_runs": runs, "held_out_means": means}


def _out_of_reach(target: Target, candidates: Sequence[Candidate]) -> str:
    best = max(candidates, key=lambda c: c.quality)
    cheapest = min(candidates, key=lambda c: c.compute)
    return (
        f"no policy comes near {target}: {len(candidates)} were tried, the cheapest computes {cheapest.compute:.2f}, the best is "
        f"predicted at {best.quality:.1f} dB with compute {best.compute:.2f}."
    )
