"""Points of interest: named tokens whose curves are drawn, given by the user or chosen from the map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..grid import TokenGrid
from ..plan import Plan

NAMES = "ABCD"


@dataclass(frozen=True)
class Point:
    """A token with a name; frame, row, col in token units."""

    name: str
    frame: int
    row: int
    col: int
    token: int

    def to_json(self, plan: Plan) -> dict[str, Any]:
        place = {"name": self.name, "frame": self.frame, "row": self.row, "col": self.col}
        return place | {"token": self.token, "level": str(plan.token_level[self.token])}


def choose_points(given: Sequence[str], scores: np.ndarray, grid: TokenGrid) -> list[Point]:
    """The points the user gave, else A-D: the tokens at the lowest, third, two thirds and highest score (token,)."""
    if given:
        return [_parse(text, grid) for text in given]
    order = np.argsort(scores, kind="stable")
    chosen = [int(order[round(share * (len(order) - 1))]) for share in (0, 1 / 3, 2 / 3, 1)]
    frame, row, col = grid.places()
    return [Point(name, int(frame[t]), int(row[t]), int(col[t]), t) for name, t in zip(NAMES, chosen, strict=True)]


def _parse(text: str, grid: TokenGrid) -> Point:
    name, equals, place = text.partition("=")
    parts = place.split(",")
    if not equals or not name or len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise InputError(f"--point {text}: NAME=frame,row,col is needed, in tokens from 0, for example A=0,3,12.")
    frame, row, col = (int(part) for part in parts)
    return Point(name, frame, row, col, grid.token_at(frame, row, col))


def reduce_channels(values: np.ndarray, reduction: str) -> np.ndarray:
    """(..., channel) -> (...): `mean`, `rms` or `channel:K`."""
    if reduction == "mean":
        return values.mean(axis=-1)
    if reduction == "rms":
        return np.sqrt(np.square(values).mean(axis=-1))
    kind, _, index = reduction.partition(":")
    if kind == "channel" and index.isdigit() and int(index) < values.shape[-1]:
        return values[..., int(index)]
    raise InputError(f"--reduce {reduction} is unknown; legal: mean, rms, channel:K with K from 0 to {values.shape[-1] - 1}.")
