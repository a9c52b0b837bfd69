"""What one guidance branch keeps between steps: keys and values of every attention, and the last output of every token."""

from collections.abc import Callable
from typing import Any

import torch

from .forecast import Forecast, Held, Kept, OutputTokens, prediction_of, with_prediction

KEY_TOKENS = 2  # keys and values are (item, head, token, channel)
OUTPUT_TOKENS = 1


class BranchCache:
    """Buffers in the model's dtype, full length, original token order; computed rows are written over in place.

    Full-length buffers make masks and rotary positions need no permutation, and allocate nothing after the first refresh.
    at: the forecast coordinate of the step under way, set before each call. forecast_keys: extrapolate keys and values of
    tokens that are not computed. output: how outputs are made tokens, where they are extrapolated; None: they are held.
    """

    def __init__(self, *, forecast_keys: bool = False, output: OutputTokens | None = None) -> None:
        self._keep: Callable[[int], Kept] = Forecast if forecast_keys else Held
        self._keys: dict[str, Kept] = {}
        self._values: dict[str, Kept] = {}
        self._masks: dict[str, torch.Tensor | None] = {}
        self._output_rows: torch.Tensor | None = None
        self._tokens, self._forecast = output, Forecast(OUTPUT_TOKENS)
        self._output: Any = None
        self.at = 0.0
        self.input_shapes: Any = None

    @property
    def bytes(self) -> int:
        """Device bytes of keys and values."""
        return sum(kept.bytes for kept in (*self._keys.values(), *self._values.values()))

    @property
    def is_filled(self) -> bool:
        """Whether a refresh has been stored, so that a partial call can follow."""
        return self._output_rows is not None

    @property
    def has_output(self) -> bool:
        """Whether there is an output to use again."""
        return self._output is not None

    def store(self, layer: str, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Keep a refresh's keys and values, (item, head, token, channel)."""
        for kept, given in ((self._keys, key), (self._values, value)):
            if layer not in kept:
                kept[layer] = self._keep(KEY_TOKENS)
            kept[layer].store(self.at, given)
        self._masks[layer] = mask

    def update(self, layer: str, rows: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the computed rows and give all keys and values."""
        keys, values = self._keys[layer], self._values[layer]
        keys.update(self.at, rows, key)
        values.update(self.at, rows, value)
        return keys.read(self.at), values.read(self.at)

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

    def keep_output(self, output: Any, computed: torch.Tensor | None) -> Any:
        """Keep what the network returned, for steps that do not call it; gives what the pipeline shall see.

        computed: indices of the tokens that were computed, None for all. Where outputs are forecast the others are extrapolated.
        """
        if self._tokens is None:
            self._output = _copied(output)
            return output
        self._output = output
        tokens = self._tokens.split(output)
        if computed is None:
            self._forecast.store(self.at, tokens)
            return _copied(output)
        self._forecast.update(self.at, computed, tokens.index_select(OUTPUT_TOKENS, computed))
        return self._tokens.join(self._forecast.read(self.at), output)

    def reused_output(self) -> Any:
        """For a step without a call: the last output again, or its forecast."""
        if self._tokens is None:
            return _copied(self._output)
        return self._tokens.join(self._forecast.read(self.at), self._output)


def _copied(output: Any) -> Any:
    return with_prediction(output, prediction_of(output).clone())
