"""The document: figures, tables and words of one analysis in a single HTML file that needs nothing else."""

import math
from collections.abc import Mapping
from pathlib import Path

from ...plan import StepKind, TokenLevel
from ...plan.schedule import LETTERS
from ...results.analysis import AnalysisResult
from ...results.applied import AppliedFacts
from ..drawing.style import KIND_COLOUR, LEVEL_COLOUR, styled
from ..drawing.svg import Drawing
from ..page import environment, number, remove_stale, sentence, text_asset, write_whole
from ..player import video_player
from ..policy_words import policy_rows, skips_whole_steps
from .applied import Applied, applied_section, quality_value
from .figures import analysis_figures
from .glossary import DEFINITIONS, KINDS
from .importance import importance_words
from .tables import analysis_tables
from .view import AnalysisView, read_view, view_of

NAME = "report.html"
FIGURES = "figures"


def render_analysis(
    directory: Path | str, *, analysis: AnalysisResult | None = None, recording: Path | str | None = None
) -> Path:
    """Write `report.html` and `figures/*.svg` into an analysis directory.

    Args:
        directory: what `janoscope analyze` wrote; after `apply --reference` the pair of images is shown too.
        analysis: the result, where it is at hand; it is saved to `directory`, and not read again.
        recording: the recorded run, for the x0 estimates; without it, it is looked for in the directory and beside it.

    Returns:
        The path of report.html.

    Raises:
        InputError: a file is missing, damaged or of another analysis, or another analysis lies in `directory`.

    Example:
        render_analysis("run", analysis=janoscope.analyze("run.h5"))
    """
    directory, recording = Path(directory), None if recording is None else Path(recording)
    if analysis is None:
        view = read_view(directory, recording)
    else:
        analysis.save(directory, replaces=False)
        view = view_of(analysis, directory, recording)
    with styled():
        drawings = analysis_figures(view)
        applied = applied_section(view)
    folder = view.directory / FIGURES
    folder.mkdir(exist_ok=True)
    drawn = [*drawings.values(), *(applied.drawings if applied else ())]
    for drawing in drawn:
        write_whole(folder / f"{drawing.name}.svg", drawing.svg)
    remove_stale(folder, [drawing.name for drawing in drawn])
    return write_whole(view.directory / NAME, page(view, drawings, applied))


def page(view: AnalysisView, drawings: dict[str, Drawing], applied: Applied | None) -> str:
    """The HTML text."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            view=view,
            skips_whole_steps=skips_whole_steps(view.plan.policy),
            run=view.facts["run"],
            plan=view.plan,
            drawings=drawings,
            tables={table.name: table for table in analysis_tables(view)},
            applied=applied,
            figures=key_figures(view),
            levels=level_bar(view),
            kinds=[(kind, LETTERS[kind], KIND_COLOUR[kind], KINDS[kind]) for kind in StepKind if kind in view.plan.step_kind],
            is_flow=view.is_flow,
            warnings=warnings(view),
            importance=importance_words(view),
            player=video_player(view),
            definitions=DEFINITIONS,
            provenance=provenance(view),
            style=text_asset("report.css"),
            script=text_asset("report.js"),
        )
    )


def key_figures(view: AnalysisView) -> list[tuple[str, str, str]]:
    """(words, value, unit): what the applied run measured, with the prediction beside it; before `apply` the prediction alone."""
    figures = predicted_figures(view) if view.applied is None else measured_figures(view, view.applied)
    return [*figures, ("tokens", f"{view.grid.count}", token_sizes(view))]


def predicted_figures(view: AnalysisView) -> list[tuple[str, str, str]]:
    """What the plan promises. No speedup: a wall time is known where it was measured."""
    predicted = view.plan.predicted
    cache = predicted.cache_bytes
    unit = "cannot be applied, see below" if view.facts.get("apply_refused") else "no wall time was measured"
    return [
        ("predicted FLOPs", f"{predicted.compute:.1%}", "of the full run's"),
        ("FLOP ratio", f"{predicted.flop_ratio:.2f}×", unit),
        (
            "predicted cache",
            "–" if cache is None else f"{cache / 2**20:.3g} MiB",
            "unknown" if cache is None else "of skipped tokens",
        ),
    ]


def measured_figures(view: AnalysisView, applied: AppliedFacts) -> list[tuple[str, str, str]]:
    """What was counted, timed and compared in the applied run. Figures that it lacks are dashes."""
    predicted = view.plan.predicted
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


def token_sizes(view: AnalysisView) -> str:
    frames, rows, cols = view.grid.tokens
    return f"{rows} × {cols}, rows × columns" if frames == 1 else f"{frames} × {rows} × {cols}, frames × rows × columns"


def level_bar(view: AnalysisView) -> list[tuple[str, int, float, str]]:
    """(level, tokens, share, colour), static first."""
    rows = []
    for level in TokenLevel:
        tokens = int(view.tokens_at(level).sum())
        rows.append((level.value, tokens, tokens / view.grid.count, LEVEL_COLOUR[level]))
    return rows


def warnings(view: AnalysisView) -> list[str]:
    """What a reader must know before believing a figure."""
    texts = [sentence(note) for note in view.facts.get("notes") or []]
    for name, bad in (view.facts.get("nonfinite") or {}).items():
        if bad:
            texts.append(f"{bad} non-finite values in {str(name).replace('_', ' ')} were counted as 0 in the analysis.")
    if "notes" not in view.facts and (masked := view.facts["convergence"].get("masked_tokens")):
        texts.append(f"{masked} tokens have values that are not finite and are left out of the numbers.")
    if view.plan.skips_nothing:
        texts.append("This plan computes every token at every step: it saves nothing.")
    if view.image is None:
        texts.append("No decoded image is available: the x0 estimates are not shown.")
    elif view.recording is None:
        texts.append("The recording is not available: the x0 estimates are not shown.")
    return texts


def provenance(view: AnalysisView) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything the numbers depend on, as (section, [(field, text)])."""
    facts, plan = view.facts, view.plan
    print_ = plan.fingerprint
    sections: list[tuple[str, Mapping[str, object]]] = [
        ("run", facts["run"]),
        ("plan", {"policy": plan.policy.name, "source": plan.policy.source or "not said", "transformer": dict(print_.transformer),
                  "scheduler": print_.scheduler, "guidance": dict(print_.guidance)}),
        ("policy", dict(policy_rows(plan.policy))),
        ("token grid", facts["grid"]),
        ("conversion", facts["conversion"]),
        ("complexity", {} if skips_whole_steps(plan.policy) else facts["complexity"]),
        ("convergence", {name: value for name, value in facts["convergence"].items() if name not in ("by_level", "whole_run")}),
        ("versions", facts["versions"]),
    ]  # fmt: skip
    return [(name, [(str(key), plain(value)) for key, value in fields.items()]) for name, fields in sections if fields]


def plain(value: object) -> str:
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
