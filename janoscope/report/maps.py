"""Maps over the decoded picture: scores as colour, levels as colour, points as letters. Axes count tokens, rows downward."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_rgb
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ..plan import TokenLevel
from .pictures import fitted, in_grey
from .style import INK, LEVEL_COLOUR, MUTED, SCORE_CMAP, UNKNOWN

LONGEST = 416  # pixels of an embedded picture: sharp at the size shown, and the page stays small
UNDER_LONGEST = 288  # of a picture that only shines through a map
GAP = 0.04  # between the frames of a clip, of a frame's width
BAR_IN, BAR_GAP_IN = 0.085, 0.15  # colour bar: height, and how far its foot lies below the picture
COVER = 0.8  # how much of a map's colour hides the picture under it
LEVEL_COVER = 0.62


@dataclass(frozen=True)
class Marker:
    """A point of interest at a token; `frame` counts the frames shown."""

    name: str
    frame: int
    row: int
    col: int


@dataclass(frozen=True)
class MapPanel:
    """values: (frame, row, col) of tokens. picture: uint8 (frame, row, col, 3) or None. frames: the clip's own numbers of them.

    limits: of the colour scale, the same for panels that are compared.
    """

    values: np.ndarray
    picture: np.ndarray | None
    limits: tuple[float, float]
    quantity: str
    cmap: str = SCORE_CMAP
    frames: Sequence[int] = (0,)


@dataclass(frozen=True)
class LevelPanel:
    """ranks: (frame, row, col) of tokens, 1 static, 2 moderate, 3 active."""

    ranks: np.ndarray
    picture: np.ndarray | None
    frames: Sequence[int] = (0,)


@dataclass(frozen=True)
class PicturePanel:
    """picture: uint8 (frame, row, col, 3). tokens: (rows, cols) that the axes count."""

    picture: np.ndarray
    tokens: tuple[int, int]
    markers: Sequence[Marker] = field(default_factory=tuple)
    frames: Sequence[int] = (0,)


def draw_map(data: MapPanel, ax: Axes) -> Axes:
    """A score as colour over the picture in grey, with a colour bar that carries the quantity. Non-finite values are grey."""
    cmap, norm = matplotlib.colormaps[data.cmap], Normalize(*data.limits)
    colours = cmap(norm(data.values))[..., :3]
    colours[~np.isfinite(data.values)] = to_rgb(UNKNOWN)
    _show(colours, data.picture, COVER, data.frames, ax)
    _add_bar(ScalarMappable(norm, cmap), data.quantity, ax)
    return ax


def draw_levels(data: LevelPanel, ax: Axes) -> Axes:
    """Every token in its level's colour over the picture in grey, with a line wherever the level changes."""
    palette = np.array([to_rgb(LEVEL_COLOUR[level]) for level in TokenLevel])
    _show(palette[data.ranks - 1], data.picture, LEVEL_COVER, data.frames, ax)
    lines = [
        np.add(line, (frame_left(at, ranks.shape[1]), 0)) for at, ranks in enumerate(data.ranks) for line in level_borders(ranks)
    ]
    ax.add_collection(LineCollection(lines, colors="white", linewidths=0.7))
    return ax


def draw_picture(data: PicturePanel, ax: Axes) -> Axes:
    """The picture, or frames of the clip side by side, with letters at the points."""
    rows, cols = data.tokens
    for at, frame in enumerate(data.picture):
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
    bar = ax.figure.colorbar(colours, cax=place, orientation="horizontal", ticks=MaxNLocator(5))
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label(quantity)


def _height_in(ax: Axes) -> float:
    """Of the axes as they will be drawn, which an equal aspect may make lower than their place."""
    box, width, height = ax.get_position(original=True), ax.get_xlim()[1], abs(ax.get_ylim()[0])
    in_figure = ax.figure.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
    return float(min(box.height * in_figure[1], box.width * in_figure[0] * height / width))


def _show(colours: np.ndarray, picture: np.ndarray | None, cover: float, frames: Sequence[int], ax: Axes) -> None:
    """Opaque images: colours (frame, row, col, 3) of tokens mixed with the picture's grey, so that every viewer blends alike."""
    rows, cols = colours.shape[1:3]
    for at, colour in enumerate(colours):
        image = colour if picture is None else _mixed(colour, picture[at], cover)
        _show_frame(np.clip(image, 0, 1), at, rows, cols, ax)
    _frame(ax, frames, rows, cols)


def _mixed(colours: np.ndarray, frame: np.ndarray, cover: float) -> np.ndarray:
    """Colours (row, col, 3) at the picture's resolution over the picture's grey."""
    grey = in_grey(fitted(frame, UNDER_LONGEST))
    at_row = np.arange(grey.shape[0]) * colours.shape[0] // grey.shape[0]
    at_col = np.arange(grey.shape[1]) * colours.shape[1] // grey.shape[1]
    return np.asarray(cover * colours[at_row][:, at_col] + (1 - cover) * grey[..., np.newaxis])


def _show_frame(image: np.ndarray, at: int, rows: int, cols: int, ax: Axes) -> None:
    left = frame_left(at, cols)
    ax.imshow(image, extent=(left, left + cols, rows, 0), interpolation="none")


def _frame(ax: Axes, frames: Sequence[int], rows: int, cols: int) -> Axes:
    """Bare axes around the frames shown; a clip's frames carry their numbers."""
    right, below = frame_left(len(frames) - 1, cols) + cols, float(rows)
    if len(frames) > 1:
        below = rows * 1.1
        for at, frame in enumerate(frames):
            ax.text(frame_left(at, cols), rows * 1.02, f"frame {frame}", va="top", color=MUTED, fontsize=7)
    ax.set(xlim=(0, right), ylim=(below, 0), xticks=[], yticks=[], aspect="equal", anchor="NW")
    ax.spines[:].set_visible(False)
    return ax


def _mark(marker: Marker, rows: int, cols: int, ax: Axes) -> None:
    """A ring at the token, its letter above right; below or left where the picture ends."""
    x, y = frame_left(marker.frame, cols) + marker.col + 0.5, marker.row + 0.5
    ax.plot(x, y, marker="o", markersize=4, markerfacecolor="white", markeredgecolor=INK, markeredgewidth=1.2)
    halo = [withStroke(linewidth=2.4, foreground="white")]
    aside = (-12, 4) if marker.col > 0.9 * cols else (5, 4)
    aside = (aside[0], -11) if marker.row < 0.1 * rows else aside
    ax.annotate(
        marker.name, (x, y), aside, textcoords="offset points", fontweight="bold", fontsize=9, color=INK, path_effects=halo
    )
