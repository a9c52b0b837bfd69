"""`janoscope bench scale`."""

import json
from pathlib import Path

import click

from .options import json_option, quiet_option


@click.command("scale")
@click.option(
    "--gpus", type=click.IntRange(min=1), multiple=True, default=(8, 64), show_default=True, help="Sizes of the cluster."
)
@click.option("--prompts", type=click.IntRange(min=2), default=1000, show_default=True)
@click.option("--gpu-hour-usd", type=click.FloatRange(min=0), default=2.5, show_default=True, help="What a GPU costs.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Write scale.json and scale.md into this directory."
)
@click.option("--small", is_flag=True, help="A hundredth of the work, to see that it runs; its figures say nothing.")
@json_option
@quiet_option
def bench_scale(
    gpus: tuple[int, ...], prompts: int, gpu_hour_usd: float, output: Path | None, small: bool, as_json: bool, quiet: bool
) -> None:
    """What calibrating Wan2.1-14B on many prompts takes, from what is measured here and what is assumed."""
    from ..study.bench_files import write_bench
    from ..study.bench_scale import SMALL, bench_scale
    from ..study.scaling import Assumptions, Measured, describe_scaling

    say = (lambda text: None) if quiet else (lambda text: click.echo(text, err=True))
    result = bench_scale(10, SMALL, 12, 1, say=say) if small else bench_scale(say=say)
    assumed = Assumptions(prompts=prompts, gpu_hour_usd=gpu_hour_usd)
    text = describe_scaling(Measured.from_json(result), assumed, gpus)
    click.echo(json.dumps(result, indent=1) if as_json else text)
    if output is not None:
        click.echo(f"Wrote {write_bench(output, 'scale', result, text)}", err=as_json)
