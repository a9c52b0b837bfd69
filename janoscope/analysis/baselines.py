"""The two baseline tile scores of the official code, bug-compatible with it: what JANO's map is compared against."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
from array_api_compat import array_namespace

from ..array_api import AnyArray, Array, Operand
from ..grid import Triple, tile_grid
from .arrays import as_numpy_on_cpu, to_host
from .tiles import cells_of, check_tile, cut, tile_rows

Score = Callable[[ModuleType, Operand], tuple[Operand, Operand]]  # of (tile, frame, position, channel): two (tile,)


def variance_baseline(signals: AnyArray, tile: Triple) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the signals' mean in each tile, over time and over space.

    `signals` is (signal, channel, frame, row, col); both maps are float32 (tile frame, tile row, tile col). temporal: unbiased
    variance over the tile's frames of the mean over cells and channels, NaN for tiles of one frame. spatial: unbiased variance
    over cells and channels together of the mean over frames. Cells beyond the edge are zeros and count.

    chen-yy20/Jano at 7befec0, which names the two last axes width and height but lays out cells and channels: channels are taken
    for space. This code does the same.
    """
    return _scores(signals, tile, _variance)


def fourier_baseline(signals: AnyArray, tile: Triple) -> tuple[np.ndarray, np.ndarray]:
    """Spectral power of the signals' mean in each tile; shapes, edge and source as in `variance_baseline`.

    temporal: squared mean magnitude of the frames' spectrum, summed over frequencies. spatial: the same for the spectrum along
    cells and channels laid end to end, magnitudes averaged over frames. Unnormalised, zero frequency included, which rules both.
    """
    return _scores(signals, tile, _power)


def _scores(signals: AnyArray, tile: Triple, score: Score) -> tuple[np.ndarray, np.ndarray]:
    signals = as_numpy_on_cpu(signals)
    cells, xp = cells_of(signals), array_namespace(signals)
    tile = check_tile(tile, cells)
    grid = tile_grid(cells, tile)
    parts = []
    for row in tile_rows(cells, tile, longest=grid[2]):
        mean = xp.mean(cut(xp, signals, row, tile), axis=0)  # (tile, frame, channel, position)
        parts.append(xp.stack(score(xp, xp.permute_dims(mean, (0, 1, 3, 2)))))
    temporal, spatial = to_host(xp.concat(parts, axis=1)).astype(np.float32)
    return temporal.reshape(grid), spatial.reshape(grid)


def _variance(xp: ModuleType, block: Array) -> tuple[Array, Array]:
    """(tile, frame, position, channel) -> two (tile,)."""
    over_frames = xp.mean(block, axis=(2, 3))
    flat = xp.reshape(xp.mean(block, axis=1), (block.shape[0], -1))
    one_frame = block.shape[1] == 1
    temporal = over_frames[:, 0] * xp.nan if one_frame else xp.var(over_frames, axis=1, correction=1)
    return temporal, xp.var(flat, axis=1, correction=1)


def _power(xp: ModuleType, block: Array) -> tuple[Array, Array]:
    tiles, frames = block.shape[:2]
    temporal = xp.mean(xp.abs(xp.fft.rfft(block, axis=1)), axis=(2, 3))  # (tile, frequency)
    spatial = xp.mean(xp.abs(xp.fft.rfft(xp.reshape(block, (tiles, frames, -1)), axis=2)), axis=1)
    return xp.sum(temporal**2, axis=1), xp.sum(spatial**2, axis=1)
