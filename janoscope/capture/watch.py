"""Watch a pipeline generate: every call of the network and every step of the scheduler, on these instances only.

The step boundary is `scheduler.step`: it exists in every pipeline, sees the prediction after guidance, and tells which network
calls belong together. Nothing is changed; `remove` restores the instances.
"""

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..errors import InputError


@dataclass(frozen=True)
class NetworkCall:
    """One forward call of the network. `index` counts the calls since the last scheduler step, from 0."""

    component: str
    index: int
    arguments: Mapping[str, Any]
    output: Any
    time_s: Callable[[], float]


@dataclass(frozen=True)
class SchedulerStep:
    """What the pipeline handed to `scheduler.step`: the prediction after guidance, and the sample x_t it belongs to.

    per_token: every token was given a timestep of its own.
    """

    model_output: torch.Tensor
    timestep: float
    sample: torch.Tensor
    per_token: bool = False


class Listener(Protocol):
    def generation_begins(self) -> None: ...

    def call_ends(self, call: NetworkCall) -> None: ...

    def step_begins(self, step: SchedulerStep) -> None: ...


class _Replacement:
    """Stands in for a bound method. A deep copy of the owner, as pipelines with sound make of schedulers, gets the plain one."""

    def __init__(self, owner: Any, name: str, original: Callable[..., Any], wrapped: Callable[..., Any], by: str):
        self._owner, self._name, self._original, self._wrapped = owner, name, original, wrapped
        self.active, self.by = True, by
        # pipelines read signatures: does set_timesteps take sigmas? And no attributes, which could be another replacement's
        functools.update_wrapper(self, original, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wrapped(*args, **kwargs) if self.active else self._original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._owner))
        return self._original if copied is None else getattr(type(copied), self._name).__get__(copied)


def is_patch(function: Any) -> bool:
    """Whether it is a method of ours, in force or left behind under somebody else's wrapper."""
    return isinstance(function, _Replacement)


def patches_of(owner: Any, name: str) -> list[_Replacement]:
    """The patches of ours that are in force on a method of an instance, outermost first; there may be others between."""
    layers: list[_Replacement] = []
    layer = getattr(owner, name)
    while layer is not None:
        if isinstance(layer, _Replacement) and layer.active:
            layers.append(layer)
        layer = getattr(layer, "__wrapped__", None)
    return layers


class InstancePatch:
    """Replace a method on one instance. Removal restores it, or, when someone else wrapped it since, turns it transparent.

    by: whose patch it is, for whoever asks `patches_of`; empty for one that changes nothing that is computed.
    """

    def __init__(self, owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]], by: str = ""):
        self._owner, self._name, self._wrap, self._by = owner, name, wrap, by
        self._replace()

    def _replace(self) -> None:
        self._had_own = self._name in vars(self._owner)
        self._original = getattr(self._owner, self._name)
        self._patched = _Replacement(self._owner, self._name, self._original, self._wrap(self._original), self._by)
        setattr(self._owner, self._name, self._patched)

    def renew(self) -> None:
        """Replace the method again where someone put back what stood before: accelerate does, between generations."""
        reached = inspect.unwrap(getattr(self._owner, self._name), stop=lambda wrapper: wrapper is self._patched)
        if reached is not self._patched:
            self._patched.active = False
            self._replace()

    def remove(self) -> None:
        self._patched.active = False
        if vars(self._owner).get(self._name) is self._patched:
            if self._had_own:
                setattr(self._owner, self._name, self._original)
            else:
                delattr(self._owner, self._name)


class Watch:
    """Attached from construction until `remove`; a context manager. Events go to `listener` as they happen."""

    def __init__(self, pipe: Any, components: tuple[str, ...], listener: Listener):
        self._listener, self._calls = listener, 0
        self._timesteps: list[float] = []
        self._pipe = pipe
        modules = {name: getattr(pipe, name, None) for name in components}
        present = {name: module for name, module in modules.items() if isinstance(module, torch.nn.Module)}
        if not present:
            raise InputError(
                f"{type(pipe).__name__} has none of the components {', '.join(components)}; the probe sheet is another family's."
            )
        self._undo: list[Callable[[], None]] = []
        try:
            for name, module in present.items():
                self._hook_network(name, module)
            scheduler = pipe.scheduler
            self._undo.append(InstancePatch(scheduler, "set_timesteps", self._wrap_set_timesteps).remove)
            self._undo.append(InstancePatch(scheduler, "step", self._wrap_step(scheduler)).remove)
        except BaseException:
            self.remove()
            raise

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _hook_network(self, name: str, module: torch.nn.Module) -> None:
        signature = inspect.signature(type(module).forward)
        stopwatches: list[Callable[[], Callable[[], float]]] = []

        def before(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            stopwatches.append(start_stopwatch(next(module.parameters()).device))

        def after(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            time_s = stopwatches.pop()()
            arguments = signature.bind(module, *args, **kwargs).arguments
            index, self._calls = self._calls, self._calls + 1
            self._listener.call_ends(NetworkCall(name, index, arguments, output, time_s))

        self._undo.append(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        self._undo.append(module.register_forward_hook(after, with_kwargs=True).remove)

    def _wrap_set_timesteps(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._calls = 0
            self._timesteps = self._pipe.scheduler.timesteps.tolist()
            self._listener.generation_begins()
            return result

        return set_timesteps

    def _wrap_step(self, scheduler: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        signature = inspect.signature(type(scheduler).step)

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any, **kwargs: Any) -> Any:
                given = signature.bind(scheduler, *args, **kwargs).arguments
                timestep = self._on_host(scheduler, given["timestep"])
                per_token = given.get("per_token_timesteps") is not None
                self._listener.step_begins(SchedulerStep(given["model_output"], timestep, given["sample"], per_token))
                self._calls = 0
                return original(*args, **kwargs)

            return step

        return wrap

    def _on_host(self, scheduler: Any, timestep: Any) -> float:
        """The timestep as a number, from the host's copy of the table where reading it would make an accelerator wait."""
        index = getattr(scheduler, "step_index", None)
        index = getattr(scheduler, "begin_index", None) if index is None else index
        on_device = isinstance(timestep, torch.Tensor) and timestep.device.type != "cpu"
        if on_device and index is not None and index < len(self._timesteps):
            return float(self._timesteps[index])
        return float(timestep)


def start_stopwatch(device: torch.device) -> Callable[[], Callable[[], float]]:
    """Seconds of network time: stop() gives a reader. On CUDA two events, read later so that nothing waits here."""
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(torch.cuda.current_stream(device))

        def stop_cuda() -> Callable[[], float]:
            end.record(torch.cuda.current_stream(device))

            def read() -> float:
                end.synchronize()
                return begin.elapsed_time(end) / 1000

            return read

        return stop_cuda
    started = time.perf_counter()

    def stop() -> Callable[[], float]:
        elapsed = time.perf_counter() - started
        return lambda: elapsed

    return stop
