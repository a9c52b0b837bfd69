"""`janoscope bench analyze`."""

import json
import sys
from pathlib import Path

import click

from .options import json_option, quiet_option


@click.command("analyze")
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
    from ..study.bench_analyze import SMALL_MAP, SMALL_RUN, bench_analyze, describe_bench
    from ..study.bench_files import write_bench

    map_case, run_case = (SMALL_MAP, SMALL_RUN) if small else (None, None)
    say = (lambda text: None) if quiet else (lambda text: click.echo(text, err=True))
    result = bench_analyze(map_case, run_case, scratch, say)
    text = describe_bench(result)
    click.echo(json.dumps(result, indent=1) if as_json else text)
    if output is not None:
        click.echo(f"Wrote {write_bench(output, 'analyze', result, text)}", err=as_json)
    sys.exit(1 if strict and not all(result["within"].values()) else 0)
