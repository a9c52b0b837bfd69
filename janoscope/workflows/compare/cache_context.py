"""A cache of another library on a pipeline for one generation: a call's branch, the bytes it keeps, and no trace afterwards."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from ...capture.patch import InstancePatch
from ...execution.counting.flops import flop_counter
from ...pipeline.call import PipelineCall
from ...pipeline.generate import generate
from ...pipeline.model import Model
from .measure import networks_of

Wrapper = Callable[[Callable[..., object]], Callable[..., object]]
DEPTH = 10  # of containers and objects between a hook and its tensors; theirs lie at 5 to 8


def passes_of(model: Model, call: PipelineCall) -> int:
    """Network calls a step, seen on a plain generation made for this."""
    with restored(networks_of(model)):
        branches = Branches(model, count=False)
        try:
            generate(model, call)
        finally:
            branches.remove()
    return branches.most


def steps_of_networks(model: Model, call: PipelineCall) -> list[int]:
    """How many steps each network makes, in the order of `networks_of`, seen on a plain generation made for this."""
    networks = networks_of(model)
    if len(networks) == 1 and call.steps is not None:
        return [call.steps]
    steps: list[set[int]] = [set() for _ in networks]
    done = 0

    def wrap_of(seen: set[int]) -> Wrapper:
        def wrap(original: Callable[..., object]) -> Callable[..., object]:
            def forward(*args: object, **kwargs: object) -> object:
                seen.add(done)
                return original(*args, **kwargs)

            return forward

        return wrap

    def wrap_step(original: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **kwargs: object) -> object:
            nonlocal done
            done += 1
            return original(*args, **kwargs)

        return step

    patches = [InstancePatch(network, "forward", wrap_of(seen)) for network, seen in zip(networks, steps, strict=True)]
    patches.append(InstancePatch(model.pipe.scheduler, "step", wrap_step))
    try:
        generate(model, call)
    finally:
        for patch in patches:
            patch.remove()
    return [len(seen) for seen in steps]


class StatefulHook(Protocol):
    """A hook of diffusers that keeps its cache in `state`."""

    state: Any


class Branches:
    """Knows the guidance branch by the order of network calls within a scheduler step, and counts their FLOPs on demand.

    diffusers' caches ask the pipeline for the branch, and half of its pipelines do not say.
    """

    def __init__(self, model: Model, count: bool):
        self._model, self._count, self.index = model, count, 0
        self.most = 0  # network calls in one step
        self.flops = 0
        self.cache_bytes = 0
        self.timestep = 0.0
        self._done = 0  # scheduler steps
        self._timesteps: list[float] = []  # read once: every read of the scheduler's table makes an accelerator wait
        self._states: dict[tuple[int, int], object] = {}
        self.swapped: list[
            tuple[StatefulHook, Callable[[], object]]
        ] = []  # hooks whose state knows no branch, and how to make one
        self.networks = networks_of(model)
        self._patches = [InstancePatch(network, "forward", self._wrap(network)) for network in self.networks]
        self._patches.append(InstancePatch(model.pipe.scheduler, "step", self._wrap_step))

    def remove(self) -> None:
        while self._patches:
            self._patches.pop().remove()

    def _wrap(self, network: torch.nn.Module) -> Wrapper:
        from diffusers.hooks.hooks import CacheContext, _set_cache_context

        def wrap(original: Callable[..., object]) -> Callable[..., object]:
            def forward(*args: object, **kwargs: object) -> object:
                if self.index == 0:
                    self._timesteps = self._timesteps or self._model.pipe.scheduler.timesteps.tolist()
                    self.timestep = float(self._timesteps[self._done])
                _set_cache_context(network, CacheContext(f"call{self.index}"))
                self._swap()
                try:
                    if not self._count:
                        return original(*args, **kwargs)
                    with flop_counter() as counter:
                        output = original(*args, **kwargs)
                    self.flops += counter.get_total_flops()
                    return output
                finally:
                    self.index += 1
                    self.most = max(self.most, self.index)

            return forward

        return wrap

    def _swap(self) -> None:
        for hook, make in self.swapped:
            key = id(hook), self.index
            if key not in self._states:
                self._states[key] = make()
            hook.state = self._states[key]

    def _wrap_step(self, original: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **kwargs: object) -> object:
            self.index, self._done = 0, min(self._done + 1, len(self._model.pipe.scheduler.timesteps) - 1)
            if self._count:
                self.cache_bytes = max(self.cache_bytes, self.bytes_in_hooks())
            return original(*args, **kwargs)

        return step

    def bytes_in_hooks(self) -> int:
        seen: dict[int, int] = {}
        for network in self.networks:
            for module in network.modules():
                registry = getattr(module, "_diffusers_hook", None)
                for hook in registry.hooks.values() if registry else ():
                    _collect(vars(hook), seen, DEPTH)
        _collect(list(self._states.values()), seen, DEPTH)
        return sum(seen.values())


def _collect(thing: object, seen: dict[int, int], depth: int) -> None:
    """Storage bytes of all tensors that are reachable within `depth` containers and objects of diffusers' hooks."""
    if isinstance(thing, torch.nn.Module) or depth == 0:
        return
    if isinstance(thing, torch.Tensor):
        seen[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    elif isinstance(thing, Mapping):
        for value in thing.values():
            _collect(value, seen, depth - 1)
    elif isinstance(thing, list | tuple):
        for value in thing:
            _collect(value, seen, depth - 1)
    elif type(thing).__module__.startswith("diffusers.hooks") and hasattr(thing, "__dict__"):
        _collect({k: v for k, v in vars(thing).items() if k not in ("fn_ref", "config")}, seen, depth - 1)


@contextmanager
def restored(networks: list[torch.nn.Module]) -> Iterator[None]:
    """Afterwards every module has the instance attributes and the children, in their order, that it had before.

    diffusers' registry leaves attributes of its own behind; cache-dit puts the block lists back in another order, by which the
    next cache of diffusers takes another block for the first.
    """
    before = [(module, dict(vars(module)), dict(module._modules)) for network in networks for module in network.modules()]
    try:
        yield
    finally:
        for module, state, children in before:
            module._modules.clear()
            module._modules.update(children)
            for key in set(vars(module)) - set(state):
                del module.__dict__[key]
            for key in ("forward", "_cache_config"):
                if key in state:
                    module.__dict__[key] = state[key]
        forget_children(networks)


def forget_children(networks: list[torch.nn.Module]) -> None:
    """diffusers remembers which children have hooks; a cache that comes or goes makes that list stale."""
    for network in networks:
        registry = getattr(network, "_diffusers_hook", None)
        if registry is not None:
            registry.invalidate_child_registries_cache()
