"""The document: figures, tables and words of one analysis in a single HTML file that needs nothing else."""

from pathlib import Path
from typing import Any

from ..plan import StepKind, TokenLevel
from ..plan.schedule import LETTERS
from .applied import Applied, applied_section
from .figures import analysis_figures
from .glossary import DEFINITIONS, KINDS
from .importance import importance_words
from .page import environment, remove_stale, sentence, text_asset, write_whole
from .player import clip_player
from .results import AnalysisResults, number, read_results
from .style import KIND_COLOUR, LEVEL_COLOUR, styled
from .svg import Drawing
from .tables import analysis_tables

NAME = "report.html"
FIGURES = "figures"


def render_analysis(directory: Path | str, *, recording: Path | str | None = None) -> Path:
    """Write `report.html` and `figures/*.svg` into an analysis directory, from the files that lie there.

    directory: what `janoscope analyze` wrote; after `apply --reference` the pair of pictures is shown too.
    recording: the recorded run, for the x0 estimates; found by its name in the directory or beside it if not given.
    Returns the path of report.html. Raises InputError where a file is missing, damaged or of another analysis.
    """
    results = read_results(Path(directory), None if recording is None else Path(recording))
    with styled():
        drawings = analysis_figures(results)
        applied = applied_section(results)
    folder = results.directory / FIGURES
    folder.mkdir(exist_ok=True)
    drawn = [*drawings.values(), *(applied.drawings if applied else ())]
    for drawing in drawn:
        write_whole(folder / f"{drawing.name}.svg", drawing.svg)
    remove_stale(folder, [drawing.name for drawing in drawn])
    return write_whole(results.directory / NAME, page(results, drawings, applied))


def page(results: AnalysisResults, drawings: dict[str, Drawing], applied: Applied | None) -> str:
    """The HTML text."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            run=results.facts["run"],
            plan=results.plan,
            drawings=drawings,
            tables={table.name: table for table in analysis_tables(results)},
            applied=applied,
            figures=key_figures(results),
            levels=level_bar(results),
            kinds=[(kind, LETTERS[kind], KIND_COLOUR[kind], KINDS[kind]) for kind in StepKind if kind in results.plan.step_kind],
            is_flow=results.is_flow,
            warnings=warnings(results),
            importance=importance_words(results),
            player=clip_player(results),
            definitions=DEFINITIONS,
            provenance=provenance(results),
            style=text_asset("report.css"),
            script=text_asset("report.js"),
        )
    )


def key_figures(results: AnalysisResults) -> list[tuple[str, str, str]]:
    """What the plan promises: (words, value, unit)."""
    predicted = results.plan.predicted
    cache = predicted.cache_bytes
    return [
        ("predicted compute", f"{predicted.compute:.2f}", "of the full run's FLOPs"),
        ("predicted speedup", f"{predicted.speedup:.2f}×", "wall time, not measured"),
        ("predicted cache", "–" if cache is None else f"{cache / 2**20:.3g}", "unknown" if cache is None else "MiB"),
        ("tokens", f"{results.grid.count}", token_sizes(results)),
    ]


def token_sizes(results: AnalysisResults) -> str:
    frames, rows, cols = results.grid.tokens
    return f"{rows} × {cols}, rows × columns" if frames == 1 else f"{frames} × {rows} × {cols}, frames × rows × columns"


def level_bar(results: AnalysisResults) -> list[tuple[str, int, float, str]]:
    """(level, tokens, share, colour), static first."""
    rows = []
    for level in TokenLevel:
        tokens = int(results.tokens_at(level).sum())
        rows.append((level.value, tokens, tokens / results.grid.count, LEVEL_COLOUR[level]))
    return rows


def warnings(results: AnalysisResults) -> list[str]:
    """What a reader must know before believing a figure."""
    found = [sentence(note) for note in results.facts.get("notes") or []]
    for name, bad in (results.facts.get("nonfinite") or {}).items():
        if bad:
            found.append(f"{bad} non-finite values in {str(name).replace('_', ' ')} were counted as 0 in the analysis.")
    if "notes" not in results.facts and (masked := results.facts["convergence"].get("masked_tokens")):
        found.append(f"{masked} tokens held values that are not finite and are left out of the numbers.")
    if results.plan.skips_nothing:
        found.append("This plan computes every token at every step: it saves nothing.")
    if results.picture is None:
        found.append("No decoded picture was at hand: the maps stand alone and the x0 estimates are not shown.")
    elif results.recording is None:
        found.append("The recording was not at hand: the x0 estimates are not shown.")
    return found


def provenance(results: AnalysisResults) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything the numbers depend on, as (section, [(field, text)])."""
    facts, plan = results.facts, results.plan
    print_ = plan.fingerprint
    sections: list[tuple[str, Any]] = [
        ("run", facts["run"]),
        ("plan", {"policy": plan.policy.name, "source": plan.policy.source or "not said", "transformer": dict(print_.transformer),
                  "scheduler": print_.scheduler, "guidance": dict(print_.guidance)}),
        ("policy", plan.policy.to_json()),
        ("token grid", facts["grid"]),
        ("conversion", facts["conversion"]),
        ("complexity", facts["complexity"]),
        ("convergence", {name: value for name, value in facts["convergence"].items() if name not in ("by_level", "whole_run")}),
        ("versions", facts["versions"]),
    ]  # fmt: skip
    return [(name, [(str(key), plain(value)) for key, value in fields.items()]) for name, fields in sections]


def plain(value: Any) -> str:
    """A JSON value as words for a table cell."""
    if value is None:
        return "none"
    if value == "":
        return "empty"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if number(value) is not None else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, dict):
        return "; ".join(f"{key} {plain(item)}" for key, item in value.items()) or "none"
    return str(value)
