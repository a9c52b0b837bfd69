"""`janoscope inspect`, `verify`, `diff` and `export`: looking at recordings."""

import json
import sys
from pathlib import Path

import click

from .options import force_option, json_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--partial", is_flag=True, help="Accept a recording that was cut short.")
@json_option
def inspect(run: Path, partial: bool, as_json: bool) -> None:
    """Say what a recording holds and where it comes from."""
    from ..recording import open_recording

    with open_recording(run, partial=partial) as recording:
        click.echo(json.dumps(recording.summary(), indent=1, default=str) if as_json else repr(recording))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def verify(run: Path) -> None:
    """Read every byte of a recording against its checksums; exit code 1 when one does not fit."""
    from ..recording import open_recording

    with open_recording(run, partial=True) as recording:
        faults = recording.verify()
        for fault in faults:
            click.echo(fault)
        state = "complete" if recording.complete else f"stopped early ({recording.end_reason})"
        click.echo(f"{run}: {recording.steps} steps, {state}, {len(faults)} faults")
    sys.exit(1 if faults else 0)


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
def diff(a: Path, b: Path) -> None:
    """Say where two recordings part: which steps, which tokens, which provenance."""
    from ..recording import diff as diff_recordings

    click.echo(str(diff_recordings(a, b)))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The copy.")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32", show_default=True)
@force_option
def export(run: Path, output: Path, dtype: str, force: bool) -> None:
    """Copy a recording with another stored dtype (netCDF tools need float32)."""
    from ..recording import export as export_recording

    export_recording(run, output, dtype=dtype, force=force)
    click.echo(f"Wrote {output}")
