"""An early map against an outcome: one dot a token."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from ...plan import TokenLevel
from .style import INK, LEVEL_COLOUR, add_grid

MOST_DOTS = 4000  # more say nothing more and make the page heavy


@dataclass(frozen=True)
class MapPredicts:
    """score, outcome, ranks: (token,). spearman: rank correlation and its interval as text, from the analysis."""

    score: np.ndarray
    outcome: np.ndarray
    ranks: np.ndarray
    score_quantity: str
    outcome_quantity: str
    spearman: str = ""


def draw_map_predicts(data: MapPredicts, ax: Axes) -> Axes:
    """A dot a token in its level's colour; every n-th token where there are too many, tokens without an outcome left out."""
    stride = -(-data.score.size // MOST_DOTS)
    known = np.isfinite(data.score) & np.isfinite(data.outcome) & (np.arange(data.score.size) % stride == 0)
    for level in TokenLevel:
        chosen = known & (data.ranks == level.rank)
        if chosen.any():
            ax.scatter(
                data.score[chosen], data.outcome[chosen], s=9, color=LEVEL_COLOUR[level], alpha=0.55, linewidths=0,
                label=level.value, rasterized=True,
            )  # fmt: skip
    ax.set_xlabel(data.score_quantity)
    ax.set_ylabel(data.outcome_quantity)
    add_grid(ax, "both")
    ax.annotate(data.spearman, (1, 1), (0, 4), "axes fraction", "offset points", ha="right", color=INK, fontweight="bold")
    return ax
