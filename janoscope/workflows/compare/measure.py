"""What a run costs: wall and CPU time, FLOPs, memory."""

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ...capture.patch import InstancePatch
from ...execution.counting.flops import CallKind, CountedNetwork, FlopCounter, FlopMeter, flop_counter, shapes_of
from ...pipeline.call import PipelineCall
from ...pipeline.generate import generate
from ...pipeline.model import Model


@dataclass(frozen=True)
class Cost:
    """What one generation took. flops: of all network calls; None where they were not counted. Bytes: None where unknown."""

    wall_s: float
    cpu_s: float
    flops: int | None
    cache_bytes: int | None
    peak_bytes: int | None
    note: str = ""


@dataclass
class Timing:
    """Filled by `clock` when its block ends. peak_bytes: on CUDA only."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int | None = None

    def cost(self, flops: int | None, cache_bytes: int | None, note: str = "") -> Cost:
        """The cost of the timed generation, with what was counted beside its time."""
        return Cost(self.wall_s, self.cpu_s, flops, cache_bytes, self.peak_bytes, note)


@contextmanager
def clock(device: torch.device) -> Iterator[Timing]:
    """Time a generation; the yielded Timing is complete when the block has ended."""
    timing = Timing()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    yield timing
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        timing.peak_bytes = torch.cuda.max_memory_allocated(device)
    timing.wall_s, timing.cpu_s = time.perf_counter() - wall, time.process_time() - cpu


def device_of(model: Model) -> torch.device:
    """Where the pipeline computes."""
    return model.device


def device_name(device: torch.device) -> str:
    """`cuda: NVIDIA H100`, or `cpu` with its thread count, since wall times depend on it."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type} ({torch.get_num_threads()} threads)"


def networks_of(model: Model) -> list[torch.nn.Module]:
    """The pipeline's networks, in order of use."""
    networks = (getattr(model.pipe, name, None) for name in model.probe.tap.components)
    return [network for network in networks if network is not None]


@contextmanager
def noted_calls(model: Model, meter: FlopMeter) -> Iterator[list[tuple[CountedNetwork, CallKind]]]:
    """The kind of every network call, appended to the yielded list; their FLOPs are counted on demand."""
    calls: list[tuple[CountedNetwork, CallKind]] = []
    patches = []

    def wrap_of(name: str, module: torch.nn.Module) -> Callable[[Callable[..., object]], Callable[..., object]]:
        network, signature = meter.network(name, module), inspect.signature(type(module).forward)

        def wrap(original: Callable[..., object]) -> Callable[..., object]:
            def forward(*args: object, **kwargs: object) -> object:
                arguments = signature.bind(module, *args, **kwargs).arguments
                kind = CallKind(shapes_of(arguments))
                network.note(kind, arguments)
                calls.append((network, kind))
                return original(*args, **kwargs)

            return forward

        return wrap

    for name in model.probe.tap.components:
        module = getattr(model.pipe, name, None)
        if module is not None:
            patches.append(InstancePatch(module, "forward", wrap_of(name, module)))
    try:
        yield calls
    finally:
        for patch in patches:
            patch.remove()


def flops_of_generation(model: Model, call: PipelineCall) -> int:
    """FLOPs of all network calls of a generation made for this."""
    counters: list[FlopCounter] = []

    def wrap(original: Callable[..., object]) -> Callable[..., object]:
        def forward(*args: object, **kwargs: object) -> object:
            with flop_counter() as counter:
                output = original(*args, **kwargs)
            counters.append(counter)
            return output

        return forward

    patches = [InstancePatch(network, "forward", wrap) for network in networks_of(model)]
    try:
        generate(model, call)
    finally:
        for patch in patches:
            patch.remove()
    return sum(int(counter.get_total_flops()) for counter in counters)
