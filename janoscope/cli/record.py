"""`janoscope record`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InputError, PeerLost
from .command import collected, command
from .options import (
    CallFlags,
    ModelFlags,
    PromptFlags,
    announce,
    as_argument,
    call_options,
    force_option,
    grouped,
    hush,
    model_options,
    output_option,
    prompt_options,
    quiet_option,
    verbose_option,
)
from .parallel import PairFlags, follows, paired, parallel_options
from .progress import progress

if TYPE_CHECKING:
    from ..capture import Tap
    from ..parallel.pair import Pair
    from ..workflows.record.manifest import Entry
    from ..workflows.record.many import SetPlan
    from ..workflows.record.session import Recorded
    from ..workflows.record.sink import Expected

TAP = "PATH[:steps=A:B:C][:tokens=K][:channels=K]"
STORED = ["float32", "float16", "bfloat16"]
LARGE = 1 << 30  # bytes that are announced without being asked


@dataclass(frozen=True)
class CaptureFlags:
    """What is recorded, and how it is stored."""

    taps: tuple[str, ...]
    tools: str | None
    policy: str | None
    store_dtype: str | None
    no_output: bool

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Tools to record for; a misspelt one is refused before a model is loaded."""
        if self.tools is None:
            return ()
        from ..workflows.record.tool_taps import TOOLS

        names = tuple(dict.fromkeys(name.strip() for name in self.tools.split(",")))
        if unknown := [name for name in names if name not in TOOLS]:
            raise click.UsageError(f"--for {unknown[0]}: legal are {', '.join(TOOLS)}.")
        return names


@dataclass(frozen=True)
class Job:
    """What the user asked `record` for."""

    model: str
    loading: ModelFlags
    calling: CallFlags
    capture: CaptureFlags
    force: bool
    quiet: bool
    verbose: bool

    def check_inputs(self) -> None:
        from ..pipeline.inputs import check_model

        check_model(self.model, revision=self.loading.revision, probe=self.loading.probe, policy=self.capture.policy)


@command(
    "Generate, and record every token's prediction at every step",
    """janoscope record demo -p "a red apple on grass" --seed 3 --steps 30 -o run.h5
janoscope record black-forest-labs/FLUX.1-dev --prompts prompts.txt -o runs""",
)
@model_options
@prompt_options
@call_options
@collected(
    "capture",
    CaptureFlags,
    (
        grouped("Recording", "--tap", "taps", multiple=True, metavar=TAP, help="Record an inner module too (docs/recording.md)."),
        grouped(
            "Recording",
            "--for",
            "tools",
            metavar="TOOL,...",
            help="Record what these step caches are calibrated from: teacache, magcache.",
        ),
        grouped("Recording", "--policy", help="Accelerate the run with a preset or policy file; skipped tokens are marked."),
        grouped("Recording", "--store-dtype", type=click.Choice(STORED), help="Store in another dtype than the model's."),
        grouped("Recording", "--no-output", is_flag=True, help="Save no decoded image beside the recording."),
    ),
)
@parallel_options
@output_option(None, "The recording [default: run.h5], or a directory [default: runs].")
@force_option
@quiet_option
@verbose_option
def record(
    model: str,
    loading: ModelFlags,
    prompting: PromptFlags,
    calling: CallFlags,
    capture: CaptureFlags,
    pairing: PairFlags,
    output: Path | None,
    force: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Generate with MODEL and record every token's prediction at every step.

    MODEL is a hub id, a local directory, or one of demo, demo:video, demo:latte. With --prompts, one recording a prompt goes
    into a directory; recordings that are complete there are skipped.
    """
    if bool(prompting.prompts) == (prompting.prompts_file is not None):
        raise click.UsageError("give -p PROMPT or --prompts FILE, one of the two.")
    if len(prompting.prompts) > 1:
        raise click.UsageError("-p takes one prompt here; write several into a file and give --prompts FILE.")
    job = Job(model, loading, calling, capture, force, quiet, verbose)
    tools = capture.tool_names
    if pairing.guidance_parallel is not None and (capture.taps or tools or prompting.ray):
        raise InputError(
            "--guidance-parallel works without --tap and --for (a process sees the modules of its own branch only) and without "
            "--ray (start more ranks with torchrun). Leave one of them out."
        )
    if prompting.prompts_file is not None:
        announce(model, quiet)
        with paired(pairing) as pair:
            failed = _record_many(output or Path("runs"), prompting.prompts_file, prompting, job, pair)
        sys.exit(1 if failed else 0)
    for flag, value in (("--prompt-column", prompting.prompt_column), ("--ray", prompting.ray)):
        if value is not None:
            raise click.UsageError(f"{flag} has no effect without --prompts FILE.")
    announce(model, quiet)
    from ..pipeline.inputs import inputs_first
    from ..workflows.record.session import refuse_unwritable

    target = output or Path("run.h5")
    with inputs_first(job.check_inputs):
        refuse_unwritable(target, force, not capture.no_output)
    with paired(pairing) as pair:
        _record_one(target, prompting.prompts[0], job, pair)


def _record_one(output: Path, prompt: str, job: Job, pair: "Pair | None") -> None:
    from ..pipeline.call import make_call
    from ..pipeline.provenance import RunOptions
    from ..workflows.record.session import follow, record_model
    from ..workflows.record.tool_taps import export_taps

    model = job.loading.load(job.model, job.verbose, pair)
    options = job.calling.options(prompt)
    call = make_call(model, options)
    policy = model.policy(job.capture.policy) if job.capture.policy else None
    if follows(pair):
        follow(model, call, policy=policy)
        return
    for warning in call.warnings:
        click.echo(warning, err=True)
    taps: list[Tap | str] = [*job.capture.taps, *export_taps(model.probe, job.capture.tool_names)]
    try:
        with progress("record", job.quiet) as on_step:
            recorded = record_model(
                model,
                call,
                output,
                asked_for=RunOptions(job.model, job.loading.options(), options.extra or {}),
                taps=taps,
                policy=policy,
                store_dtype=job.capture.store_dtype,
                keep_output=not job.capture.no_output,
                force=job.force,
                on_step=on_step,
                on_size=None if job.quiet else lambda expected: _say_size(expected, bool(taps)),
            )
    except (KeyboardInterrupt, PeerLost):
        _say_partial(output)
        raise
    _say_recorded(recorded, job)
    click.echo(f"Next: janoscope analyze {as_argument(recorded.path)}")


def _say_size(expected: "Expected", always: bool) -> None:
    """How large it will get, before anything is written."""
    from ..workflows.record.sink import human_size

    if not (always or expected.total > LARGE or expected.is_too_large):
        return
    taps = f" (taps {human_size(expected.taps)})" if expected.taps else ""
    short = ", too little: the recording will stop early" if expected.is_too_large else ""
    size, free = human_size(expected.total), human_size(expected.free)
    click.echo(f"{expected.path.name} will take {size}{taps}; {free} are free{short}.", err=True)


def _say_recorded(recorded: "Recorded", job: Job) -> None:
    """What was written, and how recording disturbed the measurement."""
    from ..workflows.record.sink import human_size

    for notice in () if job.quiet else recorded.notices:
        click.echo(notice, err=True)
    if recorded.picture:
        click.echo(f"Wrote {recorded.picture}")
    click.echo(f"Wrote {recorded.path} ({recorded.steps} steps, {job.model})")
    facts = [human_size(recorded.bytes), f"recording cost {recorded.overhead:.1%} of the run"]
    facts.append(f"{recorded.nonfinite} non-finite values")
    if job.capture.store_dtype:
        facts.append(f"storage as {job.capture.store_dtype} loses at most {recorded.storage_loss:.2g}")
        facts.append(f"{recorded.nonfinite_created} non-finite values made by storing")
    if recorded.compute is not None:
        facts.append(f"compute {recorded.compute:.3f} of the full run")
    click.echo(", ".join(facts))


def _say_partial(output: Path) -> None:
    """After a stop: what is there to use."""
    from ..recording import partial_path

    partial = partial_path(output)
    if partial.exists():
        click.echo(f"What was recorded is {partial}; --partial reads it.", err=True)


def _record_many(directory: Path, file: Path, prompting: PromptFlags, job: Job, pair: "Pair | None") -> int:
    """Record every prompt of the file; returns how many failed."""
    from ..parallel.tasks import Rank
    from ..pipeline.inputs import inputs_first
    from ..pipeline.prompts import read_prompts
    from ..workflows.record.many import SetRecipe, plan_set, record_set

    entries = read_prompts(file, prompting.prompt_column)
    if directory.exists() and not directory.is_dir():
        job.check_inputs()
        raise InputError(f"{directory} is a file; --prompts needs a directory for its recordings, choose another name with -o.")
    rank = pair.share if pair else Rank.from_environment()
    quiet = job.quiet or follows(pair)
    recipe = SetRecipe(
        job.model,
        job.loading.options(),
        job.calling.options(prompt=""),
        taps=job.capture.taps,
        tools=job.capture.tool_names,
        policy=job.capture.policy,
        store_dtype=job.capture.store_dtype,
        keep_output=not job.capture.no_output,
    )
    with inputs_first(job.check_inputs):
        plan = plan_set(directory, entries, recipe, rank=rank, force=job.force)
    directory.mkdir(parents=True, exist_ok=True)
    if not job.verbose:
        hush()
    if not quiet:
        _say_plan(plan)
    with progress(f"record {file.name}", quiet, unit="prompt") as on_step:
        done: list[Entry] = []

        def on_done(entry: "Entry") -> None:
            done.append(entry)
            if on_step is not None:
                on_step(len(done), len(plan.tasks))
            if entry.error and not follows(pair):
                click.echo(f"{entry.file}: {entry.error}", err=True)

        device = pair.device() if pair else rank.device()
        record_set(plan, directory, recipe, device=device, ray=prompting.ray, on_done=on_done, pair=pair)
    failed = sum(entry.status != "complete" for entry in done)
    if follows(pair):
        return failed
    click.echo(f"Wrote {len(done) - failed} recordings to {directory}, {len(plan.skipped)} were there, {failed} failed")
    if not failed:
        click.echo(f"Next: janoscope analyze {as_argument(directory)}/*.h5")
    return failed


def _say_plan(plan: "SetPlan") -> None:
    if plan.skipped:
        click.echo(f"{len(plan.skipped)} recordings are complete and are skipped.", err=True)
    for partial in plan.stale:
        click.echo(f"{partial.name} is left from a recording that did not finish; it is replaced.", err=True)
