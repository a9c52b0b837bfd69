"""Latents as a network or scheduler holds them -> tokens (item, token, channel) on a TokenGrid."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import InputError
from ..grid import TokenGrid, Triple
from ..probe import ProbeSheet


def grid_of_call(sheet: ProbeSheet, config: Mapping[str, Any], arguments: Mapping[str, Any], sample: torch.Tensor) -> TokenGrid:
    """The token grid of a generation: counts from the arguments of a network call that the sheet names, channels from x_t.

    Not from the network's input: image-to-video models append channels of the picture to it.
    """
    patch = sheet.tokens.patch_of(config)
    if sheet.tokens.grid == "shape":
        channels, *cells = _as_cells(sample, sheet.tokens.layout).shape[1:]
        return TokenGrid(channels, _triple(cells), patch)
    tokens = _token_counts(sheet, arguments)
    cells = [count * size for count, size in zip(tokens, patch, strict=True)]
    return TokenGrid(sample.shape[-1] // math.prod(patch), _triple(cells), patch)


def _triple(values: Any) -> Triple:
    frames, rows, cols = values
    return int(frames), int(rows), int(cols)


def _token_counts(sheet: ProbeSheet, arguments: Mapping[str, Any]) -> Triple:
    if sheet.tokens.grid == "img_ids":
        ids = arguments["img_ids"]
        ids = ids[0] if ids.ndim == 3 else ids
        ids = ids[ids[:, 0] == ids[0, 0]]  # reference pictures follow with another first coordinate
        rows, cols = (int(ids[:, column].max()) + 1 for column in sheet.tokens.id_columns)
        return 1, rows, cols
    if sheet.tokens.grid == "img_shapes":
        shapes = arguments["img_shapes"]
        first = shapes[0]
        return _triple(first[0] if isinstance(first, list) else first)
    return _triple(arguments[name] for name in ("num_frames", "height", "width"))


def _as_cells(latent: Any, layout: str) -> torch.Tensor:
    """Any unpacked layout -> (item, channel, frame, row, col). Four axes always mean (item, channel, row, col)."""
    if isinstance(latent, list):
        latent = torch.stack(latent)
    if latent.ndim == 4:
        return latent[:, :, None]
    return latent.permute(0, 2, 1, 3, 4) if layout == "BFCHW" else latent


def to_tokens(latent: Any, layout: str, grid: TokenGrid) -> torch.Tensor:
    """(item, token, channel) from a network output or a scheduler's sample in the family's layout.

    A second half of channels, learned variance, stays with its half: split it with `split_variance` first.
    """
    if not isinstance(latent, list) and latent.ndim == 3:
        if latent.shape[1] < grid.count:
            raise InputError(
                f"the network gave {latent.shape[1]} tokens, the probe sheet's grid {grid.count}; mend its [tokens]."
            )
        return latent[:, : grid.count]  # reference-image tokens, where a pipeline appends some, have no prediction of their own
    return grid.pack(_as_cells(latent, layout))


def text_tokens(arguments: Mapping[str, Any]) -> int:
    """Length of the text that this network call was given; 0 where it takes none."""
    text = arguments.get("encoder_hidden_states")
    return int(text.shape[1]) if isinstance(text, torch.Tensor) else 0


def output_tensor(output: Any) -> Any:
    """The prediction in what a network returned: a tuple's first, an output object's sample, or the thing itself."""
    if isinstance(output, tuple):
        return output[0]
    return getattr(output, "sample", output)


def split_variance(output: Any, channels: int, layout: str) -> tuple[Any, Any | None]:
    """(prediction, learned variance or None): a network that also learns sigma returns twice the latent's channels."""
    axis = 2 if layout == "BFCHW" else 1
    if isinstance(output, list) or output.ndim == 3 or output.shape[axis] != 2 * channels:
        return output, None
    prediction, variance = output.chunk(2, dim=axis)
    return prediction, variance
