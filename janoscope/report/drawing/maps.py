"""Maps beside the decoded image: scores as colour, levels as colour, points as letters. Axes count tokens, rows downward.

A map is drawn pure: what is blended with an image has colours that its colour bar does not hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_rgb
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator

from ...plan import TokenLevel
from .images import fitted
from .style import INK, LEVEL_COLOUR, MUTED, SCORE_CMAP, UNKNOWN

LONGEST = 416  # pixels of an embedded image: sharp at the size shown, and the page stays small
GAP = 0.04  # between the frames of a video, of a frame's width
BAR_IN, BAR_GAP_IN = 0.085, 0.15  # colour bar: height, and how far its foot lies below the image
LETTER_IN = 0.68 * 7.5 / 72  # width of a digit in a tick label, with a little room
MOST_TICKS = 5


@dataclass(frozen=True)
class Marker:
    """A point of interest at a token; `frame` counts the frames shown."""

    name: str
    frame: int
    row: int
    col: int


@dataclass(frozen=True)
class MapPanel:
    """values: (frame, row, col) of tokens. frames: the video's own numbers of them.

    limits: of the colour scale, the same for panels that are compared.
    """

    values: np.ndarray
    limits: tuple[float, float]
    quantity: str
    cmap: str = SCORE_CMAP
    frames: Sequence[int] = (0,)


@dataclass(frozen=True)
class LevelPanel:
    """ranks: (frame, row, col) of tokens, 1 static, 2 moderate, 3 active."""

    ranks: np.ndarray
    frames: Sequence[int] = (0,)


@dataclass(frozen=True)
class PicturePanel:
    """image: uint8 (frame, row, col, 3). tokens: (rows, cols) that the axes count."""

    image: np.ndarray
    tokens: tuple[int, int]
    markers: Sequence[Marker] = field(default_factory=tuple)
    frames: Sequence[int] = (0,)


def draw_map(data: MapPanel, ax: Axes) -> Axes:
    """A score as colour, with a colour bar that carries the quantity. Non-finite values are grey."""
    cmap, norm = matplotlib.colormaps[data.cmap], Normalize(*data.limits)
    colours = cmap(norm(data.values))[..., :3]
    colours[~np.isfinite(data.values)] = to_rgb(UNKNOWN)
    _show(colours, data.frames, ax)
    _add_bar(ScalarMappable(norm, cmap), data.quantity, ax)
    return ax


def draw_levels(data: LevelPanel, ax: Axes) -> Axes:
    """Every token in its level's colour, with a line wherever the level changes."""
    palette = np.array([to_rgb(LEVEL_COLOUR[level]) for level in TokenLevel])
    _show(palette[data.ranks - 1], data.frames, ax)
    lines = [
        np.add(line, (frame_left(at, ranks.shape[1]), 0)) for at, ranks in enumerate(data.ranks) for line in level_borders(ranks)
    ]
    ax.add_collection(LineCollection(lines, colors="white", linewidths=0.7))
    return ax


def draw_picture(data: PicturePanel, ax: Axes) -> Axes:
    """The image, or frames of the video side by side, with letters at the points."""
    rows, cols = data.tokens
    for at, frame in enumerate(data.image):
        _show_frame(fitted(frame, LONGEST), at, rows, cols, ax)
    for marker in data.markers:
        _mark(marker, rows, cols, ax)
    return _frame(ax, data.frames, rows, cols)


def frame_left(at: int, cols: int) -> float:
    """Where the n-th frame shown begins on the x axis, in tokens."""
    return at * cols * (1 + GAP)


def level_borders(ranks: np.ndarray) -> list[np.ndarray]:
    """Unit line segments ((x, y), (x, y)) between neighbouring tokens (row, col) of different level."""
    rows, cols = np.nonzero(ranks[1:] != ranks[:-1])
    level = [np.array([(col, row + 1), (col + 1, row + 1)], dtype=float) for row, col in zip(rows, cols, strict=True)]
    rows, cols = np.nonzero(ranks[:, 1:] != ranks[:, :-1])
    return level + [np.array([(col + 1, row), (col + 1, row + 1)], dtype=float) for row, col in zip(rows, cols, strict=True)]


def _add_bar(colours: ScalarMappable, quantity: str, ax: Axes) -> None:
    """A colour bar inside the axes' own width, so that panels with and without one stay the same size."""
    place = ax.inset_axes((0.06, -BAR_GAP_IN / _height_in(ax), 0.88, BAR_IN / _height_in(ax)))
    width = _width_in(ax)
    add_colour_bar(colours, quantity, place, 0.88 * width, room_in=0.06 * width)


def add_colour_bar(colours: ScalarMappable, quantity: str, place: Axes, width_in: float, room_in: float) -> None:
    """A colour bar in these axes, its label below.

    Ticks stand as close as their labels allow. A label at either end that would reach further than `room_in` beside the bar,
    where the drawing ends, is set inward.
    """
    bar = place.figure.colorbar(colours, cax=place, orientation="horizontal")
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label(quantity)
    low, high = (float(np.asarray(end)) for end in (colours.norm.vmin or 0.0, colours.norm.vmax or 1.0))
    values = _ticks(low, high, width_in)
    bar.set_ticks(values, labels=[_plain(value) for value in values])
    bar.ax.xaxis.set_minor_locator(NullLocator())
    for value, label in zip(values, bar.ax.get_xticklabels(), strict=True):
        from_left, half = width_in * (value - low) / (high - low), len(label.get_text()) * LETTER_IN / 2
        if from_left + room_in < half:
            label.set_horizontalalignment("left")
        elif width_in - from_left + room_in < half:
            label.set_horizontalalignment("right")


def _ticks(low: float, high: float, width_in: float) -> list[float]:
    """Round values inside the scale, at most as many as have room for their labels."""
    inside: list[float] = []
    for most in range(MOST_TICKS, 1, -1):
        ticks = MaxNLocator(most).tick_values(low, high)
        slack = 1e-9 * (high - low)
        inside = [float(value) for value in ticks if low - slack <= value <= high + slack]
        if sum(len(_plain(value)) + 1 for value in inside) * LETTER_IN < width_in:
            break
    return inside


def _plain(value: float) -> str:
    """A tick's number, whole in its own label: no factor that stands apart from the bar."""
    return f"{value:.4g}"


def _height_in(ax: Axes) -> float:
    """Of the axes as they will be drawn, which an equal aspect may make lower than their place."""
    return _width_in(ax) * abs(ax.get_ylim()[0]) / ax.get_xlim()[1]


def _width_in(ax: Axes) -> float:
    box, width, height = ax.get_position(original=True), ax.get_xlim()[1], abs(ax.get_ylim()[0])
    in_figure = ax.figure.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
    return float(min(box.height * in_figure[1] * width / height, box.width * in_figure[0]))


def _show(colours: np.ndarray, frames: Sequence[int], ax: Axes) -> None:
    """Opaque images: colours (frame, row, col, 3) of tokens."""
    rows, cols = colours.shape[1:3]
    for at, colour in enumerate(colours):
        _show_frame(np.clip(colour, 0, 1), at, rows, cols, ax)
    _frame(ax, frames, rows, cols)


def _show_frame(image: np.ndarray, at: int, rows: int, cols: int, ax: Axes) -> None:
    left = frame_left(at, cols)
    ax.imshow(image, extent=(left, left + cols, rows, 0), interpolation="none")


def _frame(ax: Axes, frames: Sequence[int], rows: int, cols: int) -> Axes:
    """Bare axes around the frames shown; a video's frames carry their numbers."""
    right, below = frame_left(len(frames) - 1, cols) + cols, float(rows)
    if len(frames) > 1:
        below = rows * 1.1
        for at, frame in enumerate(frames):
            ax.text(frame_left(at, cols), rows * 1.02, f"frame {frame}", va="top", color=MUTED, fontsize=7)
    ax.set(xlim=(0, right), ylim=(below, 0), xticks=[], yticks=[], aspect="equal", anchor="NW")
    ax.spines[:].set_visible(False)
    return ax


def _mark(marker: Marker, rows: int, cols: int, ax: Axes) -> None:
    """A ring at the token, its letter above right; below or left where the image ends."""
    x, y = frame_left(marker.frame, cols) + marker.col + 0.5, marker.row + 0.5
    ax.plot(x, y, marker="o", markersize=4, markerfacecolor="white", markeredgecolor=INK, markeredgewidth=1.2)
    halo = [withStroke(linewidth=2.4, foreground="white")]
    aside = (-12, 4) if marker.col > 0.9 * cols else (5, 4)
    aside = (aside[0], -11) if marker.row < 0.1 * rows else aside
    ax.annotate(
        marker.name, (x, y), aside, textcoords="offset points", fontweight="bold", fontsize=9, color=INK, path_effects=halo
    )
