"""Where attention is met: torch's scaled_dot_product_attention, and the backends that diffusers dispatches to.

Both are looked up at every call, torch's as a name of `torch.nn.functional`, diffusers' in its registry, so that putting another
function there meets every processor, and costs nothing anywhere else. They stand there for the whole process while a network
call of some executor is under way; who is served is known per thread, and everybody else's attention passes unchanged.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from ..errors import ExecutionError

Attention = Callable[..., Any]
_POSITIONAL = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")  # of scaled_dot_product_attention


class AttentionListener(Protocol):
    """What is told of every attention call while it listens."""

    def meet(self, attention: Attention, given: dict[str, Any]) -> Any:
        """The result of a call; `given` are its arguments by name, query, key and value (item, head, token, channel)."""


class _Thread(threading.local):
    listener: AttentionListener | None = None


_thread = _Thread()


class listening:
    """Within, this thread's attention calls go to `listener`; None: to nobody. Entered at every attention, so it is bare."""

    __slots__ = ("_before", "_listener")

    def __init__(self, listener: AttentionListener | None):
        self._listener = listener
        self._before: AttentionListener | None = None

    def __enter__(self) -> None:
        self._before, _thread.listener = _thread.listener, self._listener

    def __exit__(self, *_: object) -> None:
        _thread.listener = self._before


@contextmanager
def intercepted(backends: Iterable[str] = ()) -> Iterator[None]:
    """Within, attention calls of any thread can be listened to. backends: those of diffusers to be met beside torch's."""
    places = [(vars(F), "scaled_dot_product_attention", _torch_attention)]
    places += [(_registry()._backends, name, _dispatched_attention) for name in backends]
    for place in places:
        _replacements.begin(*place)
    try:
        yield
    finally:
        for namespace, name, _ in places:
            _replacements.end(namespace, name)


class _Replacements:
    """Functions that stand in the place of others, counted, since executors in several threads need the same ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._standing: dict[tuple[int, str], tuple[int, Attention, Attention]] = {}  # users, what was there, ours

    def begin(self, namespace: dict[Any, Any], name: str, make: Callable[[Attention, str], Attention]) -> None:
        with self._lock:
            key = id(namespace), name
            users, original, ours = self._standing.get(key, (0, namespace[name], None))
            if ours is None:
                ours = namespace[name] = make(original, name)
            self._standing[key] = users + 1, original, ours

    def end(self, namespace: dict[Any, Any], name: str) -> None:
        with self._lock:
            key = id(namespace), name
            users, original, ours = self._standing[key]
            if users > 1:
                self._standing[key] = users - 1, original, ours
                return
            del self._standing[key]
            if namespace[name] is ours:  # else somebody wrapped it meanwhile: ours stays under that and passes calls on
                namespace[name] = original


_replacements = _Replacements()


def _torch_attention(original: Attention, name: str) -> Attention:
    def scaled_dot_product_attention(*args: Any, **kwargs: Any) -> Any:
        listener = _thread.listener
        if listener is None:
            return original(*args, **kwargs)
        return listener.meet(original, dict(zip(_POSITIONAL, args, strict=False)) | kwargs)

    return scaled_dot_product_attention


def _dispatched_attention(original: Attention, name: str) -> Attention:
    """A backend of diffusers: by keywords, query, key and value (item, token, head, channel)."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **more: Any) -> Any:
        with listening(None):  # a backend may use torch's own inside
            return original(query=query.transpose(1, 2), key=key.transpose(1, 2), value=value.transpose(1, 2), **more)

    def backend(*args: Any, **kwargs: Any) -> Any:
        listener = _thread.listener
        if listener is None:
            return original(*args, **kwargs)
        given = dict(zip(_POSITIONAL, args, strict=False)) | kwargs
        _refuse_mask(name, given.get("attn_mask"))
        turned = {part: given[part].transpose(1, 2) for part in ("query", "key", "value")}
        return listener.meet(attend, given | turned)

    return backend


def _refuse_mask(backend: str, mask: Any) -> None:
    """Refuse masks that are not a tensor, and flex's flat ones, which diffusers takes for masks of queries."""
    kind = type(mask).__name__
    if mask is not None and (not isinstance(mask, torch.Tensor) or (backend == "flex" and mask.ndim == 2)):
        raise ExecutionError(
            f"diffusers' attention backend {backend!r} was given a mask ({kind}) that skipped tokens cannot follow; choose the "
            "backend native (set_attention_backend)."
        )


def keep_out_of_graphs() -> None:
    """Have torch.compile leave our own frames as they are, and compile what they call.

    Hooks of all blocks share one code object and close over different things: each would be compiled anew, up to dynamo's limit.
    """
    rules = sys.modules.get("torch._dynamo.trace_rules")  # imported by the first torch.compile
    if rules is None or getattr(rules, _KEPT_OUT, False):
        return
    for package in ("janoscope.capture", "janoscope.execution"):
        rules.add(package)
    setattr(rules, _KEPT_OUT, True)


_KEPT_OUT = "_janoscope_is_kept_out"


def attention_backend(attention: torch.nn.Module) -> str | None:
    """The name of the backend that diffusers dispatches an attention to, None for one that it does not dispatch."""
    processor: Any = getattr(attention, "processor", None)
    if not hasattr(processor, "_attention_backend"):
        return None
    backend = processor._attention_backend
    if backend is None and "diffusers.models.attention_dispatch" in sys.modules:
        backend = _registry().get_active_backend()[0]  # `with attention_backend(...)` sets it
    return None if backend is None else str(getattr(backend, "value", backend))


def _registry() -> Any:
    # imported with the network, if it dispatches
    return sys.modules["diffusers.models.attention_dispatch"]._AttentionBackendRegistry
