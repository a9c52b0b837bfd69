"""A network without its weights: the same modules on the meta device, where a forward has shapes and costs no arithmetic.

Built by hand instead of with `copy.deepcopy`, which would take along what hooks hold: offloaded weights, caches, compiled code.
Every floating-point tensor becomes float32, so that no mixture of dtypes that a hook would have resolved stands in the way.
"""

import copy
import types
from collections.abc import Hashable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_map

_PLAIN_TENSORS = (torch.Tensor, nn.Parameter, nn.Buffer)
_OWN_FORWARD = ("torch", "diffusers", "transformers", "peft")  # libraries whose layers are traced as they are
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"),
)
# what accelerate, diffusers, torch.compile and our own patches leave on an instance
_LEFT_OUT = ("forward", "_hf_hook", "_old_forward", "_diffusers_hook", "_compiled_call_impl")
# where peft keeps which adapters a layer adds
_ADAPTERS = ("_active_adapter", "_disable_adapters", "merged_adapters")


class _Quantised(nn.Parameter):
    """Stands for a weight of another layout, which the `hidden` strategy cannot cut."""


class _Unpacked(nn.Linear):
    """Stands for a layer whose product does not take the attribute `weight` itself: GGUF, bitsandbytes."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return F.linear(given, self.weight.view_as(self.weight), self.bias)


def without_weights(module: nn.Module) -> nn.Module:
    """A copy of the module and all below it on the meta device, without hooks, patches and compiled code.

    A layer of a quantiser counts as the torch layer in whose place it stands.
    """
    return _Copying().module(module)


def structure_of(module: nn.Module) -> Hashable:
    """What the FLOPs of a call depend on beside its arguments: another adapter, quantiser or fusion gives another value."""
    return tuple(
        (
            type(inner),
            tuple((key, value if value is None else tuple(value.shape)) for key, value in inner._parameters.items()),
            type(getattr(inner, "processor", None)),
            tuple(str(vars(inner).get(name)) for name in _ADAPTERS if name in vars(inner)),
        )
        for inner in module.modules()
    )


def arguments_without_values(arguments: Any) -> Any:
    """Forward arguments with every tensor, in whatever list or dict, on the meta device."""
    return tree_map(lambda value: _on_meta(value) if isinstance(value, torch.Tensor) else value, arguments)


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tuple(tensor.shape), dtype=dtype, device="meta")


class _Copying:
    """One copy of a tree of modules; a module or tensor that stands in two places stands in two places of the copy."""

    def __init__(self) -> None:
        self._modules: dict[int, nn.Module] = {}
        self._tensors: dict[int, torch.Tensor] = {}
        self._objects: dict[int, object] = {}

    def module(self, module: nn.Module) -> nn.Module:
        if id(module) not in self._modules:
            if isinstance(module, nn.Linear) and not _is_plain_linear(module):
                self._modules[id(module)] = _linear(module)
            else:
                self._copy(module)
        return self._modules[id(module)]

    def _copy(self, module: nn.Module) -> None:
        copied = self._modules[id(module)] = object.__new__(_class_of(module))
        held = {key: value for key, value in vars(module).items() if key not in (*_LEFT_OUT, "_modules")}
        for key, value in held.items():
            if key in _HOOKS:
                held[key] = type(value)()
            elif key in ("_parameters", "_buffers"):
                held[key] = {name: None if inner is None else self._tensor(inner) for name, inner in value.items()}
            elif isinstance(value, types.MethodType) and value.__self__ is module:
                held[key] = types.MethodType(value.__func__, copied)
            else:
                held[key] = self._value(value)
        vars(copied).update(held)
        vars(copied)["_modules"] = {
            name: None if child is None else self.module(child) for name, child in module._modules.items()
        }

    def _value(self, value: Any) -> Any:
        """What a module holds beside its modules. A forward may write to it (Z-Image's rotary tables), so nothing is shared."""
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            return self.module(value)
        if type(value) in (list, tuple):
            return type(value)(self._value(inner) for inner in value)
        if type(value) is dict:
            return {key: self._value(inner) for key, inner in value.items()}
        return self._object(value) if _is_state(value) else value

    def _object(self, value: Any) -> Any:
        if id(value) not in self._objects:
            copied = self._objects[id(value)] = copy.copy(value)
            for key, inner in list(vars(copied).items()):
                vars(copied)[key] = self._value(inner)
        return self._objects[id(value)]

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self._tensors:
            made = _on_meta(tensor)
            parameter = isinstance(tensor, nn.Parameter)
            self._tensors[id(tensor)] = nn.Parameter(made, requires_grad=False) if parameter else made
        return self._tensors[id(tensor)]


def _is_state(value: object) -> bool:
    """Whether this is an object of a model library that holds values of its own, not a class, a function or torch's."""
    kind = type(value)
    if isinstance(value, type | types.FunctionType | types.MethodType | Mapping) or not hasattr(value, "__dict__"):
        return False
    return kind.__module__.partition(".")[0] not in ("builtins", "torch", "functools", "types", "collections", "enum", "weakref")


def _is_plain_linear(module: nn.Linear) -> bool:
    return type(module).forward is nn.Linear.forward and type(module.weight) in _PLAIN_TENSORS


def _linear(module: nn.Linear) -> nn.Linear:
    from_library = type(module).__module__.partition(".")[0]
    # quanto and torch itself hand `weight` to the product; others what they unpack from it
    kind = nn.Linear if from_library in ("torch", "optimum") else _Unpacked
    made = kind(module.in_features, module.out_features, bias=module.bias is not None, device="meta", dtype=torch.float32)
    made.weight = _Quantised(made.weight.detach(), requires_grad=False)
    return made


def _class_of(module: nn.Module) -> type[nn.Module]:
    """The module's own class, or that of torch which a quantiser's class stands for."""
    kind = type(module)
    if kind.__module__.partition(".")[0] in _OWN_FORWARD:
        return kind
    standard = next(base for base in kind.__mro__ if base.__module__.startswith("torch.nn.modules"))
    return kind if standard is nn.Module else standard  # type: ignore[return-value]
