"""`janoscope bench record`."""

import json
import sys
from pathlib import Path

import click

from .options import json_option, quiet_option


@click.command("record")
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
    from ..study.bench_files import write_bench
    from ..study.bench_record import CASES, SMALL_CASES, bench_record, describe_bench

    say = (lambda text: None) if quiet else (lambda text: click.echo(text, err=True))
    result = bench_record(SMALL_CASES if small else CASES, scratch, say)
    text = describe_bench(result)
    click.echo(json.dumps(result, indent=1) if as_json else text)
    if output is not None:
        click.echo(f"Wrote {write_bench(output, 'record', result, text)}", err=as_json)
    sys.exit(1 if strict and not all(result["within"].values()) else 0)
