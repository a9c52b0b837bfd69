"""`janoscope record`."""

import shlex
from pathlib import Path
from typing import Any

import click

from .options import call_options, force_option, human_bytes, load, model_options, progress, quiet_option, take_call, verbose_option


@click.command()
@model_options
@call_options
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("run.h5"), show_default=True, help="The recording.")
@click.option("--store-dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Store in another dtype than the model's.")
@click.option("--no-output", is_flag=True, help="Keep no decoded picture beside the recording.")
@force_option
@quiet_option
@verbose_option
def record(output: Path, store_dtype: str | None, no_output: bool, force: bool, quiet: bool, verbose: bool, **options: Any) -> None:
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
    with progress("record", quiet) as on_step:
        recorded = record_model(
            model, call, output, store_dtype=store_dtype, keep_output=not no_output, force=force, on_step=on_step
        )
    for notice in recorded.notices:
        click.echo(notice, err=True)
    if recorded.picture:
        click.echo(f"Wrote {recorded.picture}")
    click.echo(f"Wrote {recorded.path} ({recorded.steps} steps, {name})")
    losses = f", storage as {store_dtype} loses at most {recorded.storage_loss:.2g}" if store_dtype else ""
    click.echo(
        f"{human_bytes(recorded.bytes)}, recording cost {recorded.overhead:.1%} of the run, "
        f"{recorded.nonfinite} non-finite values{losses}. Next: janoscope analyze {shlex.quote(str(recorded.path))}"
    )
