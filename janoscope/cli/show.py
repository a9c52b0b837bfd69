"""`janoscope inspect`, `verify`, `diff`, `export`, `plan show` and `probes`: looking at recordings, plans and probes."""

import json
import sys
from pathlib import Path

import click

from .command import Command, command
from .options import PATH, force_option, grouped, json_option, partial_option

_run = click.argument("run", type=PATH)
_PARTLY = (
    "Format 1.0: its maps have checksums; timestep, alpha, sigma, other small values, attributes and provenance have none. "
    "Record again for those."
)


@command("Say what a recording holds", "janoscope inspect run.h5")
@_run
@partial_option
@json_option
def inspect(run: Path, partial: bool, as_json: bool) -> None:
    """Say what a recording holds and where it comes from."""
    from ..recording import open_recording

    with open_recording(run, partial=partial) as recording:
        click.echo(json.dumps(recording.summary(), indent=1) if as_json else repr(recording))


@command("Check a recording against its checksums", "janoscope verify run.h5")
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


@command("Say where two recordings differ", "janoscope diff run.h5 other.h5")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@partial_option
def diff(a: Path, b: Path, partial: bool) -> None:
    """Say where two recordings differ: which steps, which tokens, which provenance."""
    from ..recording import diff as diff_recordings

    click.echo(str(diff_recordings(a, b, partial=partial)))


@command("Copy a recording with another stored dtype", "janoscope export run.h5 -o run-float32.h5")
@_run
@grouped("Output", "-o", "--output", type=PATH, required=True, help="The copy.")
@grouped("Output", "--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32", show_default=True)
@partial_option
@force_option
def export(run: Path, output: Path, dtype: str, partial: bool, force: bool) -> None:
    """Copy a recording with another stored dtype (netCDF tools need float32)."""
    from ..recording import export as export_recording

    click.echo(f"Wrote {export_recording(run, output, dtype=dtype, force=force, partial=partial)}")


@click.group(short_help="Look at plans")
def plan() -> None:
    """Look at plans."""


@plan.command("show", cls=Command, short_help="Say what a plan will do", example="janoscope plan show run")
@click.argument("file", type=PATH)
@json_option
def show_plan(file: Path, as_json: bool) -> None:
    """Say what a plan will do: levels, step schedule, predicted compute, speedup and cache.

    FILE is a plan.json, or the directory of an analysis that holds one.
    """
    from ..results.plan_file import read_plan

    stored = read_plan(file / "plan.json" if file.is_dir() else file)
    click.echo(stored.to_text() if as_json else stored.describe())


@command("List the probes, or print one", "janoscope probes flux")
@click.argument("family", required=False)
def probes(family: str | None) -> None:
    """List the probes, or print that of FAMILY (a name or a file)."""
    from ..errors import InputError
    from ..probe import load_probe, probe_paths

    if family is None:
        for path in probe_paths():
            probe = load_probe(path)
            does = "record, analyze, apply" if probe.execution else "record, analyze"
            click.echo(f"{probe.family:<14} {does:<24} {', '.join(probe.match.transformer)}; {len(probe.policies)} presets")
        return
    named = {path.stem: path for path in probe_paths()}
    path = named.get(family, Path(family))
    if not path.is_file():
        raise InputError(f"no probe {family!r}; bundled: {', '.join(named)}, or give the path of a file.")
    load_probe(path)
    click.echo(path.read_text(encoding="utf-8"))
