"""Points of interest: named tokens whose curves are drawn, chosen by the user or from the map."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...grid import TokenGrid
from ...plan import Plan

NAMES = "ABCD"


@dataclass(frozen=True)
class Point:
    """A token with a name; frame, row, col in token units."""

    name: str
    frame: int
    row: int
    col: int
    token: int

    def to_json(self, plan: Plan) -> dict[str, object]:
        place = {"name": self.name, "frame": self.frame, "row": self.row, "col": self.col}
        return place | {"token": self.token, "level": str(plan.token_level[self.token])}


def parse_points(texts: Sequence[str], grid: TokenGrid) -> list[Point]:
    """The points of the command line, `NAME=frame,row,col`. Raises InputError for a malformed one, one outside, a name twice."""
    points = [_parse(text, grid) for text in texts]
    names = [point.name for point in points]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"--point {', '.join(twice)} is given twice; every point needs a name of its own.")
    return points


def choose_points(scores: np.ndarray, grid: TokenGrid) -> list[Point]:
    """A-D, the tokens at the lowest, third, two thirds and highest score (token,) of one frame.

    Of a video the frame whose scores differ most, the middle one of equals: a figure then shows all points at once.
    """
    frames = np.asarray(scores).reshape(grid.tokens[0], -1)
    widest = np.flatnonzero(np.isclose(np.ptp(frames, axis=1), np.ptp(frames, axis=1).max()))
    frame = int(widest[len(widest) // 2])
    order = np.argsort(frames[frame], kind="stable")
    chosen = [int(order[round(share * (len(order) - 1))]) for share in (0, 1 / 3, 2 / 3, 1)]
    cols = grid.tokens[2]
    return [_point(name, frame, at // cols, at % cols, grid) for name, at in zip(NAMES, chosen, strict=True)]


def point_frames(points: Sequence[Point], grid: TokenGrid) -> list[int]:
    """The two token frames of figure 1: of points in one frame that frame and its neighbour, else the first two with points."""
    frames = sorted({point.frame for point in points})
    last = grid.tokens[0] - 1
    if len(frames) == 1 and last > 0:
        neighbour = frames[0] + 1 if frames[0] < last else frames[0] - 1
        return sorted([frames[0], neighbour])
    return frames[:2]


def _point(name: str, frame: int, row: int, col: int, grid: TokenGrid) -> Point:
    return Point(name, frame, row, col, grid.token_at(frame, row, col))


def _parse(text: str, grid: TokenGrid) -> Point:
    name, equals, place = text.partition("=")
    parts = [part.strip() for part in place.split(",")]
    if not equals or not name.strip() or len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise InputError(f"--point {text}: NAME=frame,row,col is needed, in tokens from 0, for example A=0,3,12.")
    frame, row, col = (int(part) for part in parts)
    return _point(name.strip(), frame, row, col, grid)


def reduce_channels(values: np.ndarray, reduction: str) -> np.ndarray:
    """(..., channel) -> (...): `mean`, `rms` or `channel:K`."""
    check_reduction(reduction, values.shape[-1])
    if reduction == "mean":
        return np.asarray(values.mean(axis=-1))
    if reduction == "rms":
        return np.sqrt(np.square(values).mean(axis=-1))
    return np.asarray(values[..., int(reduction.partition(":")[2])])


def check_reduction(reduction: str, channels: int) -> None:
    """Raise InputError for a reduction that a token of so many channels does not have."""
    kind, _, index = reduction.partition(":")
    if reduction not in ("mean", "rms") and not (kind == "channel" and index.isdecimal() and int(index) < channels):
        raise InputError(f"--reduce {reduction} is unknown; legal: mean, rms, channel:K with K from 0 to {channels - 1}.")
