"""`janoscope inspect`, `verify`, `diff`, `export`, `plan show` and `probes`: looking at recordings, plans and probes."""

import json
import sys
from pathlib import Path

import click

from .command import Command, command, option
from .options import (
    PATH,
    CallFlags,
    Reporting,
    announce,
    call_options,
    force_option,
    grouped,
    hush,
    json_option,
    partial_option,
    prompt_option,
    reporting_options,
)

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


class _ProbesGroup(click.Group):
    """`probes` lists, `probes FAMILY` prints, `probes check` tries one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "print", _print_probe, args


@click.group(cls=_ProbesGroup, invoke_without_command=True, short_help="List the probes, print one, or try one")
@click.pass_context
def probes(ctx: click.Context) -> None:
    """List the probes, or print that of FAMILY (a name or a file): janoscope probes flux."""
    from ..probe import load_probe, probe_paths

    if ctx.invoked_subcommand is not None:
        return
    click.echo(f"{'family':<14} {'levels of support':<34} transformer classes; presets")
    for path in probe_paths():
        probe = load_probe(path)
        levels = "recorded, step level, token level" if probe.execution else "recorded, step level"
        click.echo(f"{probe.family:<14} {levels:<34} {', '.join(probe.match.transformer)}; {len(probe.policies)}")


@command("Print a probe", "janoscope probes flux")
@click.argument("family")
def _print_probe(family: str) -> None:
    """Print the probe of FAMILY (a name or a file)."""
    from ..errors import InputError
    from ..probe import load_probe, probe_paths

    named = {path.stem: path for path in probe_paths()}
    path = named.get(family, Path(family))
    if not path.is_file():
        raise InputError(f"no probe {family!r}; bundled: {', '.join(named)}, or give the path of a file.")
    load_probe(path)
    click.echo(path.read_text(encoding="utf-8"))


@probes.command(
    "check",
    cls=Command,
    short_help="Try a probe on a pipeline",
    example="janoscope probes check my.toml --pipeline ./tiny -p cat",
)
@click.argument("probe", type=PATH)
@option(
    "--pipeline", "name", required=True, metavar="MODEL", group="Model", help="A pipeline to try it on; random weights serve."
)
@prompt_option
@call_options
@reporting_options
def check_probe_file(probe: Path, name: str, prompt: str, calling: CallFlags, reporting: Reporting) -> None:
    """Try PROBE on a pipeline, and say which levels of support hold.

    Recorded: every value is compared with plain hooks. Step level: skipped steps call no network. Token level, where the probe
    has [execution]: with the inputs of the first step at every step, partial steps must give the plain output within rounding.
    The exit code is 1 where something that the probe claims does not hold.
    """
    from dataclasses import replace

    from ..pipeline.call import make_call
    from ..pipeline.generate import generate
    from ..pipeline.model import load_model
    from ..pipeline.model_options import ModelOptions
    from ..workflows.probes.check import check_probe

    announce(name, reporting.quiet)
    if not reporting.verbose:
        hush()
    model = load_model(name, ModelOptions(probe=probe))
    result = check_probe(model, lambda steps: generate(model, make_call(model, replace(calling, steps=steps).options(prompt))))
    click.echo(json.dumps(result.to_json(), indent=1) if reporting.as_json else str(result))
    if not result.holds:
        sys.exit(1)
