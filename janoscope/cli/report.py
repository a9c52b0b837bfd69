"""`janoscope report`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import force_option, hush, quiet_option, verbose_option
from .progress import progress

if TYPE_CHECKING:
    from ..pipeline.model import ModelOptions


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--remake", is_flag=True, help="Make the results anew before they are drawn.")
@click.option("--model", help="Measure this model instead of the bundled ones; results go to DIR-NAME.")
@click.option("--device", help="Torch device [default: the first GPU, else cpu].")
@click.option("--dtype", help="float32, float16 or bfloat16 [default: float32 on the CPU, else as stored].")
@click.option("--revision", help="Revision of a hub model.")
@click.option("--variant", help="Weight variant of a hub model, for example fp16.")
@click.option("--prompts", type=click.Path(path_type=Path), help="A file of prompts instead of the recipe's.")
@click.option("--seeds", type=click.IntRange(min=1), help="How many seeds for each prompt, counting up from 0.")
@click.option("--steps", type=click.IntRange(min=1), help="Sampler steps.")
@click.option("--height", type=click.IntRange(min=1), help="Pixels.")
@click.option("--width", type=click.IntRange(min=1), help="Pixels.")
@click.option("--frames", type=click.IntRange(min=1), help="Frames of a clip.")
@click.option("--quick", is_flag=True, help="The recipe's small run, to see that it works; its figures mean nothing.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for remade results [default: DIR, or DIR-NAME].")
@force_option
@quiet_option
@verbose_option
def report(
    directory: Path,
    remake: bool,
    prompts: Path | None,
    seeds: int | None,
    quick: bool,
    model: str | None,
    output: Path | None,
    force: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Draw a report of reports/ again from its results, or make them from nothing.

    A report is a folder with recipe.toml, small results, report.md and figures (docs/reports.md).
    """
    from ..evidence import render_report
    from ..pipeline.model import ModelOptions

    quiet = options.pop("quiet")
    loading = {name: options.pop(name) for name in ("device", "dtype", "revision", "variant")}
    call = {name: value for name, value in options.items() if value is not None}
    if remake:
        directory = _remade(directory, output, force, quiet, verbose, ModelOptions(**loading), call, model, prompts, seeds, quick)
    else:
        given = {"model": model, "prompts": prompts, "seeds": seeds, "quick": quick, "output": output, **loading, **call}
        _refuse(given)
    for path in render_report(directory):
        click.echo(f"Wrote {path}")


def _remade(
    directory: Path,
    output: Path | None,
    force: bool,
    quiet: bool,
    verbose: bool,
    load: "ModelOptions",
    call: dict[str, Any],
    model: str | None,
    prompts: Path | None,
    seeds: int | None,
    quick: bool,
) -> Path:
    from ..evidence import Request, remake
    from ..pipeline.prompts import read_prompts

    if not verbose:
        hush()
    texts = tuple(prompt.text for prompt in read_prompts(prompts)) if prompts else ()
    request = Request(model, load, texts, tuple(range(seeds or 0)), call, quick)
    return remake(directory, request, output=output, force=force, progress=partial(progress, quiet=quiet))


def _refuse(given: dict[str, Any]) -> None:
    """Options that only a remake hears."""
    if named := [f"--{name}" for name, value in given.items() if value]:
        raise click.UsageError(f"{', '.join(named)}: without --remake nothing is measured. Pass --remake, or leave it out.")
