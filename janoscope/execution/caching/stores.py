"""Cache strategies: what one guidance branch keeps of one attention for the tokens that a step will not compute.

A store is told all keys and values at a refresh; at a partial call it takes the computed tokens' and gives everybody's. Keys and
values are (item, head, token, channel), keys after their norm and rotary embedding, in the sequence's own order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from ...plan import CacheBytes
from ..reprojection import Reentry
from ..rows import Rows
from .forecast import Forecast, Held, Kept

KEY_TOKENS = 2  # axis of tokens in keys and values
INPUT_TOKENS = 1  # and in an attention's input

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Attended:
    """One attention in one network call, as its store sees it.

    key, value: of the text and the computed tokens. rows: those tokens, None for all. image_tokens: of the whole sequence.
    text: where the text stands, `first`, `last` or `none`. at: the forecast coordinate. reentry: the attention, to be run again.
    call: which of its module's attention calls this is, from 0.
    """

    key: torch.Tensor
    value: torch.Tensor
    rows: Rows | None
    image_tokens: int
    text: str
    at: float
    reentry: Reentry
    call: int = 0

    @property
    def computed(self) -> int:
        return self.image_tokens if self.rows is None else self.rows.count

    @property
    def text_tokens(self) -> int:
        return self.key.shape[KEY_TOKENS] - self.computed

    @property
    def image_start(self) -> int:
        """Where image tokens begin in the sequence."""
        return self.text_tokens if self.text == "first" else 0

    def image(self, given: torch.Tensor) -> torch.Tensor:
        """Keys or values of image tokens alone."""
        return given.narrow(KEY_TOKENS, self.image_start, self.computed)

    def index(self) -> torch.Tensor:
        """Places in the whole sequence of what was computed, text included, int64."""
        assert self.rows is not None
        return self.rows.joint(self.text_tokens, self.text, self.key.device)

    def image_index(self) -> torch.Tensor:
        """Image tokens that were computed, counted from the first image token, int64."""
        assert self.rows is not None
        return self.rows.image(self.key.device)

    def whole(self, given: torch.Tensor, skipped: Callable[[torch.Tensor], object]) -> torch.Tensor:
        """Keys or values of the whole sequence: those given, and what `skipped` writes to the other rows of the image's part."""
        items, heads, _, channels = given.shape
        whole = given.new_empty(items, self.image_tokens + self.text_tokens, heads, channels).transpose(1, 2)
        skipped(whole.narrow(KEY_TOKENS, self.image_start, self.image_tokens))
        return whole.index_copy_(KEY_TOKENS, self.index(), given)


class Store(Protocol):
    """What a branch keeps of one attention."""

    @property
    def bytes(self) -> CacheBytes:
        """What it holds by itself, on the device and on the host."""
        ...

    def refresh(self, attended: Attended) -> None:
        """Keep what every token's keys and values are."""

    def update(self, attended: Attended) -> KeysValues:
        """Keep the computed tokens' and give everybody's; not to be written to, and good until the next attention is served."""
        ...


class BranchStores(Protocol):
    """The stores of all attentions of one branch."""

    @property
    def bytes(self) -> CacheBytes: ...

    def layer(self, name: str, call: int = 0) -> Store:
        """The store of one attention call of a module, made when it is first asked for."""
        ...

    def begin(self, rows: Rows) -> None:
        """A partial call of these rows begins."""

    def close(self) -> None:
        """Let go of everything; the branch will not be called again."""


class Keeper(Protocol):
    """Makes the stores of one run. bytes: of what branches share."""

    @property
    def bytes(self) -> CacheBytes: ...

    def branch(self, layers: int) -> BranchStores:
        """Stores of a branch whose network has so many attentions."""
        ...

    def close(self) -> None:
        """Let go of everything; the stores are of no use any more."""


class KeyValueStore:
    """`kv`: keys and values as they are, the text's among them.

    Full-length buffers in the sequence's order need no permutation of masks, and allocate nothing after the first refresh.
    """

    def __init__(self, forecast: bool = False) -> None:
        kind = Forecast if forecast else Held
        self._kept: tuple[Kept, Kept] = (kind(KEY_TOKENS), kind(KEY_TOKENS))

    @property
    def bytes(self) -> CacheBytes:
        return CacheBytes(sum(kept.bytes for kept in self._kept))

    def refresh(self, attended: Attended) -> None:
        for kept, given in zip(self._kept, (attended.key, attended.value), strict=True):
            kept.store(attended.at, given)

    def update(self, attended: Attended) -> KeysValues:
        keys, values = self._kept
        keys.update(attended.at, attended.index(), attended.key)
        values.update(attended.at, attended.index(), attended.value)
        return keys.read(attended.at), values.read(attended.at)


class InputStore:
    """`hidden`: what went into the attention, one tensor instead of two, of image tokens alone: the text's is always at hand.

    The input comes after the block's norm and modulation, so keys and values that are projected from it again are those of the
    step that computed the token, whatever this step's modulation is. All attention calls of a module share one store.
    """

    def __init__(self) -> None:
        self._input = Held(INPUT_TOKENS)

    @property
    def bytes(self) -> CacheBytes:
        return CacheBytes(self._input.bytes)

    def refresh(self, attended: Attended) -> None:
        if attended.call:
            return  # the module's input has been kept
        self._input.store(attended.at, attended.reentry.image_input(attended.image_tokens))

    def update(self, attended: Attended) -> KeysValues:
        assert attended.rows is not None
        if not attended.call:
            self._input.update(attended.at, attended.image_index(), attended.reentry.image_input(attended.computed))
        if not attended.rows.skipped.count:
            return attended.key, attended.value
        skipped = attended.rows.skipped.image(attended.key.device)
        stored = self._input.read(attended.at).index_select(INPUT_TOKENS, skipped)
        key, value = attended.reentry.keys_values(stored, attended.rows, attended.call)
        keys = attended.whole(attended.key, lambda image: image.index_copy_(KEY_TOKENS, skipped, key))
        return keys, attended.whole(attended.value, lambda image: image.index_copy_(KEY_TOKENS, skipped, value))
