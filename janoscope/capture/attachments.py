"""What else is attached to a network: other caches, parallelism, quantisation, compilation, offload, adapters, foreign hooks.

Only read, nothing is changed. A recording keeps it as provenance; the executor refuses what it cannot work with.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import torch

from .patch import is_patch, patches_of

Registry = Mapping[str, object]  # diffusers' hooks of one module by name


class AttachmentKind(StrEnum):
    """What an attachment does to the network."""

    CACHE = "cache"
    EXECUTOR = "executor"  # janoscope's own
    PARALLELISM = "parallelism"
    QUANTISATION = "quantisation"
    COMPILATION = "compilation"
    CASTING = "layerwise casting"
    OFFLOAD = "offload"
    ADAPTER = "adapter"
    ATTENTION = "attention backend"
    HOOK = "hook"  # a forward hook, or a method in the place of `forward`, of unknown purpose


@dataclass(frozen=True)
class Attachment:
    """One thing that somebody attached to a network.

    name: what it calls itself, as `FirstBlockCache`, `torch.compile`, the names of active adapters, a function's name.
    module: dotted path of the first module that carries it, empty for the network itself. modules: how many carry it.
    """

    kind: AttachmentKind
    name: str
    module: str = ""
    modules: int = 1

    def __str__(self) -> str:
        where = "on the whole network" if not self.module else f"on {self.module}"
        more = f" and {self.modules - 1} more" if self.modules > 1 else ""
        return f"{self.kind} {self.name} {where}{more}"

    def to_json(self) -> dict[str, str | int]:
        return {**asdict(self), "kind": str(self.kind)}


def unwrapped(network: Any) -> Any:
    """The network inside `torch.compile(network)`, whose wrapper has another class and signature; others as they are."""
    return getattr(network, "_orig_mod", network)


def attachments_of(network: torch.nn.Module) -> tuple[Attachment, ...]:
    """Everything that is attached to a network and its modules now, without janoscope's own watching.

    One entry a kind and name, in the order of the modules. The list is of what is known to attach itself visibly: diffusers'
    hooks and caches, accelerate's offload, peft's adapters, torch.compile, quantised layers and tensors, cache-dit, forward
    hooks, replaced `forward` methods of an instance or of its class. What merely changed weights (a fused LoRA) leaves no trace.
    """
    first: dict[tuple[AttachmentKind, str], str] = {}
    count: Counter[tuple[AttachmentKind, str]] = Counter()
    for path, module in network.named_modules():
        inner = path.removeprefix("_orig_mod").removeprefix(".")
        for found in dict.fromkeys(_on_module(module)):
            first.setdefault(found, inner)
            count[found] += 1
    return tuple(Attachment(*found, path, count[found]) for found, path in first.items())


def _on_module(module: torch.nn.Module) -> Iterator[tuple[AttachmentKind, str]]:
    for look in _LOOKS:
        yield from look(module)


Look = Callable[[torch.nn.Module], Iterator[tuple[AttachmentKind, str]]]


def _cache(module: torch.nn.Module) -> Iterator[tuple[AttachmentKind, str]]:
    config = getattr(module, "_cache_config", None)  # set by diffusers' enable_cache
    if config is not None:
        yield AttachmentKind.CACHE, type(config).__name__.removesuffix("Config")
    if getattr(module, "_is_cached", False):
        yield AttachmentKind.CACHE, "cache-dit"


def _parallelism(module: torch.nn.Module) -> Iterator[tuple[AttachmentKind, str]]:
    config = getattr(module, "_parallel_config", None)
    for name in ("context_parallel_config", "tensor_parallel_config"):
        if getattr(config, name, None) is not None:
            yield AttachmentKind.PARALLELISM, name.removesuffix("_config").replace("_", " ")
    if getattr(module, "_is_parallelized", False):
        yield AttachmentKind.PARALLELISM, "cache-dit"


def _compilation(module: torch.nn.Module) -> Iterator[tuple[AttachmentKind, str]]:
    if "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None:
        yield AttachmentKind.COMPILATION, "torch.compile"


_QUANTISERS = ("optimum.quanto", "bitsandbytes", "torchao", "diffusers.quantizers", "nunchaku", "cache_dit.quantization")
_SMALL = tuple(
    getattr(torch, name) for name in ("int8", "uint8", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz") if hasattr(torch, name)
)


def _quantisation(module: torch.nn.Module) -> Iterator[tuple[AttachmentKind, str]]:
    if package := _package(type(module), _QUANTISERS):
        yield AttachmentKind.QUANTISATION, f"{package} {type(module).__name__}"
    cast = any(name.startswith("layerwise_casting") for name in _registry(module))
    for parameter in module._parameters.values():
        if parameter is None:
            continue
        if package := _package(type(parameter), _QUANTISERS):
            yield AttachmentKind.QUANTISATION, f"{package} {type(parameter).__name__}"
        elif parameter.dtype in _SMALL and not cast:
            yield AttachmentKind.QUANTISATION, _dtype_name(parameter.dtype)


def _offload(module: torch.nn.Module) -> Iterator[tuple[AttachmentKind, str]]:
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):  # accelerate's SequentialHook holds several
        if one is not None:
            yield AttachmentKind.OFFLOAD, f"accelerate {type(one).__name__}"


def _adapters(module: torch.nn.Module) -> Iterator[tuple[AttachmentKind, str]]:
    names: Any = getattr(module, "active_adapters", None)
    if names is not None and _package(type(module), ("peft.tuners",)):
        state = " (switched off)" if getattr(module, "disable_adapters", False) else ""
        state = " (merged)" if getattr(module, "merged", False) else state
        yield AttachmentKind.ADAPTER, ", ".join(names) + state


def _attention(module: torch.nn.Module) -> Iterator[tuple[AttachmentKind, str]]:
    processor = getattr(module, "processor", None)
    backend = getattr(processor, "_attention_backend", None)
    if backend is not None:
        yield AttachmentKind.ATTENTION, str(getattr(backend, "value", backend))
    if processor is not None and not type(processor).__module__.startswith(("diffusers.", "transformers.")):
        yield AttachmentKind.ATTENTION, f"{type(processor).__module__}.{type(processor).__name__}"


# how the names begin under which diffusers registers its hooks
_DIFFUSERS_HOOKS = {
    "fbc_": (AttachmentKind.CACHE, "FirstBlockCache"),
    "faster_cache": (AttachmentKind.CACHE, "FasterCache"),
    "mag_cache": (AttachmentKind.CACHE, "MagCache"),
    "pyramid_attention_broadcast": (AttachmentKind.CACHE, "PyramidAttentionBroadcast"),
    "sea_cache": (AttachmentKind.CACHE, "SeaCache"),
    "taylorseer": (AttachmentKind.CACHE, "TaylorSeerCache"),
    "text_kv_cache": (AttachmentKind.CACHE, "TextKVCache"),
    "cp_": (AttachmentKind.PARALLELISM, "context parallel"),
    "group_offloading": (AttachmentKind.OFFLOAD, "group offloading"),
    "lazy_prefetch_group_offloading": (AttachmentKind.OFFLOAD, "group offloading"),
    "layer_execution_tracker": (AttachmentKind.OFFLOAD, "group offloading"),
}


def _registered(module: torch.nn.Module) -> Iterator[tuple[AttachmentKind, str]]:
    for name, hook in _registry(module).items():
        if name == "layerwise_casting":
            yield AttachmentKind.CASTING, _dtype_name(getattr(hook, "storage_dtype", None))
        elif name != "peft_autocast_disable":  # belongs to layerwise casting
            named = (attachment for start, attachment in _DIFFUSERS_HOOKS.items() if name.startswith(start))
            yield next(named, (AttachmentKind.HOOK, f"diffusers {name}"))


def _hooks(module: torch.nn.Module) -> Iterator[tuple[AttachmentKind, str]]:
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        if not _place(hook).startswith(("janoscope.", "torch.")):
            yield AttachmentKind.HOOK, _place(hook)


def _forward(module: torch.nn.Module) -> Iterator[tuple[AttachmentKind, str]]:
    """A method in the place of the class's own, on the instance (ours say whose they are) or on the class (TeaCache does)."""
    for patch in patches_of(module, "forward"):
        if patch.by:
            yield AttachmentKind.EXECUTOR, patch.by
    home = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    place = _place(vars(home)["forward"])
    if not place.startswith((f"{home.__module__}.", "torch.", "diffusers.", "transformers.", "peft.")):
        yield AttachmentKind.HOOK, f"{home.__name__}.forward replaced by {place}"
    own = vars(module).get("forward")
    if own is None or is_patch(own) or _registry(module) or hasattr(module, "_hf_hook"):
        return
    # diffusers puts the class's own there when it takes a hook off; torch's are compilation, which is named already
    if _place(own) != place and not _place(own).startswith("torch."):
        yield AttachmentKind.HOOK, f"forward replaced by {_place(own)}"


_LOOKS: tuple[Look, ...] = (
    _cache,
    _parallelism,
    _compilation,
    _quantisation,
    _offload,
    _adapters,
    _attention,
    _registered,
    _hooks,
    _forward,
)


def _registry(module: torch.nn.Module) -> Registry:
    """diffusers' hooks on a module by name; it leaves an empty registry behind when the last is removed."""
    return getattr(getattr(module, "_diffusers_hook", None), "hooks", {})


def _package(cls: type, packages: tuple[str, ...]) -> str | None:
    return next((package for package in packages if cls.__module__.startswith(package)), None)


def _dtype_name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _place(function: object) -> str:
    """Where a function was written, as `teacache.flux.teacache_forward`; `functools.wraps` does not hide it."""
    function = getattr(function, "func", function)  # of a partial
    function = getattr(function, "__func__", function)  # of a bound method
    if code := getattr(function, "__code__", None):
        return f"{getattr(function, '__globals__', {}).get('__name__', '')}.{code.co_qualname}"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
