"""`janoscope analyze`."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import force_option, json_option, quiet_option
from .progress import progress

if TYPE_CHECKING:
    from ..errors import JanoscopeError
    from ..workflows.analyze.cluster import Task
    from ..workflows.analyze.recording import Analysis


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Directory [default: the recording's name without .h5]; of several recordings each gets a directory in it.",
)
@click.option("--policy", help="A preset name or a policy file [default: the model directory's own, else the family's first].")
@click.option("--point", "points", multiple=True, metavar="NAME=frame,row,col", help="A place to probe, in tokens.")
@click.option(
    "--reduce",
    "reduction",
    default="rms",
    show_default=True,
    metavar="mean|rms|channel:K",
    help="A token's channels as one number.",
)
@click.option("--derivative", type=click.Choice(["backward", "tangent", "closed-form"]), default="backward", show_default=True)
@click.option("--hold-steps", type=int, default=7, show_default=True, help="Most steps a velocity is reused for the reuse error.")
@click.option("--tolerance", type=float, default=0.1, show_default=True, help="Distance under which x0 counts as settled (rms).")
@click.option("--ras-step", "ras_steps", type=int, multiple=True, help="Keep the RAS importance of this step too.")
@click.option("--warmup", type=int, help="Warm-up steps instead of the policy's.")
@click.option(
    "--first-signal", type=click.Choice(["initial-latent", "velocity"]), help="Of the JANO map, instead of the policy's."
)
@click.option("--padding", type=click.Choice(["count", "exclude"]), help="Of tiles over the edge, instead of the policy's.")
@click.option("--item", type=int, default=0, show_default=True, help="Which item of a batch to measure.")
@click.option("--probe", type=click.Path(path_type=Path), help="A probe of your own.")
@click.option("--ray", metavar="ADDRESS", help="Spread the recordings over a Ray cluster (`auto`: the one on this machine).")
@click.option("--partial", is_flag=True, help="Accept a recording that was cut short.")
@force_option
@json_option
@quiet_option
def analyze(
    runs: tuple[Path, ...],
    output: Path | None,
    policy: str | None,
    points: tuple[str, ...],
    reduction: str,
    probe: Path | None,
    ray: str | None,
    partial: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Turn recordings into velocity, convergence, complexity maps, a plan and report.html.

    Several recordings get an analysis each, and aggregate.json over all of them: in -o DIR, else beside the first. One that
    cannot be analysed is told and left out; the exit code is then 1, and 2 where none could be.
    """
    from ..errors import InputError, JanoscopeError
    from ..pipeline.inputs import check_recordings, inputs_first
    from ..report import render_aggregate, render_analysis
    from ..report.aggregate import read_aggregate
    from ..results.writing import refuse_existing
    from ..workflows.analyze.aggregate import describe_aggregate, write_aggregate
    from ..workflows.analyze.recording import AnalysisOptions, analysis_directories

    if ray is not None and len(runs) == 1:
        raise InputError("--ray spreads recordings over a cluster; with one recording it has no effect. Leave it out.")
    together = output or runs[0].parent
    with inputs_first(lambda: check_recordings(runs, policy=policy, probe=probe, partial=partial)):
        if len(runs) > 1:
            refuse_existing(together / "aggregate.json", force)
        directories = analysis_directories(runs, output, force)
    told: dict[str, Any] = {"policy": policy, "points": points, "reduction": reduction, "probe": probe, "partial": partial}
    told |= {"options": AnalysisOptions(**options), "replaces": force}
    tasks, finished = list(zip(runs, directories, strict=True)), []
    for task, result in _one_by_one(tasks, told, quiet) if ray is None else _over_ray(tasks, ray, told, quiet):
        run, directory = task
        try:
            if isinstance(result, JanoscopeError):
                raise result
            report = render_analysis(directory, recording=run)
        except JanoscopeError as error:
            if len(runs) == 1:
                raise
            click.echo(f"{run} left out: {' '.join(str(error).split())}", err=True)
            continue
        finished.append(task)
        _tell(result, directory, report, as_json, print_json=as_json and len(runs) == 1)
    if len(runs) > 1 and finished:
        finished.sort(key=tasks.index)
        written = write_aggregate([directory for _, directory in finished], together)
        facts = read_aggregate(together)[0]
        click.echo(json.dumps(facts, indent=1) if as_json else describe_aggregate(facts))
        click.echo(f"Wrote {written}\nWrote {render_aggregate(together)}", err=as_json)
    if len(finished) < len(runs):
        click.echo(f"{len(runs) - len(finished)} of {len(runs)} recordings were left out.", err=True)
        sys.exit(1 if finished else 2)


def _one_by_one(tasks: "list[Task]", told: dict[str, Any], quiet: bool) -> "Iterator[tuple[Task, Analysis | JanoscopeError]]":
    from ..errors import JanoscopeError
    from ..workflows.analyze.recording import analyze_to_directory

    for run, directory in tasks:
        result: Analysis | JanoscopeError
        try:
            with progress(f"analyze {run.name}", quiet) as on_step:
                result = analyze_to_directory(run, directory, on_step=on_step, **told)
        except JanoscopeError as error:
            result = error
        yield (run, directory), result


def _over_ray(
    tasks: "list[Task]", address: str, told: dict[str, Any], quiet: bool
) -> "Iterator[tuple[Task, Analysis | JanoscopeError]]":
    from ..errors import TaskFailed
    from ..workflows.analyze.cluster import analyze_over_ray

    with progress("analyze", quiet, unit="recording") as on_step:
        for done, outcome in enumerate(analyze_over_ray(tasks, address, **told), start=1):
            if on_step is not None:
                on_step(done, len(tasks))
            yield outcome.task, outcome.failure or outcome.result or TaskFailed("no result")


def _tell(analysis: "Analysis", directory: Path, report: Path, as_json: bool, print_json: bool) -> None:
    if print_json:
        click.echo((directory / "analysis.json").read_text(encoding="utf-8"), nl=False)
    elif not as_json:
        click.echo("\n".join([analysis.plan.describe(), *(f"note      {note}" for note in analysis.notes)]))
    click.echo(f"Wrote {report}", err=as_json)
    if not as_json:
        click.echo(analysis.verdict)
    line = apply_line(analysis, directory)
    if line:
        click.echo(f"Next: {line}", err=as_json)


def apply_line(analysis: "Analysis", directory: Path) -> str:
    """The `apply` command that runs the plan just made; empty where the recording does not say what was generated."""
    import numpy as np

    from ..results.images import output_name

    if not analysis.apply_arguments:
        return ""
    output = output_name(directory / "apply", np.empty(analysis.plan.fingerprint.grid.tokens[0]))
    files = ["--plan", str(directory / "plan.json"), "-o", str(output)]
    return shlex.join(["janoscope", "apply", *analysis.apply_arguments, *files, "--reference"])
