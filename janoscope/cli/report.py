"""`janoscope report`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .command import collected, command
from .options import (
    COUNT,
    PATH,
    announce,
    force_option,
    grouped,
    hush,
    output_option,
    quiet_option,
    verbose_option,
)
from .progress import progress

if TYPE_CHECKING:
    from ..pipeline.model_options import ModelOptions


@dataclass(frozen=True)
class RemakeFlags:
    """What a remake measures instead of the recipe; None or empty leaves the recipe's."""

    model: str | None
    device: str | None
    dtype: str | None
    revision: str | None
    variant: str | None
    prompts: Path | None
    seeds: int | None
    steps: int | None
    height: int | None
    width: int | None
    frames: int | None
    quick: bool

    def loading(self) -> "ModelOptions":
        """As `load_model` takes them."""
        from ..pipeline.model_options import ModelOptions

        return ModelOptions(device=self.device, dtype=self.dtype, revision=self.revision, variant=self.variant)

    @property
    def call(self) -> dict[str, int]:
        """Arguments of every generation."""
        sizes = {"steps": self.steps, "height": self.height, "width": self.width, "frames": self.frames}
        return {name: value for name, value in sizes.items() if value is not None}


@command("Draw a folder of reports/ again, or remake its results", "janoscope report reports/fig3-maps --remake --quick -o trial")
@click.argument("directory", type=PATH, metavar="DIR")
@grouped("Remake", "--remake", is_flag=True, help="Measure the results again before they are drawn.")
@collected(
    "remaking",
    RemakeFlags,
    (
        grouped("Remake", "--quick", is_flag=True, help="The recipe's small run, to see that it works; results mean nothing."),
        grouped("Remake", "--prompts", type=PATH, help="A file of prompts instead of the recipe's."),
        grouped("Remake", "--seeds", type=COUNT, help="How many seeds for each prompt, counting up from 0."),
        grouped("Model", "--model", help="Measure this model instead of the bundled ones; results go to DIR-NAME."),
        grouped("Model", "--device", help="Torch device [default: the first GPU, else cpu]."),
        grouped("Model", "--dtype", help="float32, float16 or bfloat16 [default: float32 on the CPU, else as stored]."),
        grouped("Model", "--revision", help="Revision of a hub model."),
        grouped("Model", "--variant", help="Weight variant of a hub model, for example fp16."),
        grouped("Generation", "--steps", type=COUNT, help="Sampler steps."),
        grouped("Generation", "--height", type=COUNT, help="Pixels."),
        grouped("Generation", "--width", type=COUNT, help="Pixels."),
        grouped("Generation", "--frames", type=COUNT, help="Frames of a video."),
    ),
)
@output_option(None, "Folder for remade results [default: DIR, or DIR-NAME].")
@force_option
@quiet_option
@verbose_option
def report(
    directory: Path, remake: bool, remaking: RemakeFlags, output: Path | None, force: bool, quiet: bool, verbose: bool
) -> None:
    """Draw a report of reports/ again from its results, or measure the results again.

    A report is a folder with recipe.toml, small results, report.md and figures (docs/reports.md).
    """
    if remake:
        announce(remaking.model or "the models of the recipe", quiet)
        directory = _remade(directory, remaking, output, force, quiet, verbose)
    elif flags := [f"--{name}" for name, value in [*vars(remaking).items(), ("output", output)] if value]:
        raise click.UsageError(f"{', '.join(flags)}: without --remake nothing is measured. Pass --remake, or leave it out.")
    from ..evidence import render_report

    for path in render_report(directory):
        click.echo(f"Wrote {path}")


def _remade(directory: Path, remaking: RemakeFlags, output: Path | None, force: bool, quiet: bool, verbose: bool) -> Path:
    from ..evidence import Request, remake
    from ..pipeline.prompts import read_prompts

    if not verbose:
        hush()
    prompts = tuple(prompt.text for prompt in read_prompts(remaking.prompts)) if remaking.prompts else ()
    seeds = tuple(range(remaking.seeds or 0))
    request = Request(remaking.model, remaking.loading(), prompts, seeds, remaking.call, remaking.quick)
    return remake(directory, request, output=output, force=force, progress=partial(progress, quiet=quiet))
