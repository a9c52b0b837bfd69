"""RAS importance at several steps beside the JANO map: one says at the end of the warm-up what the other says step by step.

Figure 3 of the JANO supplementary, for any recording, with the number that belongs to it under every map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from ...results.analysis import Predicts
from ..drawing.maps import add_colour_bar
from ..drawing.style import SCORE_CMAP, UNKNOWN
from ..page import estimate_words, number
from .view import AnalysisView

TARGET = "reuse_error"
GAP, FIRST_GAP = 0.08, 0.3  # between maps, and after the first, of a map's width
BELOW, ABOVE = 0.72, 0.16  # room for the colour bars and numbers, and for the titles, of a map's height


@dataclass(frozen=True)
class ImportanceMaps:
    """The JANO map and RAS importance of one frame at several steps.

    jano: (row, col) of tokens. ras: (step, row, col), on one colour scale. steps: (step,). spearman: of the JANO map and of each
    RAS map (negated, since RAS computes tokens of low importance) with the outcome; None where it is not defined.
    """

    jano: np.ndarray
    ras: np.ndarray
    steps: Sequence[int]
    warmup: int
    spearman: Sequence[float | None]

    @property
    def shape(self) -> tuple[float, float]:
        """Width and height of the drawing in tokens."""
        rows, cols = self.jano.shape
        count = len(self.steps)
        return cols * (1 + FIRST_GAP + count + GAP * (count - 1)), rows + (BELOW + ABOVE) * max(rows, cols)


def importance_maps(view: AnalysisView) -> ImportanceMaps | None:
    """Of the middle frame; None where the analysis kept no importance over the steps."""
    if "ras_importance_steps" not in view.arrays:
        return None
    frames, rows, cols = view.grid.tokens
    steps = [int(step) for step in view.arrays["ras_steps"]]
    ras = view.shown_tokens(view.arrays["ras_importance_steps"]).reshape(len(steps), frames, rows, cols)[:, frames // 2]
    own, of_step = jano_row(view), {row.get("step"): row for row in ras_rows(view)}
    spearman = [number((row or {}).get("spearman")) for row in (own, *(of_step.get(step) for step in steps))]
    jano = view.token_map("complexity_enhanced")[frames // 2]
    return ImportanceMaps(jano, ras, steps, view.plan.policy.warmup, spearman)


def draw_importance(data: ImportanceMaps, ax: Axes) -> Axes:
    """The JANO map, then a RAS map a step; a colour bar for each of the two scales, the correlation under every map."""
    rows, cols = data.jano.shape
    unit = max(rows, cols)
    ras_left = cols * (1 + FIRST_GAP)
    lefts = [0.0, *(ras_left + at * cols * (1 + GAP) for at in range(len(data.steps)))]
    titles = [f"JANO, {data.warmup} steps", *(f"step {step}" for step in data.steps)]
    norms = [_norm(data.jano), *[_norm(data.ras)] * len(data.steps)]
    cmap = matplotlib.colormaps[SCORE_CMAP].with_extremes(bad=UNKNOWN)
    for left, title, norm, values, rank in zip(lefts, titles, norms, (data.jano, *data.ras), data.spearman, strict=True):
        ax.imshow(cmap(norm(np.ma.masked_invalid(values))), extent=(left, left + cols, rows, 0), interpolation="none")
        ax.text(left, -0.04 * unit, title, va="bottom")
        ax.text(left, rows + 0.05 * unit, "–" if rank is None else f"{rank:+.2f}", va="top", fontweight="bold")
    width, height = data.shape
    ax.set(xlim=(0, width), ylim=(height - ABOVE * unit, -ABOVE * unit), aspect="equal", anchor="NW")
    ax.axis("off")
    _bar(ax, norms[0], 0, cols, rows + 0.27 * unit, data.shape, "complexity")
    _bar(ax, norms[-1], ras_left, 2.16 * cols, rows + 0.27 * unit, data.shape, "RAS importance, all steps")
    return ax


def importance_words(view: AnalysisView) -> str:
    """The number that belongs to the figure: how well either predicts the reuse error of a token."""
    own, rows = jano_row(view), [row for row in ras_rows(view) if number(row.get("spearman")) is not None]
    warmup = view.plan.policy.warmup
    parts = [] if own is None else [f"JANO after {warmup} steps {estimate_words(own, 'spearman')}"]
    if rows:
        worst, best = (pick(rows, key=lambda row: number(row.get("spearman")) or 0.0) for pick in (min, max))
        parts.append(
            f"RAS between {estimate_words(worst, 'spearman')} (step {worst['step']}) and {estimate_words(best, 'spearman')} "
            f"(step {best['step']})"
        )
    return f"Spearman with the reuse error: {'; '.join(parts)}." if parts else "No correlation was measured."


def jano_row(view: AnalysisView) -> Predicts | None:
    """The row of `map_predicts` for the JANO map at the plan's own warm-up."""
    wanted = ("jano", TARGET, view.plan.policy.warmup)
    rows = view.facts["map_predicts"]
    return next((row for row in rows if (row.get("map"), row.get("target"), row.get("warmup")) == wanted), None)


def ras_rows(view: AnalysisView) -> list[Predicts]:
    return [row for row in view.facts.get("ras_predicts") or [] if row.get("target") == TARGET]


def _norm(values: np.ndarray) -> Normalize:
    finite = values[np.isfinite(values)]
    high = float(finite.max()) if finite.size else 1.0
    return Normalize(0.0, high if high > 0 else 1.0)


def _bar(ax: Axes, norm: Normalize, left: float, width: float, top: float, shape: tuple[float, float], words: str) -> None:
    """A colour bar at a place in tokens, `shape` being the drawing's."""
    unit = ax.get_ylim()[0]
    place = ax.inset_axes((left / shape[0], (unit - top) / shape[1] - 0.04, min(width, shape[0] - left) / shape[0], 0.04))
    width_in = ax.figure.get_figure(root=True).get_size_inches()[0] * min(width, shape[0] - left) / shape[0]  # type: ignore[union-attr]
    add_colour_bar(ScalarMappable(norm, SCORE_CMAP), words, place, width_in, room_in=0.0)
