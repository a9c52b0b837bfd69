"""`janoscope analyze`."""

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ..errors import InputError, JanoscopeError
from .command import collected, command
from .options import PATH, force_option, grouped, json_option, output_option, partial_option, quiet_option
from .progress import emphasised, progress

if TYPE_CHECKING:
    from ..workflows.analyze.cluster import Task
    from ..workflows.analyze.recording import Analysis, AnalysisOptions


@dataclass(frozen=True)
class MeasureFlags:
    """How the numbers of an analysis are defined; fields of `AnalysisOptions`."""

    hold_steps: int
    derivative: Literal["backward", "tangent", "closed-form"]
    tolerance: float
    ras_steps: tuple[int, ...]
    warmup: int | None
    first_signal: Literal["initial-latent", "velocity"] | None
    padding: Literal["count", "exclude"] | None
    item: int
    points: tuple[str, ...]
    reduction: str

    def options(self) -> "AnalysisOptions":
        from ..workflows.analyze.recording import AnalysisOptions

        return AnalysisOptions(
            hold_steps=self.hold_steps,
            derivative=self.derivative,
            tolerance=self.tolerance,
            ras_steps=self.ras_steps,
            warmup=self.warmup,
            first_signal=self.first_signal,
            padding=self.padding,
            item=self.item,
        )


@dataclass(frozen=True)
class Job:
    """What is done with each recording."""

    measures: MeasureFlags
    policy: str | None
    probe: Path | None
    partial: bool
    force: bool
    quiet: bool


@command(
    "Analyse recordings: convergence, maps, a plan, a report",
    """janoscope analyze run.h5
janoscope analyze runs/*.h5 -o analyses""",
)
@click.argument("runs", type=PATH, nargs=-1, required=True, metavar="RUN...")
@grouped("Input", "--probe", type=PATH, help="A probe of your own.")
@partial_option
@grouped("Input", "--ray", metavar="ADDRESS", help="Spread the recordings over a Ray cluster (`auto`: the one on this machine).")
@grouped("Plan", "--policy", help="A preset name or a policy file [default: the model directory's own, else the family's first].")
@collected(
    "measures",
    MeasureFlags,
    (
        grouped("Plan", "--warmup", type=int, help="Warm-up steps instead of the policy's."),
        grouped(
            "Plan",
            "--first-signal",
            type=click.Choice(["initial-latent", "velocity"]),
            help="First signal of the JANO map, instead of the policy's.",
        ),
        grouped(
            "Plan", "--padding", type=click.Choice(["count", "exclude"]), help="Tiles over the edge, instead of the policy's."
        ),
        grouped("Measure", "--point", "points", multiple=True, metavar="NAME=frame,row,col", help="A token to plot."),
        grouped(
            "Measure",
            "--reduce",
            "reduction",
            default="rms",
            show_default=True,
            metavar="mean|rms|channel:K",
            help="A token's channels as one number.",
        ),
        grouped(
            "Measure",
            "--derivative",
            type=click.Choice(["backward", "tangent", "closed-form"]),
            default="backward",
            show_default=True,
        ),
        grouped(
            "Measure",
            "--hold-steps",
            type=int,
            default=7,
            show_default=True,
            help="Most steps over which an output is reused, for the reuse error.",
        ),
        grouped(
            "Measure",
            "--tolerance",
            type=float,
            default=0.1,
            show_default=True,
            help="Distance under which x0 counts as converged (rms).",
        ),
        grouped("Measure", "--ras-step", "ras_steps", type=int, multiple=True, help="Save the RAS importance of this step too."),
        grouped("Measure", "--item", type=int, default=0, show_default=True, help="Which element of a batch to analyse."),
    ),
)
@output_option(None, "Directory [default: the recording's name without .h5]; several recordings get one directory each in it.")
@force_option
@json_option
@quiet_option
def analyze(
    runs: tuple[Path, ...],
    output: Path | None,
    policy: str | None,
    measures: MeasureFlags,
    probe: Path | None,
    ray: str | None,
    partial: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn recordings into velocity, convergence, complexity maps, a plan and report.html.

    Several recordings get an analysis each, and aggregate.json over all of them: in -o DIR, else beside the first. A recording
    that cannot be analysed is reported and skipped; the exit code is then 1, and 2 where none could be.
    """
    from ..pipeline.inputs import check_recordings, inputs_first
    from ..report import render_analysis
    from ..results.writing import refuse_existing
    from ..workflows.analyze.recording import analysis_directories

    if ray is not None and len(runs) == 1:
        raise InputError("--ray spreads recordings over a cluster; with one recording it has no effect. Leave it out.")
    job = Job(measures, policy, probe, partial, force, quiet)
    together = output or runs[0].parent
    with inputs_first(lambda: check_recordings(runs, policy=policy, probe=probe, partial=partial)):
        if len(runs) > 1:
            refuse_existing(together / "aggregate.json", force)
        directories = analysis_directories(runs, output, force)
    tasks, finished = list(zip(runs, directories, strict=True)), []
    for task, result in _one_by_one(tasks, job) if ray is None else _over_ray(tasks, ray, job):
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
        _say(result, directory, report, as_json, print_json=as_json and len(runs) == 1)
    if len(runs) > 1 and finished:
        _say_aggregate([directory for _, directory in sorted(finished, key=tasks.index)], together, as_json)
    if len(finished) < len(runs):
        click.echo(f"{len(runs) - len(finished)} of {len(runs)} recordings were left out.", err=True)
        sys.exit(1 if finished else 2)


def _one_by_one(tasks: "list[Task]", job: Job) -> "Iterator[tuple[Task, Analysis | JanoscopeError]]":
    from ..workflows.analyze.recording import analyze_to_directory

    for run, directory in tasks:
        result: Analysis | JanoscopeError
        try:
            with progress(f"analyze {run.name}", job.quiet) as on_step:
                result = analyze_to_directory(
                    run,
                    directory,
                    policy=job.policy,
                    points=job.measures.points,
                    reduction=job.measures.reduction,
                    probe=job.probe,
                    partial=job.partial,
                    options=job.measures.options(),
                    replaces=job.force,
                    on_step=on_step,
                )
        except JanoscopeError as error:
            result = error
        yield (run, directory), result


def _over_ray(tasks: "list[Task]", address: str, job: Job) -> "Iterator[tuple[Task, Analysis | JanoscopeError]]":
    from ..errors import TaskFailed
    from ..workflows.analyze.cluster import analyze_over_ray

    with progress("analyze", job.quiet, unit="recording") as on_step:
        outcomes = analyze_over_ray(
            tasks,
            address,
            policy=job.policy,
            points=job.measures.points,
            reduction=job.measures.reduction,
            probe=job.probe,
            partial=job.partial,
            options=job.measures.options(),
            replaces=job.force,
        )
        for done, outcome in enumerate(outcomes, start=1):
            if on_step is not None:
                on_step(done, len(tasks))
            yield outcome.task, outcome.failure or outcome.result or TaskFailed("no result")


def _say_aggregate(directories: list[Path], together: Path, as_json: bool) -> None:
    from ..report import render_aggregate
    from ..report.aggregate import read_aggregate
    from ..workflows.analyze.aggregate import describe_aggregate, write_aggregate

    written = write_aggregate(directories, together)
    facts = read_aggregate(together)[0]
    click.echo(json.dumps(facts, indent=1) if as_json else describe_aggregate(facts))
    click.echo(f"Wrote {written}\nWrote {render_aggregate(together)}", err=as_json)


def _say(analysis: "Analysis", directory: Path, report: Path, as_json: bool, print_json: bool) -> None:
    if print_json:
        click.echo((directory / "analysis.json").read_text(encoding="utf-8"), nl=False)
    elif not as_json:
        click.echo("\n".join([analysis.plan.describe(), *(f"note      {note}" for note in analysis.notes)]))
    click.echo(f"Wrote {report}", err=as_json)
    if line := apply_line(analysis, directory):
        click.echo(f"Next: {line}", err=as_json)
    if not as_json:
        click.echo(emphasised(analysis.verdict))


def apply_line(analysis: "Analysis", directory: Path) -> str:
    """The `apply` command that runs the plan just made; empty where the recording does not say what was generated."""
    import numpy as np

    from ..results.images import output_name

    if not analysis.apply_arguments:
        return ""
    output = output_name(directory / "apply", np.empty(analysis.plan.fingerprint.grid.tokens[0]))
    files = ["--plan", str(directory / "plan.json"), "-o", str(output)]
    return shlex.join(["janoscope", "apply", *analysis.apply_arguments, *files, "--reference"])
