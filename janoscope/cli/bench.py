"""`janoscope bench`: what janoscope itself costs, measured on this machine."""

import json
import sys
from pathlib import Path

import click

from .command import Command, Decorator
from .options import COUNT, PATH, grouped, hush, json_option, quiet_option


@click.group(short_help="Measure what janoscope itself costs")
def bench() -> None:
    """Measure what janoscope itself costs on this machine."""


def _output(files: str) -> Decorator:
    place = click.Path(path_type=Path, file_okay=False)
    return grouped("Output", "-o", "--output", type=place, help=f"Write {files} into this directory.")


def _small(what: str) -> Decorator:
    return grouped("Work", "--small", is_flag=True, help=f"A hundredth of the {what}, to see that it runs; results mean nothing.")


@bench.command(
    "analyze", cls=Command, short_help="Time and memory of the map and of an analysis", example="janoscope bench analyze --small"
)
@_output("analyze.json and analyze.md")
@grouped("Work", "--scratch", type=PATH, help="Where the recording of about 2 GB is written [default: the system's].")
@_small("work")
@grouped("Check", "--strict", is_flag=True, help="Exit code 1 when a result is over its limit.")
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


@bench.command(
    "execute", cls=Command, short_help="Time of partial steps against their FLOPs", example="janoscope bench execute --size tiny"
)
@grouped("Work", "--size", default="flux-like", show_default=True, help="tiny, flux-like, flux-1 or wan-1.3b (GPU).")
@grouped("Work", "--repeats", type=COUNT, default=5, show_default=True, help="Times that every call is timed.")
@grouped("Work", "--device", help="Torch device [default: the first GPU, else cpu].")
@grouped(
    "Work",
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="cpu: processor time, for a busy machine; with OMP_NUM_THREADS=1.",
)
@_output("execute-SIZE.json and .md")
@grouped("Check", "--strict", is_flag=True, help="Exit code 1 when a result misses its limit.")
@json_option
def bench_execute(
    size: str, repeats: int, device: str | None, clock: str, output: Path | None, strict: bool, as_json: bool
) -> None:
    """Time of partial steps against their FLOPs, and of a refresh against a plain call, on random weights in one run.

    Times mean something on an idle machine only; the load averages are stored.
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


@bench.command(
    "record",
    cls=Command,
    short_help="What recording costs a generation",
    example="janoscope bench record --small",
)
@_output("record.json and record.md")
@grouped("Work", "--scratch", type=PATH, help="Where about 500 MB are written [default: the system's].")
@_small("size")
@grouped("Check", "--strict", is_flag=True, help="Exit code 1 when a ratio misses its limit.")
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


@bench.command(
    "scale", cls=Command, short_help="What calibrating a large model would take", example="janoscope bench scale --small"
)
@grouped("Work", "--gpus", type=COUNT, multiple=True, default=(8, 64), show_default=True, help="Sizes of the cluster.")
@grouped("Work", "--prompts", type=click.IntRange(min=2), default=1000, show_default=True)
@grouped("Work", "--gpu-hour-usd", type=click.FloatRange(min=0), default=2.5, show_default=True, help="What a GPU costs.")
@_output("scale.json and scale.md")
@_small("work")
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
