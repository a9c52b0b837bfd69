"""`janoscope compare`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    all_prompts,
    call_flags,
    force_option,
    hush,
    json_option,
    model_options,
    quiet_option,
    take_call,
    take_model,
    verbose_option,
)
from .parallel import follows, paired, parallel_options
from .progress import progress

if TYPE_CHECKING:
    from ..parallel.pair import Pair
    from ..parallel.tasks import Outcome
    from ..results.comparison import Comparison, ComparisonFiles
    from ..results.statistics import Key
    from ..workflows.compare.cluster import CompareRecipe, Part


@click.command()
@model_options
@click.option("-p", "--prompt", "prompts", multiple=True, help="What to generate; may be given several times.")
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(path_type=Path),
    help="A file of prompts: text, CSV, TSV, JSON, JSONL or Parquet.",
)
@click.option("--prompt-column", metavar="NAME", help="Its column of prompts [default: prompt, prompt_en, caption or text].")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many seeds for each prompt, counting up from --seed.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME[:k=v,...]",
    help="A method, several times (docs/comparing.md).",
)
@click.option(
    "--methods", "methods_file", type=click.Path(path_type=Path), help="A text file with a method a line; # begins a remark."
)
@call_flags
@click.option("--ray", metavar="ADDRESS", help="Spread prompts and seeds over a Ray cluster (`auto`: the one on this machine).")
@parallel_options
@click.option("--lpips", is_flag=True, help="Measure LPIPS too (needs the lpips package and its weights).")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("comparison"), show_default=True, help="A directory."
)
@click.option("--resume", is_flag=True, help="Go on with the comparison in --output: keep its runs, make what it lacks.")
@force_option
@json_option
@quiet_option
@verbose_option
def compare(
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    prompt_column: str | None,
    seed: int,
    seeds: int,
    methods: tuple[str, ...],
    methods_file: Path | None,
    ray: str | None,
    lpips: bool,
    output: Path,
    resume: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    guidance_parallel: int | None,
    peer_timeout: float | None,
    **options: Any,
) -> None:
    """Run MODEL under several methods on the same prompts and seeds; a table, a picture grid and a quality-compute plot."""
    from ..errors import InputError
    from ..pipeline.inputs import check_model
    from ..report.comparison.figures import render_comparison
    from ..results.comparison import ComparisonFiles, ready_directory
    from ..results.few_prompts import few_prompts_words
    from ..workflows.compare.cluster import CompareRecipe
    from ..workflows.compare.contest import DEFAULT_METHODS, make_method

    if ray is not None and guidance_parallel is not None:
        raise InputError("--ray and --guidance-parallel both spread the work; use one of them.")
    if resume and force:
        raise InputError("--resume keeps what --force replaces; give one of the two.")
    chosen = (*methods, *_lines(methods_file, "--methods")) or DEFAULT_METHODS
    for text in chosen:
        make_method(text)  # a misspelt method is told before a model is loaded
    given = all_prompts(prompts, prompts_file, prompt_column, "at least one -p PROMPT")
    if output.exists() and not (force or resume):
        check_model(options["model"], revision=options["revision"], probe=options["probe"])  # its faults come first
    known = ready_directory(output, resume=resume, force=force)
    saving = ComparisonFiles(output, known)
    measure = _lpips() if lpips else None
    (model, model_options), asked = take_model(options), take_call({**options, "prompt": given[0], "seed": seed})
    told_lpips = measure if isinstance(measure, str) else lpips
    recipe = CompareRecipe(model, model_options, asked, tuple(given), tuple(range(seed, seed + seeds)), tuple(chosen), told_lpips)
    if not verbose:
        hush()
    if ray is not None:
        with _report_at_a_stop(output):
            comparison = _over_ray(recipe, ray, known, saving, quiet)
    else:
        with paired(guidance_parallel, peer_timeout) as pair:
            comparison = _here(recipe, measure, known, saving, quiet, pair)
        if follows(pair):
            return
    files = [*saving.save(comparison), *render_comparison(output)]
    click.echo(json.dumps(comparison.to_json(), indent=1) if as_json else str(comparison))
    if not as_json:
        if few := few_prompts_words(len({run.prompt for row in comparison.rows for run in row.runs})):
            click.echo(few)
        for file in files:
            click.echo(f"Wrote {file}")
    failed = not any(row.runs for row in comparison.rows[1:])
    sys.exit(1 if failed or (ray is not None and not comparison.complete) else 0)


def _here(
    recipe: "CompareRecipe", lpips: Any, known: "Comparison | None", saving: "ComparisonFiles", quiet: bool, pair: "Pair | None"
) -> "Comparison":
    from ..pipeline.model import load_model
    from ..workflows.compare.contest import calls_of, compare

    writes = not follows(pair)
    model = load_model(recipe.model, recipe.options, pair=pair)
    calls = calls_of(model, recipe.call, recipe.prompts, recipe.seeds)
    for warning in dict.fromkeys(warning for call in calls for warning in call.warnings) if writes else ():
        click.echo(warning, err=True)
    with progress("compare", quiet or not writes) as on_step, _report_at_a_stop(saving.directory) if writes else nullcontext():
        return compare(
            model,
            calls,
            recipe.methods,
            lpips=lpips,
            on_run=None if on_step is None else lambda done, total, label: on_step(done, total),
            on_call=saving.save if writes else None,
            known=known,
        )


def _over_ray(
    recipe: "CompareRecipe", address: str, known: "Comparison | None", saving: "ComparisonFiles", quiet: bool
) -> "Comparison":
    from ..workflows.compare.cluster import compare_over_ray

    told: set[str] = set()
    with progress("compare", quiet, unit="call") as on_step:

        def on_part(done: int, total: int, outcome: "Outcome[Key, Part]", so_far: "Comparison | None") -> None:
            if on_step is not None:
                on_step(done, total)
            prompt, seed = outcome.task
            warnings = outcome.result.warnings if outcome.result else (f"{prompt!r}, seed {seed} left out: {outcome.error}",)
            for warning in (warning for warning in warnings if warning not in told):
                told.add(warning)
                click.echo(warning, err=True)
            if so_far is not None:
                saving.save(so_far)

        return compare_over_ray(recipe, address, known=known, on_part=on_part)


def _lpips() -> Any:
    """The measure, or why its cells stay empty where its weights cannot be had; a package that is missing is refused."""
    from ..errors import InputError
    from ..metrics import load_lpips

    try:
        return load_lpips()
    except InputError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        click.echo(f"{error} Its cells stay empty.", err=True)
        return str(error)


@contextmanager
def _report_at_a_stop(output: Path) -> Iterator[None]:
    """What was measured until Ctrl-C or a fault lies in the directory already; it gets its page, and a line that says so."""
    earlier = output / "comparison.json"
    before = earlier.stat().st_mtime_ns if earlier.exists() else None
    try:
        yield
    except BaseException:
        if earlier.exists() and earlier.stat().st_mtime_ns != before:
            page = _page_or_why_not(output)
            click.echo(
                f"Stopped before the last call; what was measured so far lies in {output}, marked incomplete.{page}", err=True
            )
        raise


def _page_or_why_not(output: Path) -> str:
    """Draws the page. What stopped the comparison is about to be raised, so a fault of the drawing is told beside it."""
    from ..parallel.tasks import in_words
    from ..report.comparison.figures import render_comparison

    try:
        render_comparison(output)
    except Exception as error:
        return f" Its page could not be drawn: {in_words(error)}"
    return ""


def _lines(file: Path | None, option: str) -> list[str]:
    """The lines of a text file that hold something; a line that begins with # is a remark."""
    if file is None:
        return []
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{option} {file}: {error}") from error
    if not (told := [line for line in lines if line and not line.startswith("#")]):
        raise click.UsageError(f"{option} {file} holds none; write one a line.")
    return told
