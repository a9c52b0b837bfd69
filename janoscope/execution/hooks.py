"""Hooks on one transformer instance: cut the sequence, serve keys and values, put the output together again.

Methods are replaced on the instances and nowhere else (diffusers' own hook registry leaves attributes behind when it is removed).
Attention is met in the function that computes it (`interception`), below every processor, so that no family needs a processor of
ours; the price is that a function of another name is invisible, hence the guard in `NetworkHooks.check_served`.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import torch

from ..capture.attachments import AttachmentKind, attachments_of
from ..capture.patch import InstancePatch, Wrapper
from ..errors import ExecutionError
from ..probe import Execution
from .attention_calls import AttentionCalls
from .caching.branch_cache import BranchCache
from .interception import attention_backend, intercepted, keep_out_of_graphs, listening
from .refusal import TORCH_BACKENDS, refuse_backend
from .reprojection import Reentry
from .rows import Rows


class Mode(Enum):
    """What one network call does.

    OFF: nothing of ours. REFRESH: all tokens, keys and values stored. PARTIAL: some tokens. REUSE: no call at all.
    """

    OFF = "off"
    REFRESH = "refresh"
    PARTIAL = "partial"
    REUSE = "reuse"


@dataclass
class CallState:
    """The network call in progress; the hooks read it, the executor sets it before each call."""

    mode: Mode = Mode.OFF
    cache: BranchCache = field(default_factory=BranchCache)
    rows: Rows | None = None
    served: Counter[str] = field(default_factory=Counter)
    backends: set[str] = field(default_factory=set)  # of diffusers, that attentions use beside torch's own function

    @contextmanager
    def during(self, mode: Mode, cache: BranchCache, rows: Rows | None) -> Iterator[None]:
        """One call in this mode; OFF again afterwards, whatever happens."""
        keep_out_of_graphs()
        self.mode, self.cache, self.rows = mode, cache, rows
        self.served.clear()
        if mode is Mode.PARTIAL and rows is not None:
            cache.begin(rows)
        try:
            with nullcontext() if mode is Mode.OFF else intercepted(self.backends):
                yield
        finally:
            self.mode, self.cache, self.rows = Mode.OFF, BranchCache(), None


class NetworkHooks:
    """All hooks on one transformer, from construction until `remove`, which may be called twice."""

    def __init__(self, name: str, module: torch.nn.Module, facts: Execution, state: CallState):
        self.name, self._facts, self._state = name, facts, state
        self._patches: list[InstancePatch] = []
        self._attentions: dict[str, torch.nn.Module] = {}
        self.module, self._output = module, _submodule(module, facts.output, name)
        try:
            self._hook_blocks(module)
            self._patch(self._output, self._wrap_output)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        while self._patches:
            self._patches.pop().remove()

    @property
    def layers(self) -> int:
        """Attentions that are served."""
        return len(self._attentions)

    def check_in_place(self) -> None:
        """The modules that were hooked must still be the network's: an adapter puts layers of its own in the place of others."""
        for path, hooked in {self._facts.output: self._output, **self._attentions}.items():
            if _submodule(self.module, path, self.name) is not hooked:
                raise ExecutionError(
                    f"{self.name}.{path} was replaced since the executor was attached, by an adapter or a quantiser perhaps; "
                    "attach the executor after it."
                )
        for layer, attention in self._attentions.items():
            self._meet_backend(layer, attention)

    def check_served(self) -> None:
        """Every hooked attention must have run once, and been served, in the call that just ended."""
        if self._state.mode not in (Mode.REFRESH, Mode.PARTIAL):
            return
        for layer, attention in self._attentions.items():
            if (times := self._state.served[layer]) != 1:
                raise ExecutionError(self._not_served(layer, attention, times))

    def _not_served(self, layer: str, attention: torch.nn.Module, times: int) -> str:
        processor = getattr(attention, "processor", None)
        foreign = [str(one) for one in attachments_of(self.module) if one.kind in (AttachmentKind.HOOK, AttachmentKind.ATTENTION)]
        attached = f" Attached to the network: {'; '.join(foreign)}." if foreign else ""
        served = f"{self.name}.{layer} was served keys and values {times} times in one call instead of once; "
        if times:
            return served + "its block runs more than once in a call, which cannot be accelerated; run without the executor."
        return served + (
            f"its processor {type(processor).__name__} was skipped, or does not attend over its own tokens through torch's "
            f"scaled_dot_product_attention. Use a processor that does, or run without the executor.{attached}"
        )

    def _patch(self, module: torch.nn.Module, wrap: Wrapper) -> None:
        self._patches.append(InstancePatch(module, "forward", wrap))

    def _hook_blocks(self, module: torch.nn.Module) -> None:
        first = True
        for list_name in self._facts.blocks:
            for index, block in enumerate(_submodule(module, list_name, self.name)):
                path = f"{list_name}.{index}"
                found = {f"{path}.{attr}": getattr(block, attr, None) for attr in self._facts.attention}
                attentions = {layer: inner for layer, inner in found.items() if isinstance(inner, torch.nn.Module)}
                if not attentions:
                    wanted = ", ".join(self._facts.attention)
                    raise ExecutionError(f"{self.name}.{path} has none of the attentions {wanted}; mend the probe.")
                self._patch(block, self._wrap_block(type(block), first))
                for layer, attention in attentions.items():
                    self._patch(attention, self._wrap_attention(layer, attention))
                self._attentions |= attentions
                for layer, attention in attentions.items():
                    self._meet_backend(layer, attention)
                first = False

    def _meet_backend(self, layer: str, attention: torch.nn.Module) -> None:
        backend = attention_backend(attention)
        if backend is not None and backend not in TORCH_BACKENDS:
            refuse_backend(f"{self.name}.{layer}", backend)
            self._state.backends.add(backend)

    def _wrap_block(self, block_class: type[torch.nn.Module], first: bool) -> Wrapper:
        names = list(inspect.signature(block_class.forward).parameters)[1:]
        facts, state = self._facts, self._state
        places = {name: names.index(name) for name in (facts.hidden, *facts.rotary, facts.squared_mask) if name in names}

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                rows = state.rows
                if state.mode is not Mode.PARTIAL or rows is None:
                    return original(*args, **kwargs)
                given: list[Any] = list(args)
                if first:
                    _change(given, kwargs, facts.hidden, places, lambda hidden: hidden.index_select(1, rows.image(hidden.device)))
                for name in facts.rotary:
                    _change(given, kwargs, name, places, rows.cut_rotary)
                if facts.squared_mask:
                    _change(given, kwargs, facts.squared_mask, places, partial(_cut_mask, rows, facts.text))
                return original(*given, **kwargs)

            return forward

        return wrap

    def _wrap_attention(self, layer: str, attention: torch.nn.Module) -> Wrapper:
        state, text, module = self._state, self._facts.text, f"{self.name}.{layer}"
        signature = inspect.signature(type(attention).forward)

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                if state.mode not in (Mode.REFRESH, Mode.PARTIAL):
                    return original(*args, **kwargs)
                reentry = Reentry(layer, attention, signature, original, args, kwargs, text)
                calls = AttentionCalls(module, layer, text, state.cache, state.rows, reentry)
                with listening(calls):
                    output = original(*args, **kwargs)
                state.served[layer] += calls.end()
                return output

            return forward

        return wrap

    def _wrap_output(self, original: Callable[..., Any]) -> Callable[..., Any]:
        state = self._state

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            if state.mode is Mode.REFRESH:
                state.cache.store_output(output)
            elif state.mode is Mode.PARTIAL and state.rows is not None:
                return state.cache.update_output(state.rows.image(output.device), output)
            return output

        return forward


def _change(args: list[Any], kwargs: dict[str, Any], name: str, places: Mapping[str, int], change: Callable[[Any], Any]) -> None:
    """Replace one argument of a call where it is given and not None; places: of names among the positional ones."""
    if kwargs.get(name) is not None:
        kwargs[name] = change(kwargs[name])
    elif (place := places.get(name, len(args))) < len(args) and args[place] is not None:
        args[place] = change(args[place])


def _cut_mask(rows: Rows, text: str, mask: torch.Tensor) -> torch.Tensor:
    """A mask over text and image tokens, (item, token), for the text and the computed ones."""
    return mask.index_select(1, rows.joint(mask.shape[1] - rows.image_tokens, text, mask.device))


def _submodule(module: torch.nn.Module, path: str, name: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        kind = type(module).__name__
        raise ExecutionError(f"{name} ({kind}) has no module {path!r}; the probe is another class's.") from error
