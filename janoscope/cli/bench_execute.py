"""`janoscope bench execute`."""

import json
import sys
from pathlib import Path

import click

from .options import hush, json_option


@click.command("execute")
@click.option("--size", default="flux-like", show_default=True, help="tiny, flux-like, flux-1 or wan-1.3b (GPU).")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Times that every call is timed.")
@click.option("--device", help="Torch device [default: the first GPU, else cpu].")
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="cpu: processor time, for a busy machine; with OMP_NUM_THREADS=1.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write execute-SIZE.json and .md into this directory.",
)
@click.option("--strict", is_flag=True, help="Exit code 1 when a figure misses its limit.")
@json_option
def bench_execute(
    size: str, repeats: int, device: str | None, clock: str, output: Path | None, strict: bool, as_json: bool
) -> None:
    """Time of partial steps against their FLOPs, and of a refresh against a plain call, on random weights in one run.

    Times mean something on an idle machine only; the load averages are written down.
    """
    from ..study.bench_execute import bench_execute as run
    from ..study.bench_execute import describe_bench
    from ..study.bench_files import write_bench

    hush()
    result = run(size, repeats=repeats, device=device, clock=clock)
    click.echo(json.dumps(result.to_json(), indent=1) if as_json else str(result))
    if output is not None:
        written = write_bench(output, f"execute-{size}", result.to_json(), describe_bench(result))
        click.echo(f"Wrote {written}", err=as_json)
    sys.exit(1 if strict and result.faults else 0)
