"""Calibrate: recordings and a few real runs to a policy that meets a target on new prompts.

Record some of the prompts, reduce them to tracks; run a few policies on them and fit the surrogate; search on the tracks alone;
validate the few on the front by real runs on the other prompts; take one. Recordings without a model: search alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...capture.protocols import Pipeline
from ...errors import InputError
from ...parallel.tasks import fan_out
from ...pipeline.call import CallOptions
from ...pipeline.model import Model, as_model
from ...pipeline.model_options import ModelOptions, ProbeSource
from ...pipeline.provenance import fingerprint_of_recording
from ...recording import open_recording
from ..record.gather import Shards, gather_shards
from .directory import claim, open_directory
from .experts import common_boundary
from .fitting import Fitting, Progress, silent
from .result import Calibration, write_calibration
from .runs import Generation, ModelSource, Runs
from .search import load_optuna
from .space import Span
from .target import Budget, Effort, Target
from .tracks import Tracks, kept_track, tokens_per_run

TRACKS = "tracks"


def _calibrate_model(
    directory: Path,
    source: ModelSource,
    call: CallOptions,
    prompts: Sequence[str],
    target: Target,
    *,
    shards: Shards | None = None,
    effort: Effort | None = None,
    expert: str | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Calibrate a model on prompts, three in five of which are held out.

    Args:
        directory: keeps recordings, tracks, runs and the study; a rerun takes up what is there.
        source: the MODEL. call: options of every generation; prompt and seed are set for each.
        shards: recordings of the same model and call that the search sees beside those made here.
        expert: one of the networks of a model with two; both by default, each with its own fit.

    Raises:
        InputError: too few prompts or runs, no run succeeded, nothing can be skipped in so few steps, shards of another kind.
    """
    effort = effort or Effort()
    budget = Budget.of(len(prompts), effort.max_runs, effort.candidates)
    runs = Runs(directory, source, call, ray=effort.ray)
    fit_on, held_out = _parted([Generation(prompt, effort.seed + index) for index, prompt in enumerate(prompts)], budget.fit)
    if shards is not None:
        runs.make(fit_on[:1])
        _refuse_others(shards, runs.recording(fit_on[0]))
    with progress("full runs") as on_step:
        full = runs.make([*fit_on, *held_out], on_step)
    ran = {g.key: found for g, found in zip([*fit_on, *held_out], full, strict=True) if found is not None}
    fit_on, held_out = [g for g in fit_on if g.key in ran], [g for g in held_out if g.key in ran]
    if not fit_on or not held_out:
        raise InputError(f"too few full runs succeeded to go on: {'; '.join(runs.failures)[:500]}")
    model = next(iter(ran.values())).model
    boundary = model["boundary"] if isinstance(model["boundary"], float) else None
    beside, left_out = _beside(shards, prompts)
    paths = [*(runs.recording(g) for g in fit_on), *beside]
    tracks = _reduced(paths, directory, boundary, effort, source.options.probe, progress)
    spans = _spans(tracks, boundary, expert)
    share = replace(budget, candidates=max(1, budget.candidates // len(spans)), fit_runs=budget.fit_runs // len(spans))
    work = Fitting(directory, target, effort, progress, runs, fit_on, held_out, share)
    fits = [work.fit(tracks, span) for span in spans]
    seen = [(g.prompt, g.seed) for g in held_out]
    return Calibration(
        target, tuple(fits), tracks.fingerprint, model, (*tracks.runs, *seen), runs.count, (*runs.failures, *left_out)
    )


def _parted(generations: Sequence[Generation], fit: int) -> tuple[list[Generation], list[Generation]]:
    """Those to record, evenly over the list, so that one that is sorted by kind is parted fairly; and the others."""
    fitted = {index * len(generations) // fit for index in range(fit)}
    recorded = [replace(g, recorded=True) for index, g in enumerate(generations) if index in fitted]
    return recorded, [g for index, g in enumerate(generations) if index not in fitted]


def _refuse_others(shards: Shards, own: Path) -> None:
    """Raise InputError naming what differs between the recordings that were given and one that was made here."""
    with open_recording(own) as recording:
        made_here = fingerprint_of_recording(recording)
    differs = shards.made_with.difference(made_here, any_prompt=True)
    if differs:
        fields = "; ".join(f"{d.field} {d.mine} there, {d.theirs} here" for d in differs)[:500]
        raise InputError(f"the recordings were made otherwise than the model's runs are ({fields}). Give the options they had.")


def _beside(shards: Shards | None, prompts: Sequence[str]) -> tuple[list[Path], tuple[str, ...]]:
    """The recordings to take, and sentences about the others: a prompt that is validated on is not searched on."""
    if shards is None:
        return [], ()
    taken = [shard.path for shard in shards.recordings if shard.prompt not in prompts]
    same = len(shards.recordings) - len(taken)
    words = (f"{same} of the recordings are left out: their prompts are among those given with --prompts.",) if same else ()
    return taken, (*shards.left_out, *words)


def _calibrate_shards(
    directory: Path,
    shards: Shards,
    target: Target,
    *,
    effort: Effort | None = None,
    boundary: float | None = None,
    expert: str | None = None,
    probe: ProbeSource | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Calibrate on recordings alone: nothing is run, so no PSNR is known and nothing is validated.

    Raises InputError for a target that needs real runs.
    """
    effort = effort or Effort()
    refuse_unmeasured(target)
    boundary = common_boundary(shards.paths) if boundary is None else boundary
    tracks = _reduced(list(shards.paths), directory, boundary, effort, probe, progress)
    work = Fitting(directory, target, effort, progress)
    fits = [work.fit(tracks, span) for span in _spans(tracks, boundary, expert)]
    model = {"name": tracks.fingerprint.model, "revision": "unknown", "boundary": boundary}
    return Calibration(target, tuple(fits), tracks.fingerprint, model, tuple(tracks.runs), 0, shards.left_out)


def refuse_unmeasured(target: Target) -> None:
    """Raise InputError for a target that recordings alone cannot meet."""
    if target.kind in ("psnr", "speedup"):
        raise InputError(
            f"--target-{target.kind} needs real runs, and recordings alone were given; name a MODEL, or use --target-compute."
        )


def _reduced(
    paths: Sequence[Path],
    directory: Path,
    boundary: float | None,
    effort: Effort,
    probe: ProbeSource | None,
    progress: Progress,
) -> Tracks:
    """The recordings as tracks, each reduced once, here or over a cluster."""
    follow = tokens_per_run(1 << 30, len(paths))
    tasks = [(str(path), str(directory / TRACKS / f"{index:05d}-{path.stem}.npz")) for index, path in enumerate(paths)]
    claim(directory, (f"{TRACKS}/{Path(kept).name}" for _, kept in tasks))
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


def _reducer(follow: int, boundary: float | None, probe: ProbeSource | None) -> Callable[[tuple[str, str]], bool]:
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


def calibrate(
    model_or_pipe: str | Model | Pipeline,
    prompts: Sequence[str],
    target: Target,
    *,
    directory: str | Path = "calibration",
    recordings: Sequence[str | Path] = (),
    options: ModelOptions | None = None,
    call: CallOptions | None = None,
    effort: Effort | None = None,
    expert: str | None = None,
    force: bool = False,
    progress: Progress = silent,
    on_resume: Callable[[], None] = lambda: None,
) -> Calibration:
    """Find the policy that meets a target on prompts like these, from recordings and a few real runs.

    The policy, calibration.json and all runs are written to `directory`; called again, an interrupted calibration goes on.

    Args:
        model_or_pipe: a hub id, a local directory or a bundled model; or a Model or diffusers pipeline that is loaded already.
        prompts: two in five are recorded and fitted on, the others held out and validated on.
        target: what the policy has to meet, as `Target("compute", 0.5)`.
        directory: of this calibration alone.
        recordings: files, directories and manifests of the same model that are searched on as well.
        options: how a named model is loaded. Of a pipeline `probe` counts alone.
        call: steps, size, guidance and the like of every generation; its prompt and seed are replaced.
        effort: how many runs, candidates and trials.
        expert: one of the networks of a model with two; both by default, each with its own fit.
        force: replace what an earlier calibration left in `directory`.
        progress: given a stage's name, a context manager of (done, in all).
        on_resume: called where an unfinished calibration goes on.

    Returns:
        The calibration: `reached`, `main.choice.taken.policy`, and what to expect of it on new prompts.

    Raises:
        InputError: Optuna is missing; too few prompts or runs; no run succeeded; nothing can be skipped in so few steps;
            recordings of another kind; a directory that holds something else.

    Example:
        >>> half = janoscope.calibrate(pipe, prompts, janoscope.Target("compute", 0.5), directory="half")  # doctest: +SKIP
        >>> half.main.choice.expected.interval(16)  # doctest: +SKIP
    """
    load_optuna()  # refused before hours of runs, not after
    directory, effort = Path(directory), effort or Effort()
    shards = gather_shards([Path(place) for place in recordings]) if recordings else None
    Budget.of(len(prompts), effort.max_runs, effort.candidates)  # refused before a directory is made
    source, call = _source(model_or_pipe, options or ModelOptions()), call or CallOptions(prompts[0])
    if effort.ray is not None and source.loaded is not None:
        raise InputError("a cluster's workers load the model themselves; name it instead of giving a pipeline, or leave ray out.")
    if open_directory(directory, {"load": source.to_json(), "call": vars(call) | {"prompt": None, "seed": None}}, force):
        on_resume()
    calibration = _calibrate_model(
        directory, source, call, prompts, target, shards=shards, effort=effort, expert=expert, progress=progress
    )
    write_calibration(calibration, directory)
    return calibration


def _source(model_or_pipe: str | Model | Pipeline, options: ModelOptions) -> ModelSource:
    if isinstance(model_or_pipe, str):
        return ModelSource(model_or_pipe, options)
    if options != ModelOptions(probe=options.probe):
        raise InputError("options say how a named model is loaded, and this one is loaded already; leave all but probe out.")
    model = as_model(model_or_pipe, options.probe)
    return ModelSource(model.name, options, model)


def calibrate_recordings(
    recordings: Sequence[str | Path],
    target: Target,
    *,
    directory: str | Path = "calibration",
    effort: Effort | None = None,
    boundary: float | None = None,
    expert: str | None = None,
    probe: ProbeSource | None = None,
    force: bool = False,
    progress: Progress = silent,
    on_resume: Callable[[], None] = lambda: None,
) -> Calibration:
    """`calibrate` on recordings alone: nothing is run, so no PSNR is known and nothing is validated.

    Args:
        recordings: files, directories and manifests of one model.
        boundary: of a model with two experts where they change over, for recordings that do not say.
        probe: for recordings that name none.

    Raises:
        InputError: a target that needs real runs; Optuna is missing; a directory that holds something else.
    """
    load_optuna()
    directory, effort = Path(directory), effort or Effort()
    if not recordings:
        raise InputError("no recording was given.")
    shards = gather_shards([Path(place) for place in recordings])
    refuse_unmeasured(target)
    recipe = {"recordings": [str(path) for path in shards.paths], "boundary": boundary, "probe": probe}
    if open_directory(directory, recipe, force):
        on_resume()
    calibration = _calibrate_shards(
        directory, shards, target, effort=effort, boundary=boundary, expert=expert, probe=probe, progress=progress
    )
    write_calibration(calibration, directory)
    return calibration
