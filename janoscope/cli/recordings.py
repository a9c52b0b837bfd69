"""`janoscope inspect`, `verify`, `diff` and `export`: looking at recordings."""

import json
import sys
from pathlib import Path

import click

from .options import force_option, json_option

_run = click.argument("run", type=click.Path(path_type=Path))
_PARTLY = (
    "Format 1.0: its maps have checksums; timestep, alpha, sigma, other small values, attributes and provenance have none. "
    "Record again for those."
)
_partial = click.option("--partial", is_flag=True, help="Accept a recording that was cut short.")


@click.command()
@_run
@_partial
@json_option
def inspect(run: Path, partial: bool, as_json: bool) -> None:
    """Say what a recording holds and where it comes from."""
    from ..recording import open_recording

    with open_recording(run, partial=partial) as recording:
        click.echo(json.dumps(recording.summary(), indent=1) if as_json else repr(recording))


@click.command()
@_run
@json_option
def verify(run: Path, as_json: bool) -> None:
    """Compare everything in a recording that changes a result with its checksum; exit code 1 when one does not fit."""
    from ..recording import open_recording

    with open_recording(run, partial=True) as recording:
        faults = recording.verify()
        state = "complete" if recording.complete else f"stopped early ({recording.end_reason})"
        if as_json:
            facts = {"recording": run.name, "steps": recording.steps, "complete": recording.complete, "faults": faults}
            facts["covered"] = "all" if recording.is_summed else "maps"
            click.echo(json.dumps(facts, indent=1))
        else:
            for fault in faults:
                click.echo(fault)
            if not recording.is_summed:
                click.echo(_PARTLY, err=True)
            click.echo(f"{run}: {recording.steps} steps, {state}, {len(faults)} fault{'s' * (len(faults) != 1)}")
    sys.exit(1 if faults else 0)


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@_partial
def diff(a: Path, b: Path, partial: bool) -> None:
    """Say where two recordings part: which steps, which tokens, which provenance."""
    from ..recording import diff as diff_recordings

    click.echo(str(diff_recordings(a, b, partial=partial)))


@click.command()
@_run
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The copy.")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32", show_default=True)
@_partial
@force_option
def export(run: Path, output: Path, dtype: str, partial: bool, force: bool) -> None:
    """Copy a recording with another stored dtype (netCDF tools need float32)."""
    from ..recording import export as export_recording

    click.echo(f"Wrote {export_recording(run, output, dtype=dtype, force=force, partial=partial)}")
