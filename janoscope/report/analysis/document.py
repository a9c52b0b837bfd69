"""The document: figures, tables and words of one analysis in a single HTML file that needs nothing else."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...plan import StepKind, TokenLevel
from ...plan.schedule import LETTERS
from ..drawing.style import KIND_COLOUR, LEVEL_COLOUR, styled
from ..drawing.svg import Drawing
from ..page import environment, number, remove_stale, sentence, text_asset, write_whole
from ..player import clip_player
from .applied import Applied, applied_section, quality_value
from .figures import analysis_figures
from .glossary import DEFINITIONS, KINDS
from .importance import importance_words
from .results import AnalysisResults, read_results
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
    """(words, value, unit): what the applied run measured, with the prediction beside it; before `apply` the prediction alone."""
    figures = predicted_figures(results) if results.applied is None else measured_figures(results, results.applied)
    return [*figures, ("tokens", f"{results.grid.count}", token_sizes(results))]


def predicted_figures(results: AnalysisResults) -> list[tuple[str, str, str]]:
    """What the plan promises. No speedup: a wall time is known where it was measured."""
    predicted = results.plan.predicted
    cache = predicted.cache_bytes
    unit = "not to be applied, see below" if results.facts.get("apply_refused") else "no wall time was measured"
    return [
        ("predicted FLOPs", f"{predicted.compute:.1%}", "of the full run's"),
        ("FLOP ratio", f"{predicted.flop_ratio:.2f}×", unit),
        (
            "predicted cache",
            "–" if cache is None else f"{cache / 2**20:.3g} MiB",
            "unknown" if cache is None else "of skipped tokens",
        ),
    ]


def measured_figures(results: AnalysisResults, applied: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What was counted, timed and compared in the applied run. Figures that it lacks are dashes."""
    predicted = results.plan.predicted
    compute, speedup, cache = (number(applied.get(name)) for name in ("compute", "speedup", "cache_bytes"))
    psnr, ssim = quality_value(applied, "psnr"), quality_value(applied, "ssim")
    figures = [
        ("FLOPs, counted", "–" if compute is None else f"{compute:.1%}", f"of the full run's; predicted {predicted.compute:.1%}")
    ]
    if speedup is not None:
        figures.append(
            ("speedup, measured", f"{speedup:.2f}×", f"wall time, one pair of runs; FLOP ratio {predicted.flop_ratio:.2f}×")
        )
    else:
        figures.append(("FLOP ratio", f"{predicted.flop_ratio:.2f}×", "predicted; no wall time was measured"))
    if psnr is not None:
        similar = "" if ssim is None else f"; SSIM {ssim:.4f}"
        figures.append(("PSNR", "identical" if math.isinf(psnr) else f"{psnr:.1f} dB", f"against the full run{similar}"))
    if cache is not None:
        figures.append(("cache", f"{cache / 2**20:.1f} MiB", _predicted_cache(predicted.cache_bytes)))
    return figures


def _predicted_cache(predicted: int | None) -> str:
    return "of skipped tokens" if predicted is None else f"predicted {predicted / 2**20:.1f} MiB"


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
