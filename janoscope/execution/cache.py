"""What one guidance branch keeps between steps: keys and values of every attention, and the last output of every token."""

from typing import Any

import torch


class BranchCache:
    """Buffers in the model's dtype, full length, original token order; computed rows are written over in place.

    Full-length buffers make masks and rotary positions need no permutation, and allocate nothing after the first refresh.
    """

    def __init__(self) -> None:
        self._keys_values: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._masks: dict[str, torch.Tensor | None] = {}
        self._output_rows: torch.Tensor | None = None
        self._output: Any = None
        self.input_shapes: Any = None

    @property
    def bytes(self) -> int:
        """Device bytes of keys and values."""
        return sum(t.numel() * t.element_size() for pair in self._keys_values.values() for t in pair)

    @property
    def is_filled(self) -> bool:
        """Whether a refresh has been stored."""
        return self._output_rows is not None

    def store(self, layer: str, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Keep a refresh's keys and values, (item, head, token, channel). Cloned: with fused projections they are views of all three."""
        self._keys_values[layer] = (key.clone(), value.clone())
        self._masks[layer] = mask

    def update(self, layer: str, rows: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the computed rows and give all keys and values."""
        keys, values = self._keys_values[layer]
        keys.index_copy_(2, rows, key)
        values.index_copy_(2, rows, value)
        return keys, values

    def mask(self, layer: str, rows: torch.Tensor) -> torch.Tensor | None:
        """The refresh's mask for the computed queries, where a block made its mask from the shortened sequence."""
        mask = self._masks[layer]
        if mask is not None and mask.ndim == 4 and mask.shape[-2] > 1:
            return mask.index_select(-2, rows)
        return mask

    def store_output(self, rows: torch.Tensor) -> None:
        self._output_rows = rows.clone()

    def update_output(self, index: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Write the computed tokens' outputs and give everybody's last one, (item, token, channel), as a copy.

        A copy, because multistep samplers keep past outputs and must not see them change.
        """
        assert self._output_rows is not None, "a partial step before the first refresh"
        self._output_rows.index_copy_(1, index, rows)
        return self._output_rows.clone()

    def keep_output(self, output: Any) -> None:
        """Keep what the network returned, for steps that do not call it."""
        self._output = _copied(output)

    def reused_output(self) -> Any:
        return _copied(self._output)


def _copied(output: Any) -> Any:
    """A network's return value (tuple or diffusers output object) with its tensors cloned."""
    if isinstance(output, torch.Tensor):
        return output.clone()
    if isinstance(output, tuple):
        return tuple(_copied(part) for part in output)
    if isinstance(output, dict):
        return type(output)(**{key: _copied(value) for key, value in output.items()})
    return output
