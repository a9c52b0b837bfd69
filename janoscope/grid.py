"""TokenGrid: where every token lies. Latent cells <-> (frame, row, col) of tokens <-> flat token.

Tokens are ordered frame, row, col with col fastest; a token's channels are ordered (latent channel, patch frame, patch row,
patch col), the order in which Flux, Qwen-Image and LTX pack their latents. Works on NumPy arrays and torch tensors alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

import numpy as np
from array_api_compat import array_namespace

from .array_api import Array
from .errors import InputError
from .shape import misfit

Triple = tuple[int, int, int]


class GridTable(TypedDict):
    """The shape of a grid in a file, as `from_json` checks it."""

    channels: int
    cells: tuple[int, int, int]
    patch: tuple[int, int, int]


class GridJson(TypedDict):
    """A grid as JSON data."""

    channels: int
    cells: list[int]
    patch: list[int]


@dataclass(frozen=True)
class TokenGrid:
    """A latent of `channels` x `cells` (frames, rows, cols), cut into patches of `patch` cells, one token each.

    >>> grid = TokenGrid(channels=12, cells=(1, 32, 32), patch=(1, 2, 2))
    >>> grid.tokens, grid.count, grid.token_channels
    ((1, 16, 16), 256, 48)
    """

    channels: int
    cells: Triple
    patch: Triple

    def __post_init__(self) -> None:
        if min(self.channels, *self.cells, *self.patch) < 1:
            raise InputError(f"token grid {self} has an empty axis; every size must be at least 1.")
        if any(cell % patch for cell, patch in zip(self.cells, self.patch, strict=True)):
            raise InputError(f"latent of {self.cells} cells does not divide into patches of {self.patch}; choose another size.")

    @property
    def tokens(self) -> Triple:
        """Tokens per axis (frames, rows, cols)."""
        frames, rows, cols = (cell // patch for cell, patch in zip(self.cells, self.patch, strict=True))
        return frames, rows, cols

    @property
    def count(self) -> int:
        return math.prod(self.tokens)

    @property
    def token_channels(self) -> int:
        return self.channels * math.prod(self.patch)

    def pack(self, latent: Array) -> Array:
        """(..., channel, frame, row, col) of cells -> (..., token, token channel)."""
        xp = array_namespace(latent)
        lead = latent.shape[:-4]
        (nf, nr, nc), (pf, pr, pc) = self.tokens, self.patch
        split = xp.reshape(latent, (*lead, self.channels, nf, pf, nr, pr, nc, pc))
        n = len(lead)
        order = (*range(n), n + 1, n + 3, n + 5, n, n + 2, n + 4, n + 6)
        return xp.reshape(xp.permute_dims(split, order), (*lead, self.count, self.token_channels))

    def unpack(self, tokens: Array) -> Array:
        """(..., token, token channel) -> (..., channel, frame, row, col) of cells; the inverse of `pack`."""
        xp = array_namespace(tokens)
        lead = tokens.shape[:-2]
        (nf, nr, nc), (pf, pr, pc) = self.tokens, self.patch
        split = xp.reshape(tokens, (*lead, nf, nr, nc, self.channels, pf, pr, pc))
        n = len(lead)
        order = (*range(n), n + 3, n, n + 4, n + 1, n + 5, n + 2, n + 6)
        return xp.reshape(xp.permute_dims(split, order), (*lead, self.channels, *self.cells))

    def token_at(self, frame: int, row: int, col: int) -> int:
        """Flat index of the token at (frame, row, col), in token units."""
        place = (frame, row, col)
        if any(not 0 <= at < size for at, size in zip(place, self.tokens, strict=True)):
            raise InputError(f"token {place} lies outside the grid of {self.tokens} (frames, rows, cols) tokens.")
        return int(np.ravel_multi_index(place, self.tokens))

    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frame, row and col of every token: three int32 arrays of shape (token,)."""
        frame, row, col = np.unravel_index(np.arange(self.count), self.tokens)
        return frame.astype(np.int32), row.astype(np.int32), col.astype(np.int32)

    def tiles(self, tile: Triple) -> Triple:
        """Tiles per axis when the latent is cut into boxes of `tile` cells; the last of an axis may hang over the edge."""
        return tile_grid(self.cells, tile)

    def to_json(self) -> GridJson:
        """JSON data, which `from_json` reads."""
        return {"channels": self.channels, "cells": list(self.cells), "patch": list(self.patch)}

    @classmethod
    def from_json(cls, data: object) -> "TokenGrid":
        """The inverse of `to_json`; InputError where the data are no grid."""
        if fault := misfit(data, GridTable):
            raise InputError(f"{str(data)[:80]} is no token grid: {fault}.")
        table = cast(GridTable, data)
        return cls(table["channels"], _triple(table["cells"]), _triple(table["patch"]))


def _triple(sizes: Sequence[int]) -> Triple:
    frames, rows, cols = sizes
    return frames, rows, cols


def tile_grid(cells: Triple, tile: Triple) -> Triple:
    """Tiles per axis of a latent of `cells`; the last of an axis may hang over the edge."""
    frames, rows, cols = (-(-cell // size) for cell, size in zip(cells, tile, strict=True))
    return frames, rows, cols
