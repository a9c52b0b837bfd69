"""Work beside the computation: streams of an accelerator, or nothing of the kind on the CPU."""

import math
from collections.abc import Callable
from mmap import PAGESIZE
from typing import Any, NamedTuple, Protocol

import torch

from ...errors import ExecutionError


class Lane(Protocol):
    """Work done in the order in which it is submitted."""

    def submit(self, work: Callable[[], None]) -> None:
        """Do this after everything submitted or waited for before."""

    def mark(self) -> object:
        """The point behind everything submitted so far, for other lanes to wait for."""
        ...

    def wait(self, mark: Any) -> None:
        """What is submitted from now on comes after `mark` of another lane; None: after nothing."""


class Lanes(NamedTuple):
    """compute: where the network runs. store: device to host. fetch: host to device. drain: waits for the other two."""

    compute: Lane
    store: Lane
    fetch: Lane
    drain: Callable[[], None]


class Inline:
    """Work is done at once, in the order of the program."""

    def submit(self, work: Callable[[], None]) -> None:
        work()

    def mark(self) -> None:
        return None

    def wait(self, mark: None) -> None:
        """Everything before has been done."""


class Stream:
    """A CUDA stream; without one of its own, whichever is current."""

    def __init__(self, device: torch.device, own: bool):
        self._device = device
        self._own = torch.cuda.Stream(device) if own else None

    @property
    def _stream(self) -> torch.cuda.Stream:
        return self._own or torch.cuda.current_stream(self._device)

    def submit(self, work: Callable[[], None]) -> None:
        with torch.cuda.stream(self._stream):
            work()

    def mark(self) -> torch.cuda.Event:
        return self._stream.record_event()

    def wait(self, mark: torch.cuda.Event | None) -> None:
        if mark is not None:
            self._stream.wait_event(mark)

    def drain(self) -> None:
        self._stream.synchronize()


def lanes_of(device: torch.device) -> Lanes:
    """Two side streams on a CUDA device; elsewhere copies are made in line."""
    if device.type != "cuda":
        inline = Inline()
        return Lanes(inline, inline, inline, lambda: None)
    store, fetch = Stream(device, own=True), Stream(device, own=True)

    def drain() -> None:
        store.drain()
        fetch.drain()

    return Lanes(Stream(device, own=False), store, fetch, drain)


class HostMemory:
    """Memory on the host, pinned where the device is a CUDA device.

    Pinned by registering ordinary memory, whole pages of it: torch's own pinned allocator rounds pieces up to a power of two.
    """

    def __init__(self) -> None:
        self._pinned: dict[int, torch.Tensor] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """An unfilled tensor on the host for copies to and from `device`."""
        size = math.prod(shape) * dtype.itemsize
        pages = _whole_pages(size)
        if device.type == "cuda" and size:
            if code := int(torch.cuda.cudart().cudaHostRegister(pages.data_ptr(), pages.numel(), 0)):
                raise ExecutionError(
                    f"{size / 2**20:.0f} MiB of host memory could not be pinned for the offloaded cache (CUDA error {code}); "
                    "keep more on the device with device_mib, or take a smaller strategy (hidden, kv-int8)."
                )
            self._pinned[pages.data_ptr()] = pages
        return pages[:size].view(dtype).view(shape)

    def free(self, tensor: torch.Tensor) -> None:
        """Give a tensor back; nothing may be copying to or from it any more."""
        if (pages := self._pinned.pop(tensor.data_ptr(), None)) is not None:
            torch.cuda.cudart().cudaHostUnregister(pages.data_ptr())


def _whole_pages(size: int) -> torch.Tensor:
    """Bytes that share no page with anything else, which registering them twice would be."""
    rounded = -(-size // PAGESIZE) * PAGESIZE
    space = torch.empty(rounded + PAGESIZE, dtype=torch.uint8)
    return space.narrow(0, -space.data_ptr() % PAGESIZE, rounded)
