"""Tiles: boxes of latent cells, and the way between a value a tile, a cell and a token."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from ..array_api import AnyArray, Operand
from ..errors import InputError
from ..grid import TokenGrid, Triple, tile_grid


@dataclass(frozen=True)
class TileRow:
    """Neighbouring tiles of one row: where their cells lie, and how many cells hang over the latent's edge."""

    frames: slice
    rows: slice
    cols: slice
    count: int


class Scratch:
    """Host arrays that serve again for every row of tiles: fresh ones cost more in page faults than what is done in them."""

    def __init__(self) -> None:
        self._memory: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Uninitialised float32 of this shape, in the memory that the name had before; an earlier array of the name is lost."""
        size = math.prod(shape)
        if name not in self._memory or self._memory[name].size < size:
            self._memory[name] = np.empty(size, dtype=np.float32)
        return self._memory[name][:size].reshape(shape)


def check_tile(tile: Triple, cells: Triple) -> Triple:
    """The tile as three ints; raises `InputError` where it cannot cut a latent of these cells."""
    if len(tile) != 3 or min(tile) < 1:
        raise InputError(f"tile {tuple(tile)} must be three positive numbers of latent cells (frames, rows, cols).")
    if cells[0] == 1 and tile[0] != 1:
        raise InputError(f"tile {tuple(tile)} spans {tile[0]} frames but the latent has one; use a tile of 1 frame.")
    frames, rows, cols = map(int, tile)
    return frames, rows, cols


def cells_of(signals: AnyArray) -> Triple:
    """Frames, rows and cols of (signal, channel, frame, row, col); raises `InputError` for another or an empty shape."""
    if signals.ndim != 5 or 0 in signals.shape:
        raise InputError(f"signals must be (signal, channel, frame, row, col) and hold values, got shape {tuple(signals.shape)}.")
    frames, rows, cols = map(int, signals.shape[2:])
    return frames, rows, cols


def tile_rows(cells: Triple, tile: Triple, longest: int) -> Iterator[TileRow]:
    """Rows of at most `longest` tiles, in tile order (frame, row, col; col fastest)."""
    (bt, bh, bw), (nt, nh, nw) = tile, tile_grid(cells, tile)
    for t in range(nt):
        for h in range(nh):
            for w in range(0, nw, longest):
                count = min(longest, nw - w)
                yield TileRow(slice(t * bt, t * bt + bt), slice(h * bh, h * bh + bh), slice(w * bw, (w + count) * bw), count)


def cut(xp: ModuleType, signals: AnyArray, row: TileRow, tile: Triple, scratch: Scratch | None = None) -> Operand:
    """One row of tiles, float32, zeros past the edge; on the host in `scratch`, where given.

    (signal, channel, frame, row, col) -> (signal, tile, frame, channel, position).
    """
    bt, bh, bw = tile
    box = xp.astype(signals[:, :, row.frames, row.rows, row.cols], xp.float32, copy=False)
    k, c = box.shape[:2]
    whole = (k, c, bt, bh, row.count * bw)
    if tuple(box.shape) != whole:
        padded = xp.zeros(whole, dtype=xp.float32, device=signals.device)
        padded[:, :, : box.shape[2], : box.shape[3], : box.shape[4]] = box
        box = padded
    if scratch is not None and box.strides[-1] == box.itemsize:
        return _copied(box, row, tile, scratch)
    split = xp.permute_dims(xp.reshape(box, (k, c, bt, bh, row.count, bw)), (0, 4, 2, 1, 3, 5))
    return xp.reshape(split, (k, row.count, bt, c, bh * bw))


def _copied(box: np.ndarray, row: TileRow, tile: Triple, scratch: Scratch) -> np.ndarray:
    """`cut` of a box whose columns lie side by side: a tile's line of cells moves as one item, twice as fast as cell by cell."""
    (bt, bh, bw), (k, c) = tile, box.shape[:2]
    line = f"V{bw * box.itemsize}"
    copied = scratch.array("cut", (k, row.count, bt, c, bh, bw))
    copied.view(line)[..., 0] = box.view(line).transpose(0, 4, 2, 1, 3)
    return copied.reshape(k, row.count, bt, c, bh * bw)


def tile_means(token_values: np.ndarray, grid: TokenGrid, tile: Triple) -> np.ndarray:
    """Mean of a token map (token,) over each tile's cells -> (tile frame, tile row, tile col) float64.

    A token counts with the number of its cells that lie inside the tile; cells beyond the edge do not count.
    """
    tile = check_tile(tile, grid.cells)
    values = _cells(np.asarray(token_values, dtype=np.float64), grid)
    sums, counts = _tile_sums(values, tile), _tile_sums(np.ones(grid.cells), tile)
    return sums / counts


def token_means(tile_values: np.ndarray, grid: TokenGrid, tile: Triple) -> np.ndarray:
    """Mean of a tile map (tile frame, tile row, tile col) over each token's cells -> (token,) float64."""
    tile = check_tile(tile, grid.cells)
    if tile_values.shape != grid.tiles(tile):
        raise InputError(f"tile map of shape {tile_values.shape} does not fit {grid.tiles(tile)} tiles of {tile} cells.")
    cells = np.asarray(tile_values, dtype=np.float64)
    for axis, (size, cell) in enumerate(zip(tile, grid.cells, strict=True)):
        cells = np.repeat(cells, size, axis=axis).take(range(cell), axis=axis)
    return _tile_sums(cells, grid.patch).ravel() / np.prod(grid.patch)


def tile_of_tokens(grid: TokenGrid, tile: Triple) -> np.ndarray:
    """(token,) flat index of the tile that holds each token's first cell: groups for resampling."""
    tile = check_tile(tile, grid.cells)
    places = [place * patch // size for place, patch, size in zip(grid.places(), grid.patch, tile, strict=True)]
    return np.ravel_multi_index(places, grid.tiles(tile))


def _cells(token_values: np.ndarray, grid: TokenGrid) -> np.ndarray:
    if token_values.shape != (grid.count,):
        raise InputError(f"token map of shape {token_values.shape} does not fit a grid of {grid.count} tokens.")
    cells = token_values.reshape(grid.tokens)
    for axis, patch in enumerate(grid.patch):
        cells = np.repeat(cells, patch, axis=axis)
    return cells


def _tile_sums(cells: np.ndarray, tile: Triple) -> np.ndarray:
    for axis, size in enumerate(tile):
        cells = np.add.reduceat(cells, np.arange(0, cells.shape[axis], size), axis=axis)
    return cells
