"""What guidance branches keep between steps: for every attention by a strategy, and the last output of every token."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...capture.layout import prediction_of, with_prediction
from ...plan import CacheBytes
from ..rows import Rows
from .forecast import Corrected, Forecast, OutputTokens
from .stores import Attended, BranchStores, Keeper, KeysValues

OUTPUT_TOKENS = 1


@dataclass(frozen=True)
class AttentionCall:
    """One attention call of a module, as a refresh saw it.

    over_sequence: the keys are those of the queries' own tokens, so they are cached. keys: rows of the keys.
    """

    over_sequence: bool
    keys: int


class BranchCache:
    """The stores of a branch's attentions, masks and outputs; everything in the model's dtype but what a strategy keeps smaller.

    image_tokens: of the sequence. stores: of a strategy's keeper; None: no attention is served. output: how outputs are made
    tokens, where they are extrapolated; None: they are held. corrected: extrapolations are made up for. at, weight: the forecast
    coordinate of the step under way, and the change of the final latent for one unit of its output.
    """

    def __init__(
        self,
        image_tokens: int = 0,
        stores: BranchStores | None = None,
        *,
        output: OutputTokens | None = None,
        corrected: bool = False,
    ) -> None:
        self.image_tokens = image_tokens
        self._given_stores = stores
        self._masks: dict[tuple[str, int], torch.Tensor | None] = {}
        self.attention_calls: dict[str, tuple[AttentionCall, ...]] = {}  # of every module at the last refresh
        self._output_rows: torch.Tensor | None = None
        self._tokens, self._forecast = output, (Corrected if corrected else Forecast)(OUTPUT_TOKENS)
        self._output: object = None
        self.at = self.weight = 0.0
        self.input_shapes: object = None

    @property
    def _stores(self) -> BranchStores:
        assert self._given_stores is not None, "a cache that serves no attention"
        return self._given_stores

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
        self._stores.layer(layer, attended.call).refresh(attended)
        self._masks[layer, attended.call] = mask

    def update(self, layer: str, attended: Attended) -> KeysValues:
        """Keep the computed rows and give all keys and values."""
        return self._stores.layer(layer, attended.call).update(attended)

    def mask(self, layer: str, attended: Attended) -> torch.Tensor | None:
        """The refresh's mask for the computed queries, where a block made its mask from the shortened sequence."""
        mask = self._masks[layer, attended.call]
        if mask is not None and mask.ndim == 4 and mask.shape[-2] > 1:
            return mask.index_select(-2, attended.index())
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

    def keep_output(self, output: object, computed: torch.Tensor | None) -> object:
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
        else:
            self._forecast.update(self.at, computed, tokens.index_select(OUTPUT_TOKENS, computed))
        return self._handed_over()

    def reused_output(self) -> object:
        """For a step without a call: the last output again, or its forecast."""
        if self._tokens is None:
            return _copied(self._output)
        return self._handed_over()

    def _handed_over(self) -> object:
        assert self._tokens is not None
        return self._tokens.join(self._forecast.handed_over(self.at, self.weight), self._output)


class BranchCaches:
    """The caches of a run, by network and by the order of network calls within a step, which tells branches apart."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._kept: dict[tuple[str, int], BranchCache] = {}
        self._called: set[str] = set()  # networks of this step
        self._called_before: set[str] = set()  # and of the last

    @property
    def bytes(self) -> CacheBytes:
        total = self._keeper.bytes
        for cache in self._kept.values():
            total = total.plus(cache.bytes)
        return total

    def of(self, network: str, call: int, make: Callable[[BranchStores], BranchCache], layers: int) -> BranchCache:
        """The cache of a step's call, counted from 0; made when it is first asked for. layers: the network's attentions."""
        if call == 0 and self._called_before and network not in self._called_before:
            self._let_go(self._called_before)  # a second transformer takes over from the first
        self._called.add(network)
        if (network, call) not in self._kept:
            self._kept[network, call] = make(self._keeper.branch(layers))
        return self._kept[network, call]

    def step_ends(self) -> None:
        self._called_before, self._called = self._called, set()

    def close(self) -> None:
        self._kept.clear()
        self._keeper.close()

    def _let_go(self, networks: set[str]) -> None:
        for key in [key for key in self._kept if key[0] in networks]:
            self._kept.pop(key).close()


def _copied(output: object) -> object:
    return with_prediction(output, prediction_of(output).clone())
