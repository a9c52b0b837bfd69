"""Latents as a network or scheduler holds them -> tokens (item, token, channel) on a TokenGrid.

Two counts are known of every packed latent: the tokens that the sampler steps, and the pictures that the network was told of.
They are compared here. What the sampler steps is recorded whole or refused; only a network's output is ever cut.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard, cast

import torch

from ..errors import InputError
from ..grid import TokenGrid, Triple
from ..probe import Probe, Tokens

_OWN_LOOP = "Feed a Recorder from your own loop (docs/own-sampler.md)."


def grid_of_call(
    probe: Probe,
    config: Mapping[str, object],
    arguments: Mapping[str, Any],
    sample: torch.Tensor,
    *,
    first_picture: bool = False,
) -> TokenGrid:
    """The token grid of a generation: counts from the arguments of a network call that the probe names, channels from x_t.

    Not from the network's input: image-to-video models append channels of the picture to it. Several pictures of one size that
    are stepped in one latent (Qwen-Image-Layered, VisualCloze) are the frames of the grid, in their order.

    Args:
        sample: x_t as the sampler steps it: (item, token, channel), or unpacked in the family's layout.
        first_picture: the grid of the first picture alone, whatever follows it in `sample`.

    Raises:
        InputError: the tokens of `sample` are not those of the pictures that the network was told of, or the pictures differ in
            size.
    """
    patch = probe.tokens.patch_of(config)
    if probe.tokens.grid == "shape" or not _is_packed(sample):
        channels, *cells = _as_cells(sample, probe.tokens.layout).shape[1:]
        return TokenGrid(channels, _triple(cells), patch)
    pictures = _pictures(probe, arguments)
    tokens = pictures[0] if first_picture else _joined(pictures, sample.shape[1], _network_tokens(probe, arguments))
    cells = [count * size for count, size in zip(tokens, patch, strict=True)]
    return TokenGrid(sample.shape[-1] // math.prod(patch), _triple(cells), patch)


def _is_packed(latent: torch.Tensor | list[torch.Tensor]) -> TypeGuard[torch.Tensor]:
    return not isinstance(latent, list) and latent.ndim == 3


def _triple(values: Any) -> Triple:
    frames, rows, cols = values
    return int(frames), int(rows), int(cols)


def _pictures(probe: Probe, arguments: Mapping[str, Any]) -> list[Triple]:
    """(frames, rows, cols) of every picture that the network was told of, in tokens: the sampler's own, then references."""
    names = {"img_ids": ("img_ids",), "img_shapes": ("img_shapes",)}.get(probe.tokens.grid, ("num_frames", "height", "width"))
    if missing := [name for name in names if arguments.get(name) is None]:
        raise InputError(
            f"the network was called without {', '.join(missing)}, from which the probe {probe.family} reads the token grid; "
            f"this pipeline cannot be recorded with it. {_OWN_LOOP}"
        )
    if probe.tokens.grid == "img_ids":
        return _pictures_of_ids(arguments["img_ids"], probe.tokens.id_columns)[_references_first(probe, arguments) :]
    if probe.tokens.grid == "img_shapes":
        first = arguments["img_shapes"][0]
        return [_triple(shape) for shape in (first if isinstance(first, list) else [first])]
    return [_triple(arguments[name] for name in names)]


def _references_first(probe: Probe, arguments: Mapping[str, Any]) -> int:
    """How many pictures stand before the sampler's own, where the network is told how many tokens they have."""
    count = int(arguments.get(probe.tokens.references_first or "") or 0)
    pictures, skipped = _pictures_of_ids(arguments["img_ids"], probe.tokens.id_columns), 0
    while count > 0:
        count -= math.prod(pictures[skipped])
        skipped += 1
    return skipped


def _pictures_of_ids(ids: torch.Tensor, id_columns: Sequence[int]) -> list[Triple]:
    """Neighbouring tokens whose ids differ in nothing but row and col are one picture."""
    ids = (ids[0] if ids.ndim == 3 else ids).cpu()
    others = [column for column in range(ids.shape[1]) if column not in id_columns]
    begins = (ids[1:, others] != ids[:-1, others]).any(dim=1).nonzero()[:, 0] + 1
    pictures = []
    for run in torch.tensor_split(ids, begins):
        rows, cols = (int(run[:, column].max() - run[:, column].min()) + 1 for column in id_columns)
        if rows * cols != len(run):
            raise InputError(
                f"img_ids names {len(run)} tokens on {rows} rows and {cols} cols; they are no whole picture. {_OWN_LOOP}"
            )
        pictures.append((1, rows, cols))
    return pictures


def _network_tokens(probe: Probe, arguments: Mapping[str, Any]) -> int:
    return int(arguments[probe.tap.input].shape[1])


def _joined(pictures: Sequence[Triple], count: int, given: int) -> Triple:
    """The pictures that the sampler's `count` tokens are, as the frames of one. given: tokens of the network's input."""
    own, total = list[Triple](), 0
    for picture in pictures:
        if total < count:
            own.append(picture)
            total += math.prod(picture)
    told = " + ".join("x".join(map(str, picture)) for picture in pictures)
    if total != count:
        raise InputError(
            f"the sampler steps {count} tokens, and the network was told of {told} (frames x rows x cols) among {given}; where "
            f"these tokens lie cannot be told. {_OWN_LOOP}"
        )
    if len({(rows, cols) for _, rows, cols in own}) > 1:
        raise InputError(
            f"the sampler steps {len(own)} pictures of different sizes in one latent, {told} (frames x rows x cols) tokens; a "
            "recording holds one grid. Give the pictures one size."
        )
    return sum(frames for frames, _, _ in own), own[0][1], own[0][2]


def _as_cells(latent: torch.Tensor | list[torch.Tensor], layout: str) -> torch.Tensor:
    """Any unpacked layout -> (item, channel, frame, row, col). Four axes always mean (item, channel, row, col)."""
    if isinstance(latent, list):
        latent = torch.stack(latent)
    if latent.ndim == 4:
        return latent[:, :, None]
    return latent.permute(0, 2, 1, 3, 4) if layout == "BFCHW" else latent


def to_tokens(latent: torch.Tensor | list[torch.Tensor], layout: str, grid: TokenGrid, signal: str = "latent") -> torch.Tensor:
    """(item, token, channel) of what the sampler steps, or of a network output that was cut to it by `own_output`.

    A second half of channels, learned variance, stays with its half: split it with `split_variance` first.

    Args:
        signal: what the latent is, for the error.

    Raises:
        InputError: the latent has another shape than the grid's.
    """
    if _is_packed(latent):
        _refuse_misfit(latent, (grid.count, grid.token_channels), grid, signal)
        return latent
    cells = _as_cells(latent, layout)
    _refuse_misfit(cells, (grid.channels, *grid.cells), grid, signal)
    return grid.pack(cells)


def _refuse_misfit(latent: torch.Tensor, wanted: tuple[int, ...], grid: TokenGrid, signal: str) -> None:
    if tuple(latent.shape[1:]) != wanted:
        axes = "tokens, channels" if len(wanted) == 2 else "channels, frames, rows, cols"
        raise InputError(
            f"{signal} is {tuple(latent.shape[1:])} ({axes}) for an item, and the grid of {grid.channels} channels, {grid.cells} "
            f"cells in patches of {grid.patch} needs {wanted}; it is not the sampler's latent alone, or the probe is another "
            f"family's. {_OWN_LOOP}"
        )


def own_output(output: Any, tokens: Tokens, grid: TokenGrid) -> Any:
    """The part of a network output that is the sampler's: without reference pictures behind it or given frames before it.

    What cannot be cut is returned as it is; `to_tokens` refuses it.
    """
    if isinstance(output, list):
        return output
    given_first = tokens.given_frames == "first"
    if output.ndim == 3:
        extra = output.shape[1] - grid.count
        if not given_first:
            return output[:, : grid.count]
        frame = grid.tokens[1] * grid.tokens[2]
        return output[:, extra:] if extra > 0 and extra % frame == 0 else output
    if given_first and output.ndim == 5 and output.shape[2] > grid.cells[0]:
        return output[:, :, output.shape[2] - grid.cells[0] :]
    return output


def text_tokens(arguments: Mapping[str, object]) -> int:
    """Length of the text that this network call was given; 0 where it takes none."""
    text = arguments.get("encoder_hidden_states")
    return int(text.shape[1]) if isinstance(text, torch.Tensor) else 0


def output_tensor(output: Any) -> Any:
    """The prediction in what a network returned: a tuple's first, an output object's sample, or the thing itself."""
    if isinstance(output, tuple):
        return output[0]
    return getattr(output, "sample", output)


def split_variance(output: Any, channels: int, layout: str) -> tuple[Any, Any | None]:
    """(prediction, learned variance or None): a network that also learns sigma returns twice the latent's channels.

    Samplers that use the variance are stepped with both halves (DeepFloyd IF).
    """
    if isinstance(output, list) or output.ndim == 3:
        return output, None
    axis = 2 if layout == "BFCHW" and output.ndim == 5 else 1
    if output.shape[axis] != 2 * channels:
        return output, None
    prediction, variance = output.chunk(2, dim=axis)
    return prediction, variance


def prediction_of(output: object) -> torch.Tensor:
    """The prediction in a network's return value: a tuple's first entry, an output object's sample, or the tensor itself."""
    if isinstance(output, tuple):
        first: torch.Tensor = output[0]
        return first
    return cast(torch.Tensor, getattr(output, "sample", output))


def with_prediction(output: object, prediction: torch.Tensor | list[torch.Tensor]) -> object:
    """The same kind of return value with another prediction."""
    if isinstance(output, tuple):
        return (prediction, *output[1:])
    if isinstance(output, torch.Tensor):
        return prediction
    output_class: Callable[..., object] = type(output)
    return output_class(sample=prediction)
