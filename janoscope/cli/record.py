"""`janoscope record`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import call_options, force_option, load, model_options, progress, quiet_option, take_call, verbose_option

if TYPE_CHECKING:
    from ..study.record import Recorded
    from ..study.recording_sink import Expected

TAP = "PATH[:steps=A:B:C][:tokens=K][:channels=K]"
STORED = ["float32", "float16", "bfloat16"]
LARGE = 1 << 30  # bytes that are announced without being asked


@click.command()
@model_options
@call_options
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("run.h5"), show_default=True, help="The recording.")
@click.option(
    "--tap", "taps", multiple=True, metavar="PATH[:steps=A:B:C][:tokens=K][:channels=K]", help="Record an inner module too."
)
@click.option("--policy", help="Accelerate the run with a preset or policy file; skipped tokens are marked.")
@click.option(
    "--store-dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Store in another dtype than the model's."
)
@click.option("--no-output", is_flag=True, help="Keep no decoded picture beside the recording.")
@force_option
@quiet_option
@verbose_option
def record(
    output: Path,
    taps: tuple[str, ...],
    policy: str | None,
    store_dtype: str | None,
    no_output: bool,
    force: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Generate with MODEL and record every token's prediction at every step.

    MODEL is a hub id, a local directory, or one of demo, demo:video, demo:latte.
    """
    from ..study.call import make_call
    from ..study.record import record_model, refuse_existing

    refuse_existing(output, force)
    name = options["model"]
    model = load(options, verbose)
    call = make_call(model, take_call(options))
    for warning in call.warnings:
        click.echo(warning, err=True)
    try:
        with progress("record", quiet) as on_step:
            recorded = record_model(
                model,
                call,
                output,
                taps=taps,
                policy=model.policy(policy) if policy else None,
                store_dtype=store_dtype,
                keep_output=not no_output,
                force=force,
                on_step=on_step,
                on_size=None if quiet else lambda expected: announce(expected, bool(taps)),
            )
    except KeyboardInterrupt:
        tell_partial(output)
        raise
    tell(recorded, name, store_dtype, quiet)
    click.echo(f"Next: janoscope analyze {shlex.quote(str(recorded.path))}")


def announce(expected: "Expected", always: bool) -> None:
    """How large it will get, before anything is written."""
    from ..study.recording_sink import human_size

    if not (always or expected.total > LARGE or expected.is_too_large):
        return
    taps = f" (taps {human_size(expected.taps)})" if expected.taps else ""
    short = ", too little: the recording will stop early" if expected.is_too_large else ""
    click.echo(
        f"{expected.path.name} will take {human_size(expected.total)}{taps}; {human_size(expected.free)} are free{short}.",
        err=True,
    )


def tell(recorded: "Recorded", name: str, store_dtype: str | None, quiet: bool) -> None:
    """What was made, and how we disturbed the measurement."""
    from ..study.recording_sink import human_size

    for notice in () if quiet else recorded.notices:
        click.echo(notice, err=True)
    if recorded.picture:
        click.echo(f"Wrote {recorded.picture}")
    click.echo(f"Wrote {recorded.path} ({recorded.steps} steps, {name})")
    facts = [human_size(recorded.bytes), f"recording cost {recorded.overhead:.1%} of the run"]
    facts.append(f"{recorded.nonfinite} non-finite values")
    if store_dtype:
        facts.append(
            f"storage as {store_dtype} loses at most {recorded.storage_loss:.2g} and made {recorded.nonfinite_created} non-finite"
        )
    if recorded.compute is not None:
        facts.append(f"compute {recorded.compute:.3f} of the full run")
    click.echo(", ".join(facts))


def tell_partial(output: Path) -> None:
    """After an interruption: what is there to use."""
    from ..recording import partial_path

    partial = partial_path(output)
    if partial.exists():
        click.echo(f"What was recorded is {partial}; --partial reads it.", err=True)
