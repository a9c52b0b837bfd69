"""What one guidance branch keeps between steps: for every attention by a strategy, and the last output of every token."""

from typing import Any

import torch

from ..plan import Cache, CacheBytes
from .forecast import Forecast, OutputTokens, prediction_of, with_prediction
from .rows import Rows
from .stores import Attended, BranchStores, KeysValues, on_device

OUTPUT_TOKENS = 1


class BranchCache:
    """The stores of a branch's attentions, masks and outputs; everything in the model's dtype but what a strategy keeps smaller.

    image_tokens: of the sequence. stores: of a strategy's keeper; `kv` where none are given. output: how outputs are made tokens,
    where they are extrapolated; None: they are held. at: the forecast coordinate of the step under way, set before each call.
    """

    def __init__(self, image_tokens: int = 0, stores: BranchStores | None = None, *, output: OutputTokens | None = None) -> None:
        self.image_tokens = image_tokens
        self._stores = stores or on_device(Cache()).branch(0)
        self._masks: dict[str, torch.Tensor | None] = {}
        self._output_rows: torch.Tensor | None = None
        self._tokens, self._forecast = output, Forecast(OUTPUT_TOKENS)
        self._output: Any = None
        self.at = 0.0
        self.input_shapes: Any = None

    @property
    def bytes(self) -> CacheBytes:
        """What is kept of attentions, on the device and on the host."""
        return self._stores.bytes

    @property
    def is_filled(self) -> bool:
        """Whether a refresh has been stored, so that a partial call can follow."""
        return self._output_rows is not None

    @property
    def has_output(self) -> bool:
        """Whether there is an output to use again."""
        return self._output is not None

    def begin(self, rows: Rows) -> None:
        """A partial call of these rows begins."""
        self._stores.begin(rows)

    def close(self) -> None:
        """Let go of what is kept of attentions."""
        self._stores.close()

    def refresh(self, layer: str, attended: Attended, mask: torch.Tensor | None) -> None:
        """Keep what a refresh gave an attention."""
        self._stores.layer(layer).refresh(attended)
        self._masks[layer] = mask

    def update(self, layer: str, attended: Attended) -> KeysValues:
        """Keep the computed rows and give all keys and values."""
        return self._stores.layer(layer).update(attended)

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
