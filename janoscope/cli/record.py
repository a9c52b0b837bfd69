"""`janoscope record`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError, PeerLost
from .options import (
    as_argument,
    force_option,
    hush,
    load,
    model_options,
    quiet_option,
    set_options,
    take_call,
    take_model,
    verbose_option,
)
from .parallel import follows, paired, parallel_options
from .progress import progress

if TYPE_CHECKING:
    from ..parallel.pair import Pair
    from ..workflows.record.manifest import Entry
    from ..workflows.record.many import SetPlan
    from ..workflows.record.session import Recorded
    from ..workflows.record.sink import Expected

TAP = "PATH[:steps=A:B:C][:tokens=K][:channels=K]"
STORED = ["float32", "float16", "bfloat16"]
LARGE = 1 << 30  # bytes that are announced without being asked


@click.command()
@model_options
@set_options
@parallel_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The recording [default: run.h5], or a directory [default: runs]."
)
@click.option("--tap", "taps", multiple=True, metavar=TAP, help="Record an inner module too (docs/recording.md).")
@click.option("--for", "tools", metavar="TOOL,...", help="Record what these step caches are calibrated from: teacache, magcache.")
@click.option("--policy", help="Accelerate the run with a preset or policy file; skipped tokens are marked.")
@click.option("--store-dtype", type=click.Choice(STORED), help="Store in another dtype than the model's.")
@click.option("--no-output", is_flag=True, help="Keep no decoded picture beside the recording.")
@force_option
@quiet_option
@verbose_option
def record(
    prompts: Path | None,
    prompt_column: str | None,
    ray: str | None,
    output: Path | None,
    taps: tuple[str, ...],
    tools: str | None,
    policy: str | None,
    store_dtype: str | None,
    no_output: bool,
    force: bool,
    quiet: bool,
    verbose: bool,
    guidance_parallel: int | None,
    peer_timeout: float | None,
    **options: Any,
) -> None:
    """Generate with MODEL and record every token's prediction at every step.

    MODEL is a hub id, a local directory, or one of demo, demo:video, demo:latte. With --prompts, one recording a prompt goes
    into a directory; what is complete there is skipped.
    """
    from ..pipeline.inputs import check_model, inputs_first
    from ..workflows.record.session import refuse_unwritable

    if (options["prompt"] is None) == (prompts is None):
        raise click.UsageError("give -p PROMPT or --prompts FILE, one of the two.")
    how: dict[str, Any] = {"taps": taps, "tools": _tools(tools), "store_dtype": store_dtype, "keep_output": not no_output}
    parallel = guidance_parallel, peer_timeout
    if guidance_parallel is not None and (taps or tools or ray):
        raise InputError(
            "--guidance-parallel works without --tap and --for (a process sees the modules of its own branch only) and without "
            "--ray (start more ranks with torchrun). Leave one of them out."
        )
    if prompts is not None:
        directory = output or Path("runs")
        with paired(*parallel) as pair:
            failed = _record_many(directory, prompts, prompt_column, ray, policy, force, quiet, verbose, how, options, pair)
        sys.exit(1 if failed else 0)
    for flag, value in (("--prompt-column", prompt_column), ("--ray", ray)):
        if value is not None:
            raise click.UsageError(f"{flag} has no effect without --prompts FILE.")
    target = output or Path("run.h5")
    named = {"revision": options["revision"], "probe": options["probe"], "policy": policy}
    with inputs_first(lambda: check_model(options["model"], **named)):
        refuse_unwritable(target, force, how["keep_output"])
    with paired(*parallel) as pair:
        _record_one(target, policy, force, quiet, verbose, how, options, pair)


def _tools(text: str | None) -> tuple[str, ...]:
    """Tools to record for, before a model is loaded for ones that do not exist."""
    if text is None:
        return ()
    from ..workflows.record.tool_taps import TOOLS

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in TOOLS]:
        raise click.UsageError(f"--for {unknown[0]}: legal are {', '.join(TOOLS)}.")
    return names


def _record_one(
    output: Path,
    policy: str | None,
    force: bool,
    quiet: bool,
    verbose: bool,
    how: dict[str, Any],
    options: dict[str, Any],
    pair: "Pair | None",
) -> None:
    from ..pipeline.call import make_call
    from ..pipeline.provenance import RunOptions
    from ..workflows.record.session import follow, record_model
    from ..workflows.record.tool_taps import export_taps

    name, loading = take_model(dict(options))
    model = load(options, verbose, pair)
    asked = take_call(options)
    call = make_call(model, asked)
    if follows(pair):
        follow(model, call, policy=model.policy(policy) if policy else None)
        return
    for warning in call.warnings:
        click.echo(warning, err=True)
    how["taps"] = (*how["taps"], *export_taps(model.probe, how.pop("tools")))
    how["asked_for"] = RunOptions(name, loading, asked.extra or {})
    how |= {"policy": model.policy(policy) if policy else None, "force": force}
    how["on_size"] = None if quiet else lambda expected: _announce(expected, bool(how["taps"]))
    try:
        with progress("record", quiet) as on_step:
            recorded = record_model(model, call, output, on_step=on_step, **how)
    except (KeyboardInterrupt, PeerLost):
        _tell_partial(output)
        raise
    _tell(recorded, name, how["store_dtype"], quiet)
    click.echo(f"Next: janoscope analyze {as_argument(recorded.path)}")


def _announce(expected: "Expected", always: bool) -> None:
    """How large it will get, before anything is written."""
    from ..workflows.record.sink import human_size

    if not (always or expected.total > LARGE or expected.is_too_large):
        return
    taps = f" (taps {human_size(expected.taps)})" if expected.taps else ""
    short = ", too little: the recording will stop early" if expected.is_too_large else ""
    size, free = human_size(expected.total), human_size(expected.free)
    click.echo(f"{expected.path.name} will take {size}{taps}; {free} are free{short}.", err=True)


def _tell(recorded: "Recorded", name: str, store_dtype: str | None, quiet: bool) -> None:
    """What was made, and how we disturbed the measurement."""
    from ..workflows.record.sink import human_size

    for notice in () if quiet else recorded.notices:
        click.echo(notice, err=True)
    if recorded.picture:
        click.echo(f"Wrote {recorded.picture}")
    click.echo(f"Wrote {recorded.path} ({recorded.steps} steps, {name})")
    facts = [human_size(recorded.bytes), f"recording cost {recorded.overhead:.1%} of the run"]
    facts.append(f"{recorded.nonfinite} non-finite values")
    if store_dtype:
        facts.append(f"storage as {store_dtype} loses at most {recorded.storage_loss:.2g}")
        facts.append(f"{recorded.nonfinite_created} non-finite values made by storing")
    if recorded.compute is not None:
        facts.append(f"compute {recorded.compute:.3f} of the full run")
    click.echo(", ".join(facts))


def _tell_partial(output: Path) -> None:
    """After a stop: what is there to use."""
    from ..recording import partial_path

    partial = partial_path(output)
    if partial.exists():
        click.echo(f"What was recorded is {partial}; --partial reads it.", err=True)


def _record_many(
    directory: Path,
    prompts: Path,
    column: str | None,
    ray: str | None,
    policy: str | None,
    force: bool,
    quiet: bool,
    verbose: bool,
    how: dict[str, Any],
    options: dict[str, Any],
    pair: "Pair | None",
) -> int:
    """How many failed."""
    from ..parallel.tasks import Rank
    from ..pipeline.inputs import check_model, inputs_first
    from ..pipeline.prompts import read_prompts
    from ..workflows.record.many import SetRecipe, plan_set, record_set

    entries = read_prompts(prompts, column)
    named = {"revision": options["revision"], "probe": options["probe"], "policy": policy}
    model = options["model"]
    if directory.exists() and not directory.is_dir():
        check_model(model, **named)
        raise InputError(f"{directory} is a file; --prompts needs a directory for its recordings, choose another name with -o.")
    rank = pair.share if pair else Rank.from_environment()
    quiet = quiet or follows(pair)
    options["prompt"] = ""
    recipe = SetRecipe(*take_model(options), take_call(options), policy=policy, **how)
    with inputs_first(lambda: check_model(model, **named)):
        plan = plan_set(directory, entries, recipe, rank=rank, force=force)
    directory.mkdir(parents=True, exist_ok=True)
    if not verbose:
        hush()
    if not quiet:
        _tell_plan(plan)
    with progress(f"record {prompts.name}", quiet, unit="prompt") as on_step:
        done: list[Entry] = []

        def on_done(entry: "Entry") -> None:
            done.append(entry)
            if on_step is not None:
                on_step(len(done), len(plan.tasks))
            if entry.error and not follows(pair):
                click.echo(f"{entry.file}: {entry.error}", err=True)

        device = pair.device() if pair else rank.device()
        record_set(plan, directory, recipe, device=device, ray=ray, on_done=on_done, pair=pair)
    failed = sum(entry.status != "complete" for entry in done)
    if follows(pair):
        return failed
    click.echo(f"Wrote {len(done) - failed} recordings to {directory}, {len(plan.skipped)} were there, {failed} failed")
    if not failed:
        click.echo(f"Next: janoscope analyze {as_argument(directory)}/*.h5")
    return failed


def _tell_plan(plan: "SetPlan") -> None:
    if plan.skipped:
        click.echo(f"{len(plan.skipped)} recordings are complete and are skipped.", err=True)
    for partial in plan.stale:
        click.echo(f"{partial.name} is left from a recording that did not finish; it is replaced.", err=True)
