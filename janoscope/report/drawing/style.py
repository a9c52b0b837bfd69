"""One look for every figure: colours of levels and step kinds, axes, and the context in which they hold."""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...plan import StepKind, TokenLevel

INK = "#1b2230"
MUTED = "#5c6675"
UNKNOWN = "#c9ced6"  # what was not measured, or is not finite

# dark to bright, as the maps are: what is computed often is lit. Steps of about 20 in CIE lightness, so that they stay apart in
# grey and under every common colour blindness (tests/report/drawing/test_report_style.py measures both)
LEVEL_COLOUR = {TokenLevel.STATIC: "#1d3a6e", TokenLevel.MODERATE: "#cf5468", TokenLevel.ACTIVE: "#eba52b"}

# a partial step has the colour of the least active level that it computes
KIND_COLOUR = {
    StepKind.WARMUP: "#a3adba",
    StepKind.REFRESH: LEVEL_COLOUR[TokenLevel.STATIC],
    StepKind.MODERATE: LEVEL_COLOUR[TokenLevel.MODERATE],
    StepKind.ACTIVE: LEVEL_COLOUR[TokenLevel.ACTIVE],
    StepKind.REUSE: "#ffffff",
    StepKind.COOLDOWN: "#dde1e7",
}
DARK_KINDS = frozenset({StepKind.REFRESH, StepKind.MODERATE})  # whose letter is written in white

SCORE_CMAP = "magma"  # complexity and importance: no unit
TIME_CMAP = "cividis"  # steps and costs
ERROR_CMAP = "magma"

_RC: dict[str, str | int | float | bool] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that widths are the same everywhere
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 8,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#8b94a1",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": "#e9ecf0",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,  # a prompt may hold dollars
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "janoscope",  # the same data give the same file
    "image.interpolation": "nearest",
}


@contextmanager
def styled() -> Iterator[None]:
    """Our settings while figures are drawn and saved; the caller's are back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)  # type: ignore[arg-type]
        yield


def new_figure(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """A figure of its own with one pair of axes, known to no global state."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.add_subplot()


def new_panel(width_in: float, height_in: float, below_in: float = 0.0) -> tuple[Figure, Axes]:
    """Axes that fill the figure, with room below for a colour bar: pictures side by side get the same size."""
    figure = Figure(figsize=(width_in, height_in + below_in))
    share = below_in / (height_in + below_in)
    return figure, figure.add_axes((0, share, 1, 1 - share))


def add_grid(ax: Axes, axis: str = "y") -> None:
    ax.grid(True, axis=axis)  # type: ignore[arg-type]
    ax.tick_params(length=0, axis=axis)  # type: ignore[arg-type]
