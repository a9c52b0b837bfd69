"""`janoscope compare`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InputError
from .command import collected, command
from .options import (
    COUNT,
    PATH,
    CallFlags,
    ModelFlags,
    PromptFlags,
    Reporting,
    announce,
    call_options,
    force_option,
    grouped,
    hush,
    model_options,
    output_option,
    prompt_options,
    reporting_options,
)
from .parallel import PairFlags, follows, paired, parallel_options
from .progress import progress

if TYPE_CHECKING:
    from ..metrics import Lpips
    from ..parallel.pair import Pair
    from ..parallel.tasks import Outcome
    from ..results.comparison import Comparison, ComparisonFiles
    from ..results.statistics import Key
    from ..workflows.compare.cluster import CompareRecipe, Part


@dataclass(frozen=True)
class MethodFlags:
    """What is compared, over how many seeds, by which metrics."""

    methods: tuple[str, ...]
    methods_file: Path | None
    seeds: int
    lpips: bool

    def specs(self) -> tuple[str, ...]:
        """The methods of --method and --methods, else the default ones; each is checked before a model is loaded."""
        from ..workflows.compare.contest import DEFAULT_METHODS, make_method

        specs = (*self.methods, *_lines(self.methods_file, "--methods")) or DEFAULT_METHODS
        for spec in specs:
            make_method(spec)
        return tuple(specs)


@command(
    "Run several methods on the same prompts and seeds",
    """janoscope compare demo -p "a red apple on grass" -p "a small yellow cat" --steps 30 \\
    --method jano --method taylorseer --method fewer-steps:compute=0.6 -o comparison""",
)
@model_options
@prompt_options
@call_options
@collected(
    "comparing",
    MethodFlags,
    (
        grouped("Method", "--method", "methods", multiple=True, metavar="NAME[:k=v,...]", help="A method (docs/comparing.md)."),
        grouped("Method", "--methods", "methods_file", type=PATH, help="A text file with a method a line; # begins a comment."),
        grouped(
            "Generation",
            "--seeds",
            type=COUNT,
            default=1,
            show_default=True,
            help="How many seeds for each prompt, counting up from --seed.",
        ),
        grouped("Output", "--lpips", is_flag=True, help="Measure LPIPS too (needs the lpips package and its weights)."),
    ),
)
@parallel_options
@output_option("comparison", "A directory.")
@grouped("Output", "--resume", is_flag=True, help="Continue the comparison in --output: keep its runs, make what it lacks.")
@force_option
@reporting_options
def compare(
    model: str,
    loading: ModelFlags,
    prompting: PromptFlags,
    calling: CallFlags,
    comparing: MethodFlags,
    pairing: PairFlags,
    output: Path,
    resume: bool,
    force: bool,
    reporting: Reporting,
) -> None:
    """Run MODEL under several methods on the same prompts and seeds; makes a table, an image grid and a quality-compute plot.

    Give -p and --method several times. The full run is always made, as the reference.
    """
    if prompting.ray is not None and pairing.guidance_parallel is not None:
        raise InputError("--ray and --guidance-parallel both spread the work; use one of them.")
    if resume and force:
        raise InputError("--resume keeps what --force replaces; give one of the two.")
    announce(model, reporting.quiet)
    from ..pipeline.inputs import check_model
    from ..report.comparison.figures import render_comparison
    from ..results.comparison import ComparisonFiles, ready_directory
    from ..results.few_prompts import few_prompts_words
    from ..workflows.compare.cluster import CompareRecipe

    methods = comparing.specs()
    prompts = prompting.texts("at least one -p PROMPT")
    if output.exists() and not (force or resume):
        check_model(model, revision=loading.revision, probe=loading.probe)  # its faults come first
    earlier = ready_directory(output, resume=resume, force=force)
    saving = ComparisonFiles(output, earlier)
    lpips = _lpips() if comparing.lpips else None
    seeds = tuple(range(calling.seed, calling.seed + comparing.seeds))
    metric = lpips if isinstance(lpips, str) else comparing.lpips
    recipe = CompareRecipe(model, loading.options(), calling.options(prompts[0]), tuple(prompts), seeds, methods, metric)
    if not reporting.verbose:
        hush()
    if prompting.ray is not None:
        with _report_at_a_stop(output):
            comparison = _over_ray(recipe, prompting.ray, earlier, saving, reporting.quiet)
    else:
        with paired(pairing) as pair:
            comparison = _here(recipe, lpips, earlier, saving, reporting.quiet, pair)
        if follows(pair):
            return
    saving.save(comparison)
    render_comparison(output)
    click.echo(json.dumps(comparison.to_json(), indent=1) if reporting.as_json else str(comparison))
    if not reporting.as_json:
        if few := few_prompts_words(len({run.prompt for row in comparison.rows for run in row.runs})):
            click.echo(few)
        click.echo(f"Wrote {output}, open {output / 'report.html'}")
    failed = not any(row.runs for row in comparison.rows[1:])
    sys.exit(1 if failed or (prompting.ray is not None and not comparison.complete) else 0)


def _here(
    recipe: "CompareRecipe",
    lpips: "Lpips | str | None",
    earlier: "Comparison | None",
    saving: "ComparisonFiles",
    quiet: bool,
    pair: "Pair | None",
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
            known=earlier,
        )


def _over_ray(
    recipe: "CompareRecipe", address: str, earlier: "Comparison | None", saving: "ComparisonFiles", quiet: bool
) -> "Comparison":
    from ..workflows.compare.cluster import compare_over_ray

    shown: set[str] = set()
    with progress("compare", quiet, unit="call") as on_step:

        def on_part(done: int, total: int, outcome: "Outcome[Key, Part]", so_far: "Comparison | None") -> None:
            if on_step is not None:
                on_step(done, total)
            prompt, seed = outcome.task
            warnings = outcome.result.warnings if outcome.result else (f"{prompt!r}, seed {seed} left out: {outcome.error}",)
            for warning in (warning for warning in warnings if warning not in shown):
                shown.add(warning)
                click.echo(warning, err=True)
            if so_far is not None:
                saving.save(so_far)

        return compare_over_ray(recipe, address, known=earlier, on_part=on_part)


def _lpips() -> "Lpips | str":
    """The measure, or why its cells stay empty where its weights cannot be had; a package that is missing is refused."""
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
    """Draws the page. What stopped the comparison is about to be raised, so a fault of the drawing is reported beside it."""
    from ..parallel.tasks import in_words
    from ..report.comparison.figures import render_comparison

    try:
        render_comparison(output)
    except Exception as error:
        return f" Its page could not be drawn: {in_words(error)}"
    return ""


def _lines(file: Path | None, option: str) -> list[str]:
    """The lines of a text file that hold something; a line that begins with # is a comment."""
    if file is None:
        return []
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{option} {file}: {error}") from error
    if not (methods := [line for line in lines if line and not line.startswith("#")]):
        raise click.UsageError(f"{option} {file} holds none; write one a line.")
    return methods
