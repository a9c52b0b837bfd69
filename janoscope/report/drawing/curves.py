"""Curves over the steps: predictions at the points, before and after conversion, and how fast each level's tokens settle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ...plan import TokenLevel
from .style import INK, LEVEL_COLOUR, MUTED, add_grid

DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))  # lines of one level stay apart, in grey as well
BAND = (0.1, 0.9)
LEAST_GAP = 0.075  # between two end labels, of the axes' height


@dataclass(frozen=True)
class Separation:
    """How well a signal separates static from active tokens: area under the ROC curve, 0.5 is chance."""

    auroc: float | None
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        if self.auroc is None:
            return "AUROC not defined"
        between = "" if self.interval is None else f" [{self.interval[0]:.2f}, {self.interval[1]:.2f}]"
        return f"AUROC {self.auroc:.2f}{between}"


@dataclass(frozen=True)
class ProbeCurves:
    """values: (point, step). levels: one a point. quantity: the axis label, with its unit."""

    names: Sequence[str]
    levels: Sequence[TokenLevel]
    values: np.ndarray
    quantity: str
    separation: Separation


@dataclass(frozen=True)
class Convergence:
    """values: (step, token), a distance that falls. ranks: (token,). first_step: the step of the first row.

    bands: (low, median, high) x step by level name and `all`, where the analysis has stored them; else they are taken of values.
    """

    values: np.ndarray
    ranks: np.ndarray
    quantity: str
    first_step: int = 0
    steps: int = 0
    cached: tuple[int, int] | None = None  # steps between warm-up and cool-down: [first, end)
    tolerance: float | None = None
    bands: Mapping[str, np.ndarray] | None = None


def draw_probe_curves(data: ProbeCurves, ax: Axes) -> Axes:
    """One line a point over the steps, its letter at the line's end, the separation in the upper corner."""
    steps = np.arange(data.values.shape[1])
    for at, (name, level) in enumerate(zip(data.names, data.levels, strict=True)):
        ax.plot(steps, data.values[at], color=LEVEL_COLOUR[level], linestyle=DASHES[at % len(DASHES)], label=name)
    ax.set_ylabel(data.quantity)
    step_axis(ax, 0, len(steps))
    add_grid(ax)
    _label_ends(data, ax)
    ax.annotate(str(data.separation), (1, 1), (0, 4), "axes fraction", "offset points", ha="right", color=INK, fontweight="bold")
    return ax


def draw_convergence(data: Convergence, ax: Axes) -> Axes:
    """A level's median token as a line and its middle 80 % as a band, on a log scale."""
    steps = data.first_step + np.arange(len(data.values))
    for level, (low, middle, high) in level_quantiles(data).items():
        fill_band(steps, low, high, LEVEL_COLOUR[level], ax)
        ax.plot(steps, middle, color=LEVEL_COLOUR[level], label=level.value)
    if data.bands is not None and "all" in data.bands:
        ax.plot(steps, data.bands["all"][1], color=INK, linewidth=1, linestyle=(0, (1.2, 1.4)), label="all")
    if data.cached is not None:
        ax.axvspan(data.cached[0] - 0.5, data.cached[1] - 0.5, color="#f2f4f7", zorder=0, linewidth=0)
    if data.tolerance is not None:
        ax.axhline(data.tolerance, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
        ax.annotate(
            "tolerance",
            (1, data.tolerance),
            (0, 2),
            ax.get_yaxis_transform(),
            "offset points",
            ha="right",
            color=MUTED,
            fontsize=7,
        )
    log_axis(data.values, ax)
    ax.set_ylabel(data.quantity)
    step_axis(ax, 0, data.steps or int(steps[-1]) + 1)
    add_grid(ax)
    ax.legend(
        frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, handlelength=1.4, columnspacing=1.2
    )
    return ax


def level_quantiles(data: Convergence) -> Mapping[TokenLevel, np.ndarray]:
    """(low, median, high) x step for every level that has tokens; values that are not finite are left out of a step."""
    if data.bands is not None:
        return {level: data.bands[level.value] for level in TokenLevel if level.value in data.bands}
    found = {}
    for level in TokenLevel:
        values = data.values[:, data.ranks == level.rank]
        if values.size:
            found[level] = np.stack([_quantiles(row) for row in values], axis=1)
    return found


def _quantiles(row: np.ndarray) -> np.ndarray:
    finite = row[np.isfinite(row)]
    return np.quantile(finite, (BAND[0], 0.5, BAND[1])) if finite.size else np.full(3, np.nan)


def fill_band(steps: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, ax: Axes) -> None:
    """A band for a log scale, which has no place for 0: it ends where all of it is 0, and elsewhere reaches down to its least."""
    positive = np.concatenate([low[low > 0], high[high > 0]])
    if not positive.size:
        return
    shown = high > 0  # the last x0 estimate has no distance to itself
    ax.fill_between(steps, np.maximum(low, positive.min()), high, where=list(shown), color=colour, alpha=0.16, linewidth=0)


def log_axis(values: np.ndarray, ax: Axes) -> None:
    """A log scale with plain numbers, where any value is positive."""
    if not (values > 0).any():
        return
    narrow = _decades(values) < 2.5
    ax.set_yscale("log", nonpositive="mask")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _decades(values: np.ndarray) -> float:
    """Powers of ten between the lowest and highest tenth of the positive values."""
    low, high = np.quantile(values[np.isfinite(values) & (values > 0)], BAND)
    return float(np.log10(high / low))


def step_axis(ax: Axes, first: int, end: int) -> None:
    """Whole steps from `first` to before `end`."""
    ax.set_xlim(first - 0.5, end - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("step")


def _label_ends(data: ProbeCurves, ax: Axes) -> None:
    """Letters right of the lines' last values, pushed apart where they would overlap."""
    ends = [(row[np.isfinite(row)][-1], at) for at, row in enumerate(data.values) if np.isfinite(row).any()]
    low, high = ax.get_ylim()
    shown = -np.inf
    for value, at in sorted(ends):
        shown = max((value - low) / (high - low), shown + LEAST_GAP)
        ax.annotate(
            data.names[at],
            (1, shown),
            (4, 0),
            "axes fraction",
            "offset points",
            va="center",
            fontweight="bold",
            color=LEVEL_COLOUR[data.levels[at]],
            annotation_clip=False,
        )
