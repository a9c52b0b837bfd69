"""`janoscope analyze`."""

import shlex
from pathlib import Path

import click

from .options import force_option, progress, quiet_option


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Directory [default: the recording's name without .h5].")
@click.option("--policy", help="A preset name or a policy file [default: the model directory's own, else the family's first].")
@click.option("--point", "points", multiple=True, metavar="NAME=frame,row,col", help="A place to probe, in tokens.")
@click.option("--reduce", "reduction", default="rms", show_default=True, metavar="mean|rms|channel:K", help="A token's channels as one number.")
@click.option("--probe", type=click.Path(path_type=Path), help="A probe sheet of your own.")
@click.option("--partial", is_flag=True, help="Accept a recording that was cut short.")
@force_option
@quiet_option
def analyze(
    runs: tuple[Path, ...],
    output: Path | None,
    policy: str | None,
    points: tuple[str, ...],
    reduction: str,
    probe: Path | None,
    partial: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Turn recordings into velocity, convergence, complexity maps, a plan and report.html."""
    from ..report import render_analysis
    from ..study.analyze import analyze_to_directory, analysis_directory

    if output is not None and len(runs) > 1:
        raise click.UsageError(f"-o names one directory, but {len(runs)} recordings were given; leave it out, each gets its own.")
    for run in runs:
        directory = analysis_directory(run, output, force)
        with progress(f"analyze {run.name}", quiet) as on_step:
            analysis = analyze_to_directory(
                run, directory, policy=policy, points=points, reduction=reduction, probe=probe, partial=partial, on_step=on_step
            )
        report = render_analysis(directory, recording=run)
        click.echo(analysis.plan.describe())
        click.echo(f"Wrote {report}")
        click.echo(f"Next: {apply_line(analysis.apply_arguments, directory)}")


def apply_line(arguments: list[str], directory: Path) -> str:
    """The `apply` command that runs the plan just made."""
    return shlex.join(["janoscope", "apply", *arguments, "--plan", str(directory / "plan.json"), "-o", str(directory / "applied.png"), "--reference"])
