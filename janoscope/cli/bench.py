"""`janoscope bench`: what janoscope itself costs, measured on this machine."""

import json
import sys
from pathlib import Path

import click

from .options import hush, json_option, quiet_option


@click.group()
def bench() -> None:
    """Measure what janoscope itself costs on this machine."""


@bench.command("analyze")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write analyze.json and analyze.md into this directory.",
)
@click.option(
    "--scratch", type=click.Path(path_type=Path), help="Where the recording of about 2 GB is written [default: the system's]."
)
@click.option("--small", is_flag=True, help="A hundredth of the work, to see that it runs; its ratios say nothing.")
@click.option("--strict", is_flag=True, help="Exit code 1 when a figure is over its limit.")
@json_option
@quiet_option
def bench_analyze(output: Path | None, scratch: Path | None, small: bool, strict: bool, as_json: bool, quiet: bool) -> None:
    """Time and memory of the complexity map and of a whole analysis, against work that cannot be avoided; one thread."""
    from ..workflows.bench.analyze import SMALL_MAP, SMALL_RUN, bench_analyze, describe_bench
    from ..workflows.bench.files import write_bench

    map_case, run_case = (SMALL_MAP, SMALL_RUN) if small else (None, None)
    say = (lambda text: None) if quiet else (lambda text: click.echo(text, err=True))
    result = bench_analyze(map_case, run_case, scratch, say)
    text = describe_bench(result)
    click.echo(json.dumps(result, indent=1) if as_json else text)
    if output is not None:
        click.echo(f"Wrote {write_bench(output, 'analyze', result, text)}", err=as_json)
    sys.exit(1 if strict and not all(result["within"].values()) else 0)


@bench.command("execute")
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
    from ..workflows.bench.execute import bench_execute as run
    from ..workflows.bench.execute import describe_bench
    from ..workflows.bench.files import write_bench

    hush()
    result = run(size, repeats=repeats, device=device, clock=clock)
    click.echo(json.dumps(result.to_json(), indent=1) if as_json else str(result))
    if output is not None:
        written = write_bench(output, f"execute-{size}", result.to_json(), describe_bench(result))
        click.echo(f"Wrote {written}", err=as_json)
    sys.exit(1 if strict and result.faults else 0)


@bench.command("record")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write record.json and record.md into this directory.",
)
@click.option("--scratch", type=click.Path(path_type=Path), help="Where about 500 MB are written [default: the system's].")
@click.option("--small", is_flag=True, help="A hundredth of the size, to see that it runs; its ratios say nothing.")
@click.option("--strict", is_flag=True, help="Exit code 1 when a ratio misses its limit.")
@json_option
@quiet_option
def bench_record(output: Path | None, scratch: Path | None, small: bool, strict: bool, as_json: bool, quiet: bool) -> None:
    """What recording costs a generation, the writer against raw writes, and one token's curve against reading all."""
    from ..workflows.bench.files import write_bench
    from ..workflows.bench.record import CASES, SMALL_CASES, bench_record, describe_bench

    say = (lambda text: None) if quiet else (lambda text: click.echo(text, err=True))
    result = bench_record(SMALL_CASES if small else CASES, scratch, say)
    text = describe_bench(result)
    click.echo(json.dumps(result, indent=1) if as_json else text)
    if output is not None:
        click.echo(f"Wrote {write_bench(output, 'record', result, text)}", err=as_json)
    sys.exit(1 if strict and not all(result["within"].values()) else 0)


@bench.command("scale")
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
    from ..workflows.bench.cluster_cost import Assumptions, Measured, describe_scaling
    from ..workflows.bench.files import write_bench
    from ..workflows.bench.scale import SMALL, bench_scale

    say = (lambda text: None) if quiet else (lambda text: click.echo(text, err=True))
    result = bench_scale(10, SMALL, 12, 1, say=say) if small else bench_scale(say=say)
    assumed = Assumptions(prompts=prompts, gpu_hour_usd=gpu_hour_usd)
    text = describe_scaling(Measured.from_json(result), assumed, gpus)
    click.echo(json.dumps(result, indent=1) if as_json else text)
    if output is not None:
        click.echo(f"Wrote {write_bench(output, 'scale', result, text)}", err=as_json)
