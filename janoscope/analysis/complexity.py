"""JANO's complexity map: how much the pairwise distances inside each tile still change over the first steps."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

from ..array_api import AnyArray, Operand
from ..errors import InputError
from ..grid import Triple, tile_grid
from .arrays import as_numpy_on_cpu, to_host
from .enhancement import Enhancement, diffuse_inward
from .tiles import Scratch, cells_of, check_tile, cut, tile_rows

Padding = Literal["count", "exclude"]

# bytes at a time: near a core's cache on the host (Wan's 390 tiles: 96 ms at 2 MiB, 88 at 6), few launches on a device
HOST_BUDGET = 6 << 20
DEVICE_BUDGET = 128 << 20
ZERO_NORM = 1e-6  # official rule of padding="exclude": a vector whose mean norm over the signals is at most this is padding


@dataclass(frozen=True, repr=False, eq=False)
class Complexity:
    """The map of one image or video. All arrays are float32 (tile frame, tile row, tile col).

    `temporal`, `spatial`: mean change of distances, raw. `combined`: their mix, scaled to 0..1 over it. `enhanced`: after
    inward diffusion (may exceed 1); the map that thresholds are read against, equal to `combined` without enhancement.
    `nonfinite`: input values that were NaN or infinite and counted as 0.
    """

    temporal: np.ndarray
    spatial: np.ndarray
    combined: np.ndarray
    enhanced: np.ndarray
    tile: Triple
    grid: Triple
    signals: int
    temporal_weight: float
    padding: Padding
    enhancement: Enhancement | None
    nonfinite: int

    def __repr__(self) -> str:
        low, middle, high = np.quantile(self.enhanced, [0.25, 0.5, 0.75])
        bad = f", {self.nonfinite} non-finite values counted as 0" if self.nonfinite else ""
        return (
            f"<Complexity of {self.signals} signals, {self.grid} tiles of {self.tile} cells, temporal weight "
            f"{self.temporal_weight:g}, padding {self.padding}: quartiles {low:.3f} {middle:.3f} {high:.3f}{bad}>"
        )


def jano_complexity(
    signals: AnyArray,
    tile: Triple,
    *,
    temporal_weight: float = 0.0,
    padding: Padding = "count",
    enhance: Enhancement | None = Enhancement(),  # noqa: B008  frozen
) -> Complexity:
    """Score every tile by how much the distances between its cells change, half the signals apart.

    Computed in float32; fewer than two signals give zeros. For K signals the lag is K // 2. A distance is between two cells'
    channel vectors: of one frame (spatial), or of one place in two frames of the tile (temporal; 0 for single frames). Tiles hang
    over the end of each axis, filled with zeros.

    Args:
        signals: (signal, channel, frame, row, col), NumPy or torch on any device: the first predictions in order (raw flow
            velocity on flow models), after the initial noise where the policy counts it.
        tile: latent cells (frames, rows, cols).
        temporal_weight: share of the temporal map in `combined`, 0..1; the spatial map has the rest.
        padding: `count` takes cells past the edge for data (official, current), `exclude` leaves all-zero vectors out of the
            pairs (official, at publication).
        enhance: inward diffusion; None leaves the map as it is.

    Raises:
        InputError: a wrong shape, tile or option, or values too large for float32 distances.

    JANO, arXiv 2603.00519, sec. 4.2; the details are those of chen-yy20/Jano at 7befec0. On the host distances come from a Gram
    product as there, but with an exact zero between a cell and itself.

    >>> signals = np.zeros((2, 1, 1, 2, 4)); signals[1, 0, 0, :, 3] = 1.0
    >>> jano_complexity(signals, (1, 2, 2), enhance=None).combined.tolist()
    [[[0.0, 1.0]]]
    """
    signals = as_numpy_on_cpu(signals)
    cells = cells_of(signals)
    if padding not in ("count", "exclude"):
        raise InputError(f"padding {padding!r} is unknown; choose count or exclude.")
    if not 0 <= temporal_weight <= 1:
        raise InputError(f"temporal_weight {temporal_weight} must lie in 0..1.")
    tile = check_tile(tile, cells)
    grid = tile_grid(cells, tile)
    temporal, spatial, nonfinite = _raw_maps(signals, tile, padding)
    if not (np.isfinite(temporal).all() and np.isfinite(spatial).all()):
        raise InputError("signals are too large for float32 distances (values near 1e19 or more); check the model's output.")
    temporal, spatial = temporal.reshape(grid), spatial.reshape(grid)
    combined = min_max(np.float32(temporal_weight) * temporal + np.float32(1 - temporal_weight) * spatial)
    enhanced = combined.copy() if enhance is None else diffuse_inward(combined, enhance)
    count = int(signals.shape[0])
    return Complexity(
        temporal, spatial, combined, enhanced, tile, grid, count, float(temporal_weight), padding, enhance, nonfinite
    )


def min_max(values: np.ndarray) -> np.ndarray:
    """Scaled to 0..1 over all values; zeros where all are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _raw_maps(signals: AnyArray, tile: Triple, padding: Padding) -> tuple[np.ndarray, np.ndarray, int]:
    """(tile,) temporal and spatial change, and the count of non-finite values; one wait for the device, at the end."""
    xp = array_namespace(signals)
    count, channels, *cells = (int(size) for size in signals.shape)
    frames, positions = tile[0], tile[1] * tile[2]
    on_host = is_numpy_array(signals)
    budget = HOST_BUDGET if on_host else DEVICE_BUDGET // channels
    line_bytes = count * frames * positions * 4
    # lines of one tile's distances at a time: quarters spare 3/8 of the pairs, thinner bands cost more than they spare
    lines = max(1, min(max(positions // 4, 12), budget // line_bytes))
    temporal, spatial, nonfinite = [], [], xp.zeros((), dtype=xp.int64, device=signals.device)
    scratch = Scratch() if on_host else None
    for row in tile_rows((cells[0], cells[1], cells[2]), tile, longest=max(1, budget // (line_bytes * positions))):
        vectors, bad = _finite(xp, cut(xp, signals, row, tile, scratch))
        nonfinite = nonfinite + bad
        weight = _pair_weight(xp, vectors, padding)
        temporal.append(_temporal_change(xp, vectors, weight, scratch))
        spatial.append(_spatial_change(xp, vectors, weight, lines, scratch))
    maps = to_host(xp.stack([xp.concat(temporal), xp.concat(spatial)]))
    return maps[0], maps[1], int(nonfinite)


def _finite(xp: ModuleType, vectors: Operand) -> tuple[Operand, Operand]:
    # on the host a dot product is the cheaper question, and nearly always the last one; a device must not be asked at all
    if is_numpy_array(vectors) and np.isfinite(np.vdot(vectors, vectors)):
        return vectors, 0
    good = xp.isfinite(vectors)
    return xp.where(good, vectors, xp.zeros_like(vectors)), xp.sum(xp.astype(~good, xp.int64))


def _pair_weight(xp: ModuleType, vectors: Operand, padding: Padding) -> Operand:
    """(tile, frame, position) float32: 1 where a cell takes part in pairs, else 0."""
    if padding == "count":
        return xp.ones_like(vectors[0, :, :, 0])
    norms = xp.mean(xp.sqrt(_squared_norm(xp, vectors)), axis=0)
    return xp.astype(norms > ZERO_NORM, xp.float32)


def _spatial_change(xp: ModuleType, vectors: Operand, weight: Operand, lines: int, scratch: Scratch | None) -> Operand:
    """(signal, tile, frame, channel, position) -> (tile,): pairs of positions within each frame.

    A band of lines meets itself and all that follows; what follows counts twice, once for each order of the pair.
    """
    distances = _direct_distances(xp, vectors) if scratch is None else _gram_distances(vectors, scratch)
    total = xp.zeros_like(weight[..., 0])  # (tile, frame)
    for start in range(0, vectors.shape[-1], lines):
        band = slice(start, start + lines)
        change = _lagged_change(xp, distances(band), scratch)  # (tile, frame, line, rest)
        rest = weight[..., None, start:] * 1
        rest[..., lines:] *= 2
        change *= rest
        total = total + xp.sum(xp.sum(change, axis=-1) * weight[..., band], axis=-1)
    return xp.mean(_per_pair(xp, total, xp.sum(weight, axis=-1)), axis=-1)


def _temporal_change(xp: ModuleType, vectors: Operand, weight: Operand, scratch: Scratch | None) -> Operand:
    """(signal, tile, frame, channel, position) -> (tile,): pairs of frames at each position."""
    total = xp.zeros_like(weight[:, 0])  # (tile, position)
    for apart in range(1, vectors.shape[2]):
        later, earlier = vectors[:, :, apart:], vectors[:, :, :-apart]
        step = later - earlier if scratch is None else np.subtract(later, earlier, out=scratch.array("step", later.shape))
        change = _lagged_change(xp, xp.sqrt(_squared_norm(xp, step)), scratch)  # (tile, frame, position)
        total = total + 2 * xp.sum(change * weight[:, apart:] * weight[:, :-apart], axis=1)  # both orders of a pair
    return xp.mean(_per_pair(xp, total, xp.sum(weight, axis=1)), axis=-1)


def _gram_distances(vectors: np.ndarray, scratch: Scratch) -> Callable[[slice], np.ndarray]:
    """From a band of positions to their distances (..., line, position) to the band's own and all later positions, on the host.

    |x|^2 + |y|^2 - 2 x.y in one product: channels, squared norm and one stacked (18 channels for 16, and no extra pass).
    """
    *lead, channels, positions = vectors.shape
    left, right = scratch.array("stacked", (2, *lead, channels + 2, positions))
    square = _squared_norm(np, vectors)
    np.multiply(vectors, -2, out=left[..., :channels, :])
    left[..., channels, :], left[..., channels + 1, :] = square, 1
    right[..., :channels, :], right[..., channels, :], right[..., channels + 1, :] = vectors, 1, square

    def distances(band: slice) -> np.ndarray:
        lines = left[..., band]
        squared = scratch.array("squared", (*lead, lines.shape[-1], positions - band.start))
        np.matmul(np.matrix_transpose(lines), right[..., band.start :], out=squared)
        flat = squared.reshape(*squared.shape[:-2], -1)
        flat[..., :: squared.shape[-1] + 1] = 0  # the diagonal, where cancellation is worst
        np.abs(flat, out=flat)  # rounding can leave -1e-7; its size is then as good a value as 0
        np.sqrt(flat, out=flat)
        return squared

    return distances


def _direct_distances(xp: ModuleType, vectors: Operand) -> Callable[[slice], Operand]:
    """The same by differences, on an accelerator: a product there may run in TF32, whose rounding would drown the change."""

    def distances(band: slice) -> Operand:
        apart = vectors[..., band, None] - vectors[..., None, band.start :]  # (..., channel, line, position)
        return xp.sqrt(xp.sum(apart * apart, axis=-3))

    return distances


def _squared_norm(xp: ModuleType, vectors: Operand) -> Operand:
    """(..., channel, position) -> (..., position)."""
    if is_numpy_array(vectors):  # spares the squares a pass of their own
        return np.einsum("...cp,...cp->...p", vectors, vectors)
    return xp.sum(vectors * vectors, axis=-2)


def _lagged_change(xp: ModuleType, distances: Operand, scratch: Scratch | None) -> Operand:
    """(signal, ...) -> (...): mean of |D[k + lag] - D[k]| over k; zeros for a single signal."""
    lag = distances.shape[0] // 2
    if lag == 0:
        return xp.zeros_like(distances[0])
    if scratch is None:
        return xp.mean(xp.abs(distances[lag:] - distances[:-lag]), axis=0)
    change, total = scratch.array("change", distances.shape[1:]), scratch.array("total", distances.shape[1:])
    total[...] = 0
    for later, earlier in zip(distances[lag:], distances[:-lag], strict=True):  # one at a time stays in the cache
        np.subtract(later, earlier, out=change)
        total += np.abs(change, out=change)
    total /= len(distances) - lag
    return total


def _per_pair(xp: ModuleType, total: Operand, count: Operand) -> Operand:
    """Sum over ordered pairs, a cell with itself included, over their number; 0 where there are none."""
    return total / xp.where(count > 0, count * count, xp.ones_like(count))
