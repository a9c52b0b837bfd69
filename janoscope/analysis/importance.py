"""Token scores that need one or two steps only: RAS importance, velocity change, and the gradient of the x0 estimate."""

from typing import Literal

import numpy as np
from array_api_compat import array_namespace

from ..array_api import AnyArray, Array
from ..errors import InputError
from ..grid import TokenGrid
from .arrays import to_host

Metric = Literal["std", "l2norm"]
LEAST_CHANNELS = 2  # of a latent whose spread over channels is to be taken


def ras_importance(velocity: Array, grid: TokenGrid, *, sigma: float, sigma_next: float, metric: Metric = "std") -> Array:
    """RAS: spread or size of the coming Euler update, (sigma_next - sigma) * velocity, per token.

    Per latent cell the unbiased standard deviation (`std`) or the norm (`l2norm`) over latent channels, then the mean over the
    token's patch. RAS by default skips the tokens with the highest values.

    Args:
        velocity: (..., token, channel) in the order of `grid`, after guidance.
        grid: of the tokens. sigma, sigma_next: of the step and of the one after it. metric: `std` or `l2norm`.

    Returns:
        (..., token) float32 on the same device.

    Raises:
        InputError: another metric, a shape that is not the grid's, or one latent channel with `std`.

    microsoft/RAS at a9c5ec8; Liu et al., "Region-adaptive sampling for diffusion transformers", 2025.
    """
    _check_tokens(velocity, grid)
    if metric not in ("std", "l2norm"):
        raise InputError(f"RAS metric {metric!r} is unknown; choose std or l2norm.")
    if metric == "std" and grid.channels < LEAST_CHANNELS:
        raise InputError(
            f"RAS importance is a spread over latent channels, of which it needs {LEAST_CHANNELS} or more; the grid has "
            f"{grid.channels}. Choose another map, or in Python and in `compare --method ras:metric=l2norm` the metric l2norm."
        )
    xp = array_namespace(velocity)
    update = xp.astype(velocity, xp.float32) * (sigma_next - sigma)
    cells = xp.reshape(update, (*update.shape[:-1], grid.channels, -1))  # (..., token, latent channel, cell of the patch)
    if metric == "std":
        return xp.mean(xp.std(cells, axis=-2, correction=1), axis=-1)
    return xp.mean(xp.sqrt(xp.sum(cells * cells, axis=-2)), axis=-1)


def velocity_change(previous: Array, current: Array) -> Array:
    """Root mean square over channels of current - previous: (..., token, channel) twice -> (..., token) float32, same device."""
    xp = array_namespace(previous, current)
    step = xp.astype(current, xp.float32) - xp.astype(previous, xp.float32)
    return xp.sqrt(xp.mean(step * step, axis=-1))


def gradient_energy(x0: AnyArray, grid: TokenGrid) -> np.ndarray:
    """How much detail an x0 estimate holds at each token: (..., token, channel) -> (..., token) float32 on the host.

    Mean over the token's cells and channels of (d/drow)^2 + (d/dcol)^2, by central differences between latent cells (one-sided at
    the edges, 0 along an axis of one cell); frames are taken one by one. In the squared unit of the latent.
    """
    _check_tokens(x0, grid)
    cells = grid.unpack(to_host(x0).astype(np.float32, copy=False))  # (..., channel, frame, row, col)
    energy = np.zeros_like(cells)
    for axis in (-2, -1):
        if cells.shape[axis] > 1:
            energy += np.gradient(cells, axis=axis) ** 2
    return grid.pack(energy).mean(axis=-1)


def _check_tokens(values: AnyArray, grid: TokenGrid) -> None:
    if tuple(values.shape[-2:]) != (grid.count, grid.token_channels):
        raise InputError(
            f"tokens of shape {tuple(values.shape)} do not fit {grid.count} tokens of {grid.token_channels} channels; "
            f"give (..., token, channel) in the order of the grid."
        )
