"""`janoscope plan`."""

from pathlib import Path

import click

from .options import json_option


@click.group()
def plan() -> None:
    """Look at plans."""


@plan.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def show(file: Path, as_json: bool) -> None:
    """Say what a plan will do: levels, step ladder, predicted compute, speedup and cache.

    FILE is a plan.json, or the directory of an analysis that holds one.
    """
    from ..results.plan_file import read_plan

    made = read_plan(file / "plan.json" if file.is_dir() else file)
    click.echo(made.to_text() if as_json else made.describe())
