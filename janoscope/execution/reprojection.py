"""An attention run a second time, for the keys and values of tokens that the step does not compute."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..errors import ExecutionError
from .interception import Attention, listening
from .rows import Rows

INPUT, TEXT = "hidden_states", "encoder_hidden_states"
TEXT_MASK = "attention_mask"
MASKS = (TEXT_MASK, "encoder_hidden_states_mask")  # made for other rows, and not needed before the attention itself


class Reentry:
    """One call of an attention module, and what it takes to make it again on other rows.

    Keys and values are projected by the module's own processor, whatever that does (norms, rotary embedding, fused projections),
    up to its scaled_dot_product_attention, where it is stopped. One row of text goes along where the processor wants text.

    Args:
        signature: of the class's forward. forward: the module's own, without our hook. args, kwargs: what it was called with.
        text: where text stands.
    """

    def __init__(
        self,
        layer: str,
        attention: torch.nn.Module,
        signature: inspect.Signature,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        text: str,
    ):
        self._layer, self._attention, self._forward, self._text = layer, attention, forward, text
        self._signature = signature
        self._args, self._kwargs = args, kwargs

    def image_input(self, image_tokens: int) -> torch.Tensor:
        """The input rows of so many image tokens, (item, token, channel); single-stream blocks put the text among them."""
        rows: torch.Tensor = self._bound().arguments[INPUT].detach()
        return rows.narrow(1, rows.shape[1] - image_tokens if self._text == "first" else 0, image_tokens)

    @property
    def processor(self) -> Any:
        return getattr(self._attention, "processor", None)

    def keys_values(self, stored: torch.Tensor, rows: Rows, call: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(key, value) of the tokens that `rows` skips, from their stored input (item, token, channel).

        call: which of the module's attention calls is asked for, from 0.
        """
        bound = self._bound()
        given = bound.arguments
        given[INPUT] = stored
        text = given.get(TEXT)
        if text is not None:
            given[TEXT] = text[:, :1]
        text_rows = 0 if text is None else 1
        tables = 0
        # whatever the signature does not name stands in its keywords
        for table in (given, *(value for value in given.values() if isinstance(value, dict))):
            for name, value in table.items():
                if name in MASKS:
                    table[name] = _mask_of_first_text_row(value, text) if name == TEXT_MASK else None
                elif rows.is_cut(value):
                    table[name] = rows.cut_for_skipped(value, text_rows)
                    tables += 1
        if rows.has_tables and not tables:
            raise self._refusal("is not given the rotary table that its block was given")
        seen = _UpToAttention(self._attention, call)
        with seen, listening(seen):
            seen.run(lambda: self._forward(*bound.args[1:], **bound.kwargs))
        if seen.reached is None:
            raise self._refusal("does not come to torch's scaled_dot_product_attention")
        # a processor may leave a masked row of text out
        start = seen.reached[0].shape[2] - stored.shape[1] if self._text == "first" else 0
        key, value = (part.narrow(2, start, stored.shape[1]) for part in seen.reached)
        return key, value

    def _refusal(self, why: str) -> ExecutionError:
        kind = type(self.processor).__name__
        return ExecutionError(
            f"{self._layer} with processor {kind} {why}, so keys and values cannot be projected again; take cache strategy kv."
        )

    def _bound(self) -> inspect.BoundArguments:
        bound = self._signature.bind(self._attention, *self._args, **self._kwargs)
        for name, value in bound.arguments.items():
            if isinstance(value, dict):
                bound.arguments[name] = dict(value)
        return bound


def _mask_of_first_text_row(mask: Any, text: Any) -> Any:
    """A mask of text alone, (item, text token), cut to the first token's; None for any other."""
    of_text = text is not None and isinstance(mask, torch.Tensor) and mask.shape == text.shape[:2]
    return mask[:, :1] if of_text else None


class _Reached(Exception):
    """The attention's inputs are known; the rest of the processor is not needed."""


class _UpToAttention(TorchFunctionMode):
    """Runs a processor up to one of its attention calls and keeps (key, value). Projections of queries alone are left out."""

    def __init__(self, attention: torch.nn.Module, call: int):
        super().__init__()
        self._attention, self._calls_before = attention, call
        self.reached: tuple[torch.Tensor, torch.Tensor] | None = None

    def run(self, processor: Callable[[], Any]) -> None:
        try:
            processor()
        except _Reached:
            assert self.reached is not None

    def meet(self, attention: Attention, given: dict[str, Any]) -> Any:
        """The call that is asked for ends the run; those before it are made."""
        if self._calls_before:
            self._calls_before -= 1
            return attention(**given)
        self.reached = given["key"], given["value"]
        raise _Reached

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and len(args) >= 2 and (part := self._keys_and_values(args[1])) is not None:
            return _partial_linear(*args, **kwargs, part=part)
        return func(*args, **kwargs)

    def _keys_and_values(self, weight: torch.Tensor) -> slice | None:
        """Which output channels of a projection are keys and values; None where it is left as it is."""
        attention = self._attention
        if weight is _weight(attention, "to_q"):
            return slice(0, 0)
        if type(weight) not in (torch.Tensor, torch.nn.Parameter):
            return None  # quantised weights cannot be cut
        if weight is _weight(attention, "to_qkv"):
            return slice(weight.shape[0] // 3, None)  # processors chunk it in three
        if weight is _weight(attention, "to_qkv_mlp_proj"):
            return slice(attention.inner_dim, 3 * attention.inner_dim)  # type: ignore[operator, arg-type]
        return None


def _weight(attention: torch.nn.Module, name: str) -> Any:
    return getattr(getattr(attention, name, None), "weight", None)


def _partial_linear(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, part: slice) -> torch.Tensor:
    """The projection with all but some output channels left at zero."""
    out = given.new_zeros(*given.shape[:-1], weight.shape[0])
    if part.stop != 0:
        out[..., part] = F.linear(given, weight[part], None if bias is None else bias[part])
    return out
