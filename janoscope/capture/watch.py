"""Watch a pipeline generate: every call of the network and every step of the scheduler, on these instances only.

The step boundary is `scheduler.step`: it exists in every pipeline, sees the prediction after guidance, and tells which network
calls belong together. Nothing is changed; `remove` restores the instances.
"""

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..errors import InputError
from .attachments import unwrapped
from .followed import Followed
from .patch import InstancePatch, Wrapper
from .protocols import Pipeline, Scheduler


@dataclass(frozen=True)
class NetworkCall:
    """One forward call of the network. `index` counts the calls since the last scheduler step, from 0."""

    component: str
    index: int
    arguments: Mapping[str, Any]
    output: object
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


def networks_of(pipe: Pipeline, components: tuple[str, ...]) -> dict[str, torch.nn.Module]:
    """The pipeline's networks by component, without those that it does not use; InputError where it has none of them."""
    parts = {name: getattr(pipe, name, None) for name in components}
    networks = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
    if not networks:
        raise InputError(
            f"{type(pipe).__name__} has none of the components {', '.join(components)}; the probe is another family's."
        )
    return networks


class Watch:
    """Attached from construction until `remove`; a context manager. Events go to `listener` as they happen.

    What takes the place of the scheduler or a network meanwhile is watched instead. on_networks: told when that was a network.
    """

    def __init__(
        self, pipe: Pipeline, components: tuple[str, ...], listener: Listener, on_networks: Callable[[], None] = lambda: None
    ):
        self._pipe, self._listener, self._on_networks = pipe, listener, on_networks
        self._calls = 0
        self._calls_of_generation = self._steps_of_generation = 0
        self._calls_under_way = 0
        self.any_call = False
        self._timesteps: list[float] = []
        networks_of(pipe, components)  # refuses a pipeline without any
        self._parts = Followed(pipe, (*components, "scheduler"), self._attach, self._replaced)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        self._parts.remove()

    @property
    def calls_without_step(self) -> int:
        """Network calls of the last generation where not one step of the scheduler was seen; 0 where any was, or where a call
        was broken off: that generation ended with an error, which whoever called the pipeline has met."""
        return 0 if self._steps_of_generation or self._calls_under_way else self._calls_of_generation

    def forget_calls(self) -> None:
        """That no step was seen has been told."""
        self._calls_of_generation = 0

    def _attach(self, name: str, part: Any) -> Iterator[Callable[[], None]]:
        if name == "scheduler":
            yield InstancePatch(part, "set_timesteps", self._wrap_set_timesteps).remove
            yield InstancePatch(part, "step", self._wrap_step(part)).remove
        elif isinstance(part, torch.nn.Module):
            yield from self._hook_network(name, part)

    def _replaced(self, names: set[str]) -> None:
        if names - {"scheduler"}:
            self._on_networks()
        if "scheduler" in names:  # its set_timesteps was called before anybody could see it
            self._begin_generation()

    def _begin_generation(self) -> None:
        self._calls = self._calls_of_generation = self._steps_of_generation = self._calls_under_way = 0
        timesteps = getattr(self._pipe.scheduler, "timesteps", None)
        self._timesteps = [] if timesteps is None else timesteps.tolist()
        self._listener.generation_begins()

    def _hook_network(self, name: str, module: torch.nn.Module) -> Iterator[Callable[[], None]]:
        signature = inspect.signature(type(unwrapped(module)).forward)
        stopwatches: list[Callable[[], Callable[[], float]]] = []

        def before(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            self._parts.follow()
            self._calls_under_way, self.any_call = self._calls_under_way + 1, True
            stopwatches.append(start_stopwatch(next(module.parameters()).device))

        def after(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
            time_s, self._calls_under_way = stopwatches.pop()(), 0
            arguments = signature.bind(module, *args, **kwargs).arguments
            index, self._calls = self._calls, self._calls + 1
            self._calls_of_generation += 1
            self._listener.call_ends(NetworkCall(name, index, arguments, output, time_s))

        yield module.register_forward_pre_hook(before, with_kwargs=True).remove
        yield module.register_forward_hook(after, with_kwargs=True).remove

    def _wrap_set_timesteps(self, original: Callable[..., object]) -> Callable[..., object]:
        def set_timesteps(*args: object, **kwargs: object) -> object:
            result = original(*args, **kwargs)
            self._parts.follow()
            self._begin_generation()
            return result

        return set_timesteps

    def _wrap_step(self, scheduler: Scheduler) -> Wrapper:
        signature = inspect.signature(type(scheduler).step)

        def wrap(original: Callable[..., object]) -> Callable[..., object]:
            def step(*args: object, **kwargs: object) -> object:
                given = signature.bind(scheduler, *args, **kwargs).arguments
                timestep = self._on_host(scheduler, given["timestep"])
                self._steps_of_generation += 1
                per_token = given.get("per_token_timesteps") is not None
                self._listener.step_begins(SchedulerStep(given["model_output"], timestep, given["sample"], per_token))
                self._calls = 0
                return original(*args, **kwargs)

            return step

        return wrap

    def _on_host(self, scheduler: Scheduler, timestep: torch.Tensor | float) -> float:
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
