"""The attention calls of one module within one network call: each is served its own keys and values, or the module is refused.

Most modules call attention once. Some call it once a batch element (Mochi), some once more for the perturbed branch of
perturbed-attention guidance (Stable Diffusion 3), and image-prompt adapters attend to keys of their own besides. A refresh notes
every call; a partial call of the network must make the same ones.
"""

from typing import Any

import torch

from ..errors import ExecutionError
from .caching.branch_cache import AttentionCall, BranchCache
from .caching.stores import KEY_TOKENS, Attended
from .interception import Attention
from .reprojection import Reentry
from .rows import Rows


class AttentionCalls:
    """One run of an attention module: serves its calls in order, and checks at the end that all of them came.

    Args:
        module: dotted path, for messages. layer: the cache's name of it. text: where text stands.
        rows: what is computed, None at a refresh.
    """

    def __init__(self, module: str, layer: str, text: str, cache: BranchCache, rows: Rows | None, reentry: Reentry):
        self._module, self._layer, self._text = module, layer, text
        self._cache, self._rows, self._reentry = cache, rows, reentry
        self._seen: list[AttentionCall] = []

    def meet(self, attention: Attention, given: dict[str, Any]) -> Any:
        """One attention call, made with the keys and values of all tokens."""
        return attention(**self.serve(given))

    def serve(self, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a call with the keys and values of all tokens in the place of the computed ones'.

        query, key, value: (item, head, token, channel), keys after their norm and rotary embedding.
        """
        number, keys = len(self._seen), given["key"].shape[KEY_TOKENS]
        call = AttentionCall(given["query"].shape[KEY_TOKENS] == keys, keys)
        call = self._check_refreshed(call) if self._rows is None else self._check_partial(call, number)
        self._seen.append(call)
        if not call.over_sequence:
            return given
        if given.get("is_causal"):
            raise self._refusal("attends causally")
        return self._served(given, number)

    def end(self) -> bool:
        """The module has returned; gives whether anything was served."""
        if self._rows is None:
            self._cache.attention_calls[self._layer] = tuple(self._seen)
        elif len(self._seen) != (known := len(self._known)):
            raise self._refusal(f"called attention {len(self._seen)} times at a partial step and {known} times at the refresh")
        return any(call.over_sequence for call in self._seen)

    @property
    def _known(self) -> tuple[AttentionCall, ...]:
        return self._cache.attention_calls.get(self._layer, ())

    def _check_refreshed(self, call: AttentionCall) -> AttentionCall:
        tokens = self._cache.image_tokens
        if call.over_sequence and call.keys < tokens:
            raise self._refusal(f"attends over {call.keys} tokens at a time, not over all {tokens} of the image")
        return call

    def _check_partial(self, call: AttentionCall, number: int) -> AttentionCall:
        """The refresh's call of this number, which decides: keys of its own may happen to be as many as the queries."""
        if number >= len(self._known):
            raise self._refusal(f"calls attention more often at a partial step than at the refresh ({len(self._known)} times)")
        known = self._known[number]
        if known.over_sequence and not call.over_sequence:
            raise self._refusal(f"gave call {number + 1} other keys than its own tokens', which it had at the refresh")
        if not known.over_sequence and call.keys != known.keys:
            raise self._refusal(
                f"gave call {number + 1} {call.keys} keys instead of the {known.keys} of the refresh: they follow the tokens, "
                "and are not the queries' own"
            )
        return known

    def _served(self, given: dict[str, Any], number: int) -> dict[str, Any]:
        cache, mask = self._cache, given.get("attn_mask")
        pair = given["key"].detach(), given["value"].detach()
        attended = Attended(*pair, self._rows, cache.image_tokens, self._text, cache.at, self._reentry, number)
        if self._rows is None:
            cache.refresh(self._layer, attended, mask)
            return given
        keys, values = cache.update(self._layer, attended)
        if isinstance(mask, torch.Tensor) and mask.shape[-1] != keys.shape[KEY_TOKENS]:
            mask = cache.mask(self._layer, attended)
        return given | {"key": keys, "value": values, "attn_mask": mask}

    def _refusal(self, why: str) -> ExecutionError:
        kind = type(self._reentry.processor).__name__
        return ExecutionError(
            f"{self._module} with processor {kind} {why}: its skipped tokens cannot be given the right keys and values; "
            "run without the executor."
        )
