"""FLOPs of network calls, counted on a copy without weights: nothing is counted while a pipeline generates.

torch's counter inside a real call slows it, and makes torch.compile give up the code that it meets (pytorch issue 140909). So a
run notes of what kind its calls were, and torch's counter meets the copy when somebody asks.
"""

import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from ...capture.patch import InstancePatch
from ...plan import Cache
from ...probe import Execution
from ..caching.branch_cache import BranchCache
from ..caching.strategies import keeper_of
from ..hooks import CallState, Mode, NetworkHooks
from ..rows import Rows
from .weightless import arguments_without_values, structure_of, without_weights


@dataclass(frozen=True)
class SomeTokens:
    """A call that computes some of its image tokens. recomputes: keys and values of the others are projected again (`hidden`)."""

    computed: int
    image_tokens: int
    recomputes: bool


@dataclass(frozen=True)
class CallKind:
    """Calls of one kind have the same FLOPs. shapes: of the arguments. some: None where every token is computed."""

    shapes: Hashable
    some: SomeTokens | None = None


class CountedNetwork:
    """The FLOPs of one network, as it was built when it was first seen; `note` costs next to nothing, `flops` counts."""

    def __init__(self, name: str, module: torch.nn.Module, execution: Execution | None = None):
        self._name, self._execution = name, execution
        self._module = without_weights(module)
        self._arguments: dict[Hashable, dict[str, object]] = {}  # by their shapes, without values
        self._counts: dict[CallKind, int | None] = {}
        self._estimates: dict[CallKind, int] = {}
        self._filled: dict[Hashable, BranchCache] = {}
        self._warned = False

    def note(self, kind: CallKind, arguments: Mapping[str, object], estimate: Callable[[], int] | None = None) -> None:
        """Keep what is needed to count this kind of call later. estimate: FLOPs by formula, should the call not be traceable."""
        if kind.shapes not in self._arguments:
            given = {name: value for name, value in arguments.items() if name != "self"}
            self._arguments[kind.shapes] = arguments_without_values(given)
        if estimate is not None and kind not in self._estimates:
            self._estimates[kind] = estimate()

    def flops(self, kind: CallKind) -> int | None:
        """FLOPs of a noted kind of call, counted at the first question; None where they can neither be counted nor estimated."""
        if kind not in self._counts:
            try:
                self._counts[kind] = self._count(kind)
            except Exception as error:  # whatever a network does with tensors that hold no values
                self._counts[kind] = None
                if kind in self._estimates:
                    self._warn_of_estimates(error)
        counted = self._counts[kind]
        return self._estimates.get(kind) if counted is None else counted

    @torch.no_grad()
    def _count(self, kind: CallKind) -> int:
        arguments, some = self._arguments[kind.shapes], kind.some
        if some is None:
            return self._counted(arguments)
        assert self._execution is not None, "only a network that the executor knows computes some of its tokens"
        state = CallState()
        hooks = NetworkHooks(self._name, self._module, self._execution, state)
        try:
            cache = self._cache_after_refresh(hooks, state, kind, some)
            rows = Rows(some.image_tokens, torch.arange(some.computed), self._execution)  # any will do: their number counts
            with state.during(Mode.PARTIAL, cache, rows):
                return self._counted(arguments)
        finally:
            hooks.remove()

    def _cache_after_refresh(self, hooks: NetworkHooks, state: CallState, kind: CallKind, some: SomeTokens) -> BranchCache:
        key = kind.shapes, some.recomputes
        if key not in self._filled:
            keeper = keeper_of(Cache("hidden" if some.recomputes else "kv"), list)
            cache = BranchCache(some.image_tokens, keeper.branch(hooks.layers))
            with torch.device("meta"), state.during(Mode.REFRESH, cache, None), _AlikeBlocks(self._module, lambda: 0):
                self._module(**self._arguments[kind.shapes])
            self._filled[key] = cache
        return self._filled[key]

    def _counted(self, arguments: Mapping[str, object]) -> int:
        with torch.device("meta"), flop_counter() as counter, _AlikeBlocks(self._module, counter.get_total_flops) as alike:
            self._module(**arguments)
        return int(counter.get_total_flops()) + alike.flops

    def _warn_of_estimates(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            reason = " ".join(str(error).split())[:160]
            warnings.warn(
                f"the FLOPs of {self._name} are estimated by a formula: {type(self._module).__name__} cannot be traced without "
                f"its weights ({type(error).__name__}: {reason}).",
                RuntimeWarning,
                stacklevel=2,
            )


class _AlikeBlocks:
    """Within: of blocks that are built alike and given tensors of the same shapes only the first is traced.

    The others answer with its output, which holds no values anyway. The very first block stands by itself, since it is where
    the executor cuts the sequence. flops: of the calls that were not traced, as `counted` tells those of the ones that were.
    """

    def __init__(self, network: torch.nn.Module, counted: Callable[[], int]):
        self.flops = 0
        self._counted = counted
        self._traced: dict[Hashable, tuple[int, object]] = {}
        self._patches: list[InstancePatch] = []
        lists = [child for child in network.children() if isinstance(child, torch.nn.ModuleList)]
        for index, block in enumerate(block for blocks in lists for block in blocks):
            build = index == 0, structure_of(block)
            self._patches.append(InstancePatch(block, "forward", partial(self._wrap, build)))

    def __enter__(self) -> "_AlikeBlocks":
        return self

    def __exit__(self, *_: object) -> None:
        while self._patches:
            self._patches.pop().remove()

    def _wrap(self, build: Hashable, original: Callable[..., object]) -> Callable[..., object]:
        def forward(*args: object, **kwargs: object) -> object:
            call = build, tuple(_shape(leaf) for leaf in tree_leaves((args, kwargs)))
            if call in self._traced:
                flops, output = self._traced[call]
                self.flops += flops
                return output
            before = self._counted() + self.flops
            output = original(*args, **kwargs)
            self._traced[call] = self._counted() + self.flops - before, output
            return output

        return forward


def _shape(leaf: object) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        return tuple(leaf.shape)
    if isinstance(leaf, int | float | str | None):
        return leaf
    return type(leaf).__qualname__


class FlopMeter:
    """The networks of a pipeline and their counts; shared between runs, so that nothing is counted twice."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Hashable, CountedNetwork]] = {}

    def network(self, name: str, module: torch.nn.Module, execution: Execution | None = None) -> CountedNetwork:
        """The counts of this network; counts of what it was before an adapter or a quantiser changed it are forgotten."""
        structure = structure_of(module)
        if name not in self._known or self._known[name][0] != structure:
            self._known[name] = structure, CountedNetwork(name, module, execution)
        return self._known[name][1]


def shapes_of(arguments: Mapping[str, object]) -> Hashable:
    """Names and shapes of the arguments that are tensors."""
    return tuple((key, tuple(value.shape)) for key, value in arguments.items() if isinstance(value, torch.Tensor))


class _NoModules:
    """In the place of torch's module tracker, which walks the tree without end where a library has tied modules in a ring."""

    parents = frozenset({"Global"})

    def __enter__(self) -> "_NoModules":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was begun."""


class FlopCounter(FlopCounterMode):
    """torch's FLOP counter, silent and without a share for each module, that knows more products and names what it passes over.

    uncounted: operators that look like products and have no formula.
    """

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=_more_formulas())
        self.mod_tracker = _NoModules()  # type: ignore[assignment]
        self.uncounted: set[str] = set()

    def _count_flops(self, func_packet: object, out: object, args: object, kwargs: object) -> object:
        if func_packet not in self.flop_registry and _may_be_a_product(str(func_packet)):
            self.uncounted.add(str(func_packet))
        return super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]


@contextmanager
def flop_counter() -> Iterator[FlopCounter]:
    """Counts what runs inside, eagerly: compiled code would be given up for good under a counter. Names uncounted operators."""
    counter = FlopCounter()
    # whatever was compiled has imported dynamo, which takes a second where nothing was
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with eager, counter:
        yield counter
    if counter.uncounted:
        # Python shows a warning of the same words and place once
        warnings.warn(
            f"no FLOPs are counted for {', '.join(sorted(counter.uncounted))}, which have no formula.",
            RuntimeWarning,
            stacklevel=3,
        )


def _may_be_a_product(operator: str) -> bool:
    """`aten.mm` among torch's own; of other libraries everything but what only changes the layout of numbers."""
    library, _, name = operator.partition(".")
    if library in ("aten", "prims", "prim", "profiler"):
        return name.endswith("mm") or any(word in name for word in ("convolution", "attention", "linear"))
    return not any(word in name for word in ("quantize", "unpack", "pack", "choose", "view"))


Shape = Sequence[int]


def _cpu_attention_flops(query: Shape, key: Shape, value: Shape, *_: object, out_shape: Shape = (), **__: object) -> int:
    return sdpa_flop(query, key, value)


def _product_flops(left: Shape, *_: object, out_shape: Shape = (), **__: object) -> int:
    """A matrix product whose right side may be packed: every value of the result is a sum over the left side's last axis."""
    return 2 * int(prod(out_shape)) * int(left[-1])


def _more_formulas() -> dict[Any, Callable[..., int]]:
    """torch's counter knows the fused attention of accelerators only, and none of the products of quantised weights."""
    aten = torch.ops.aten
    formulas: dict[Any, Callable[..., int]] = {aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops}
    products = [(aten, name) for name in ("_int_mm", "_weight_int8pack_mm", "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu")]
    for library, name in [*products, (torch.ops.quanto, "qbytes_mm")]:
        if hasattr(library, name):
            formulas[getattr(library, name)] = _product_flops
    return formulas
