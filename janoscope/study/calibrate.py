"""Calibrate: recordings and a few real runs to a policy that meets a target on new prompts.

Record some of the prompts, reduce them to tracks; run a few policies on them and fit the surrogate; search on the tracks alone;
validate the few on the front by real runs on the other prompts; take one. Recordings without a model: search alone.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .calibrate_budget import CANDIDATES, Budget
from .calibrate_choice import Target, Validated, choose, choose_unseen, cliff, worth_running
from .calibrate_directory import open_directory
from .calibrate_runs import Generation, Ran, Runs
from .calibrate_search import Band, Candidate, Scorer, front, probes, search
from .calibrate_space import Space, Span, nothing_to_skip
from .calibrate_surrogate import Observed, Surrogate, agreement, cross_validated, fit_surrogate, method_class
from .calibrate_times import StepTimes
from .calibrate_tracks import Tracks, kept_track, tokens_per_run
from .calibration import Calibration, Fit, write_calibration
from .call import CallOptions
from .fanout import fan_out
from .shards import Shards, gather_shards

TRIALS = 3000
TRACKS, STUDY = "tracks", "study.journal"
OnStep = Callable[[int, int], None]
Progress = Callable[[str], AbstractContextManager[OnStep | None]]


def _silent(label: str) -> AbstractContextManager[OnStep | None]:
    return nullcontext()


@dataclass(frozen=True)
class Effort:
    """How much is spent.

    max_runs: generations in all, None for the usual number. candidates: policies validated on every held-out prompt. trials:
    policies scored on recordings. seed: of the search, of what is drawn, and of the first prompt's generation; the others count
    up. ray: address of a cluster.
    """

    max_runs: int | None = None
    candidates: int = CANDIDATES
    trials: int = TRIALS
    seed: int = 0
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"--trials {self.trials} searches nothing; give 1 or more.")


def calibrate_model(
    directory: Path,
    load: Mapping[str, Any],
    call: CallOptions,
    prompts: Sequence[str],
    target: Target,
    *,
    effort: Effort | None = None,
    expert: str | None = None,
    progress: Progress = _silent,
) -> Calibration:
    """Calibrate a model on prompts, three in five of which are held out.

    Args:
        directory: keeps recordings, tracks, runs and the study; a rerun takes up what is there.
        load: arguments of `load_model`. call: options of every generation; prompt and seed are set for each.
        expert: one of the networks of a model with two; both by default, each with its own fit.

    Raises:
        InputError: too few prompts or runs, no run succeeded, nothing can be skipped in so few steps.
    """
    effort = effort or Effort()
    budget = Budget.of(len(prompts), effort.max_runs, effort.candidates)
    runs = Runs(directory, load, call, ray=effort.ray)
    generations = [Generation(prompt, effort.seed + index) for index, prompt in enumerate(prompts)]
    # evenly over the list: one that is sorted by kind is parted fairly
    fitted = {index * len(prompts) // budget.fit for index in range(budget.fit)}
    fit_on = [replace(g, recorded=True) for index, g in enumerate(generations) if index in fitted]
    held_out = [g for index, g in enumerate(generations) if index not in fitted]
    with progress("full runs") as on_step:
        full = runs.make([*fit_on, *held_out], on_step)
    ran = {g.key: found for g, found in zip([*fit_on, *held_out], full, strict=True) if found is not None}
    fit_on, held_out = [g for g in fit_on if g.key in ran], [g for g in held_out if g.key in ran]
    if not fit_on or not held_out:
        raise InputError(f"too few full runs succeeded to go on: {'; '.join(runs.failures)[:500]}")
    told = next(iter(ran.values())).model
    tracks = _reduced([runs.recording(g) for g in fit_on], directory, told["boundary"], effort, load.get("probe"), progress)
    spans = _spans(tracks, told["boundary"], expert)
    share = replace(budget, candidates=max(1, budget.candidates // len(spans)), fit_runs=budget.fit_runs // len(spans))
    work = _Calibrating(directory, target, effort, progress, runs, fit_on, held_out, share)
    fits = [work.fit(tracks, span) for span in spans]
    return Calibration(target, tuple(fits), tracks.fingerprint, told, _seeds(generations), runs.count, tuple(runs.failures))


def calibrate_recordings(
    directory: Path,
    shards: Shards,
    target: Target,
    *,
    effort: Effort | None = None,
    boundary: float | None = None,
    expert: str | None = None,
    probe: Path | None = None,
    progress: Progress = _silent,
) -> Calibration:
    """Calibrate on recordings alone: nothing is run, so no PSNR is known and nothing is validated.

    Raises InputError for a target that needs real runs.
    """
    effort = effort or Effort()
    refuse_unmeasured(target)
    tracks = _reduced(list(shards.paths), directory, boundary, effort, probe, progress)
    work = _Calibrating(directory, target, effort, progress)
    fits = [work.fit(tracks, span) for span in _spans(tracks, boundary, expert)]
    told = {"name": tracks.fingerprint.model, "revision": "unknown", "boundary": boundary}
    return Calibration(target, tuple(fits), tracks.fingerprint, told, tuple(tracks.runs), 0, shards.left_out)


def refuse_unmeasured(target: Target) -> None:
    """Raise InputError for a target that recordings alone cannot meet."""
    if target.kind in ("psnr", "speedup"):
        raise InputError(
            f"--target-{target.kind} needs real runs, and recordings alone were given; name a MODEL, or use --target-compute."
        )


def _seeds(generations: Sequence[Generation]) -> tuple[tuple[str, int | None], ...]:
    return tuple((g.prompt, g.seed) for g in generations)


def _reduced(
    paths: Sequence[Path],
    directory: Path,
    boundary: float | None,
    effort: Effort,
    probe: Path | None,
    progress: Progress,
) -> Tracks:
    """The recordings as tracks, each reduced once, here or over a cluster."""
    follow = tokens_per_run(1 << 30, len(paths))
    tasks = [(str(path), str(directory / TRACKS / f"{index:05d}-{path.stem}.npz")) for index, path in enumerate(paths)]
    found: dict[str, str | None] = {}
    with progress("reduce") as on_step:
        for outcome in fan_out(tasks, partial(_reducer, follow, boundary, probe), ray=effort.ray):
            found[outcome.task[0]] = outcome.error
            if on_step is not None:
                on_step(len(found), len(tasks))
    bad = [f"{Path(path).name}: {error}" for path, error in found.items() if error is not None]
    if bad:
        raise InputError(f"{len(bad)} of {len(tasks)} recordings cannot be calibrated on; the first: {bad[0]}")
    return Tracks([kept_track(Path(path), Path(kept), follow, boundary, probe) for path, kept in tasks])


def _reducer(follow: int, boundary: float | None, probe: Path | None) -> Callable[[tuple[str, str]], bool]:
    def work(task: tuple[str, str]) -> bool:
        kept_track(Path(task[0]), Path(task[1]), follow, boundary, probe)
        return True

    return work


def _spans(tracks: Tracks, boundary: float | None, expert: str | None) -> list[Span]:
    spans = tracks.spans(boundary)
    if expert is not None:
        names = [span.expert for span in spans if span.expert]
        spans = [span for span in spans if span.expert == expert]
        if not spans:
            legal = f"legal: {', '.join(names)}" if names else "this model has one network"
            raise InputError(f"--expert {expert} is none of this model's networks; {legal}.")
    return spans


@dataclass(frozen=True)
class _Calibrating:
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
        space = Space.of_span(tracks.grid, tracks.steps, span)
        if space is None:
            return Fit(span, note=nothing_to_skip(tracks.steps, span))
        observed = self._observe(tracks, space)
        surrogate = fit_surrogate([run for run, _ in observed])
        times = self._times([ran for _, ran in observed]) if self.target.kind == "speedup" else None
        scorer = Scorer(tracks, surrogate, times)
        candidates = self._search(scorer, space, self.target.band)
        line = front(candidates, self.target.band)
        validated = self._validate(worth_running(candidates, self.target, self.budget.candidates if self.budget else 0))
        choice = (
            choose(validated, self.target) if validated else choose_unseen(candidates, self.target) if not self.runs else None
        )
        found = Fit(
            span,
            surrogate=surrogate,
            times=times,
            agreement=_agreement([run for run, _ in observed], validated),
            front=tuple(line),
            validated=tuple(validated),
            choice=choice,
            cliff=None if choice is None else cliff(scorer, space, choice.taken),
            tried=len(candidates),
        )
        return replace(found, note="" if choice else _out_of_reach(self.target, candidates))

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
        told = {"trials": self.effort.trials, "seed": self.effort.seed}
        with self.progress("search") as on_step:
            return search(scorer, space, band, self.directory / STUDY, on_trial=on_step, **told)

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


def _agreement(observed: Sequence[Observed], validated: Sequence[Validated]) -> dict[str, Any]:
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


def calibrate(
    source: str | Sequence[str | Path],
    directory: str | Path,
    target: Target,
    *,
    prompts: Sequence[str] = (),
    load: Mapping[str, Any] | None = None,
    call: CallOptions | None = None,
    effort: Effort | None = None,
    boundary: float | None = None,
    expert: str | None = None,
    force: bool = False,
    progress: Progress = _silent,
    on_resume: Callable[[], None] = lambda: None,
) -> Calibration:
    """Calibrate a MODEL on prompts, or on recordings alone, and write the policy, calibration.json and all runs to `directory`.

    Args:
        source: a hub id, local directory or bundled model; or recordings: files, directories and manifests.
        prompts: two in five are fitted on, the others held out. load: further arguments of `load_model`. call: options of every
            generation. boundary: with recordings of a model with two experts, where they change over. on_resume: called where an
            unfinished calibration is taken up.

    Raises:
        InputError: see `calibrate_model`, `calibrate_recordings` and `open_directory`.

    Example:
        >>> found = janoscope.calibrate("demo", "half", Target("compute", 0.5), prompts=prompts)  # doctest: +SKIP
        >>> found.main.choice.expected.interval(16)  # doctest: +SKIP
    """
    directory, effort = Path(directory), effort or Effort()
    told: dict[str, Any] = {"effort": effort, "expert": expert, "progress": progress}
    if isinstance(source, str):
        Budget.of(len(prompts), effort.max_runs, effort.candidates)  # refused before a directory is made
        arguments = {**(load or {}), "name": source}
        call = call or CallOptions(prompts[0])
        recipe: dict[str, Any] = {"load": arguments, "call": vars(call) | {"prompt": None, "seed": None}}
        if open_directory(directory, recipe, force):
            on_resume()
        found = calibrate_model(directory, arguments, call, prompts, target, **told)
    else:
        refuse_unmeasured(target)
        shards = gather_shards([Path(place) for place in source])
        probe = (load or {}).get("probe")
        recipe = {"recordings": [str(path) for path in shards.paths], "boundary": boundary, "probe": probe}
        if open_directory(directory, recipe, force):
            on_resume()
        found = calibrate_recordings(directory, shards, target, boundary=boundary, probe=probe, **told)
    write_calibration(found, directory)
    return found
