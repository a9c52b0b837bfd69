"""Comparison reports: the subject's methods on its prompts and seeds, as `janoscope compare` measures them."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from ...errors import InputError
from ...metrics import Lpips, load_lpips
from ...report.comparison.figures import grid_figure, pareto_drawing, read_comparison
from ...report.page import number
from ...results.comparison import ComparisonFacts, RowFacts, save_comparison
from ...results.images import read_image
from ...workflows.compare.contest import compare
from ..page import NOT_MEASURED, Figures, Section, SubjectResults, estimate, share, table, value
from ..provenance import Extra
from ..recipe import MethodLine, Recipe
from ..task import Task

FULL = "full"
MEASURES = (("compute", "compute", ".3f"), ("psnr", "PSNR (dB)", ".2f"), ("ssim", "SSIM", ".4f"))
MORE_MEASURES = (("ms_ssim", "MS-SSIM", ".4f"), ("lpips", "LPIPS", ".4f"))
THEIRS = (("speedup", ".2f"), ("lpips", ".4f"), ("ssim", ".4f"), ("psnr", ".2f"))
MOST_IMAGES = 12


def make(task: Task) -> Extra:
    """comparison.json, comparison.txt and the first call's images in the task's folder."""
    if not task.subject.methods:
        raise InputError(f"{task.recipe.slug}: subject {task.subject.name} lists no [[subject.method]].")
    methods = [method.spec for method in task.subject.methods]
    comparison = compare(
        task.model, task.calls, methods, lpips=_lpips(), on_run=lambda done, total, label: task.on_step(done, total)
    )
    save_comparison(comparison, task.folder)
    return {"dtype": comparison.dtype}


def _lpips() -> Lpips | str:
    """The measure, which the published tables hold, or why it cannot be had here."""
    try:
        return load_lpips()
    except InputError as error:
        return str(error)


def draw(recipe: Recipe, results: SubjectResults, figures: Figures) -> Section:
    """A table a subject; the plot where there are several methods, and images where they were saved."""
    facts = read_comparison(results.folder)
    lines = {line.spec: line for line in (results.subject.methods if results.subject else ())}
    blocks = [_table(facts, lines)]
    blocks += [f"{measure} is not measured: {why.rstrip('.')}." for measure, why in sorted(facts["missing"].items())]
    blocks += [f"- {_title(row, lines)}: {row['note']}" for row in facts["rows"] if row["note"] and row["label"] != FULL]
    drawing = pareto_drawing(facts)
    if drawing is not None and len(facts["rows"]) > 2:
        blocks.append(figures.svg(drawing, f"{results.name}-pareto"))
    blocks += _equal_compute(facts, lines)
    blocks += _images(results, facts, figures)
    return Section(_result(facts, lines), blocks)


def _table(facts: ComparisonFacts, lines: Mapping[str, MethodLine]) -> str:
    full = next(row for row in facts["rows"] if row["label"] == FULL)
    rows = [row for row in facts["rows"] if row["label"] != FULL]
    measures = [*MEASURES, *(m for m in MORE_MEASURES if any(number(_mean(row, m[0])) is not None for row in rows))]
    theirs = any(line.theirs for line in lines.values())
    heads = ["method", *(words for _, words, _ in measures), "speedup (wall)", "speedup (CPU time)", "cache (MiB)"]
    heads += [f"theirs: {name.upper() if name != 'speedup' else name}" for name, _ in THEIRS] if theirs else []
    cells = []
    for row in rows:
        line = [_title(row, lines)]
        intervals: Mapping[str, object] = row["interval"]
        line += [estimate(_mean(row, name), intervals[name], form) for name, _, form in measures]
        line += [value(_mean(row, "speedup")), value(_cpu_speedup(full, row)), _cache(row)]
        if theirs:
            published = lines[row["label"]].theirs if row["label"] in lines else {}
            line += [value(published.get(name), form) for name, form in THEIRS]
        cells.append(line)
    return table(heads, cells)


def _mean(row: RowFacts, measure: str) -> object:
    means: Mapping[str, object] = row["mean"]
    return means[measure]


def _cpu_speedup(full: RowFacts, row: RowFacts) -> float | None:
    """Mean ratio of processor time, run by run: what a busy machine disturbs least."""
    times = {(run["prompt"], run["seed"]): run["cpu_s"] for run in full["runs"]}
    ratios = [times[run["prompt"], run["seed"]] / run["cpu_s"] for run in row["runs"] if run["cpu_s"]]
    return fmean(ratios) if ratios else None


def _cache(row: RowFacts) -> str:
    sizes = [run["cache_bytes"] for run in row["runs"] if run["cache_bytes"] is not None]
    return f"{max(sizes) / 2**20:.1f}" if sizes else NOT_MEASURED


def _title(row: RowFacts, lines: Mapping[str, MethodLine]) -> str:
    """What the recipe calls a row, and how `--method` spells it."""
    label = row["label"]
    title = lines[label].title if label in lines else label
    return f"`{label}`" if title == label else f"{title} (`{label}`)"


def _equal_compute(facts: ComparisonFacts, lines: Mapping[str, MethodLine]) -> list[str]:
    differences = facts.get("equal_compute") or []
    if not differences:
        return []
    rows = [
        [f"`{one['row']}`", f"`{one['against']}`", estimate(one["value"], [one["low"], one["high"]]), str(one["runs"])]
        for one in differences
    ]
    words = "Paired PSNR difference: a row minus the Pareto front of another method at the row's own compute; 95 % interval:"
    return [words, table(("row", "minus the Pareto front of", "difference (dB)", "runs"), rows)]


def _images(results: SubjectResults, facts: ComparisonFacts, figures: Figures) -> list[str]:
    names = list(facts.get("pictures", {}).items())[:MOST_IMAGES]
    paths = {label: results.folder / "pictures" / name.rsplit("/", 1)[-1] for label, name in names}
    images = {label: image for label, path in paths.items() if path.is_file() and (image := read_image(path)) is not None}
    if len(images) < 2:
        return []
    words = f"The first prompt and seed under {', '.join(label for label in images if label != FULL)}, and the difference to full"
    return [figures.png(grid_figure(images, facts), f"{results.name}-pictures", words)]


def _result(facts: ComparisonFacts, lines: Mapping[str, MethodLine]) -> str:
    sentences: Sequence[str] = [
        f"{_short(row, lines)} {value(row['mean']['psnr'], '.1f')} dB at {share(row['mean']['compute'])}"
        for row in facts["rows"]
        if row["label"] != FULL and number(row["mean"]["psnr"]) is not None
        and (row["label"] not in lines or lines[row["label"]].is_headline)
    ]  # fmt: skip
    return "; ".join(sentences) + "." if sentences else ""


def _short(row: RowFacts, lines: Mapping[str, MethodLine]) -> str:
    label = row["label"]
    return lines[label].title if label in lines else label
