"""Tensors on their way to host memory, without making an accelerator wait."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class HostCopy:
    """One tensor's copy. `event` is None once it has arrived; pinned buffers go back to `pool` after use."""

    tensor: torch.Tensor
    event: torch.cuda.Event | None = None
    pool: list[torch.Tensor] | None = None

    @property
    def in_flight(self) -> bool:
        return self.event is not None

    def arrived(self) -> torch.Tensor:
        if self.event is not None:
            self.event.synchronize()
            self.event = None
        return self.tensor

    def release(self) -> None:
        if self.pool is not None:
            self.pool.append(self.tensor)


class HostCopies:
    """Makes the copies. On CUDA: cloned in the compute stream, as schedulers and CUDA graphs reuse memory, then copied by a
    stream of its own into pinned buffers, which are pooled because pinning is slow and pinned memory cannot be swapped."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._pools: dict[tuple[torch.Size, torch.dtype], list[torch.Tensor]] = {}

    def send(self, tensor: torch.Tensor) -> HostCopy:
        if tensor.device.type != "cuda":
            return HostCopy(tensor.detach().to("cpu").contiguous())
        source = tensor.detach().clone(memory_format=torch.contiguous_format)
        pool = self._pools.setdefault((source.shape, source.dtype), [])
        buffer = pool.pop() if pool else torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        stream = self._streams.setdefault(source.device, torch.cuda.Stream(source.device))
        stream.wait_stream(torch.cuda.current_stream(source.device))
        event = torch.cuda.Event()
        with torch.cuda.stream(stream):
            buffer.copy_(source, non_blocking=True)
            event.record(stream)
        source.record_stream(stream)
        return HostCopy(buffer, event, pool)


def to_numpy(tensor: torch.Tensor) -> tuple[np.ndarray, str]:
    """(array, dtype name) on the host; bfloat16, which NumPy lacks, as its bits in uint16."""
    host = tensor.detach().to("cpu").contiguous()
    if host.dtype == torch.bfloat16:
        return host.view(torch.uint16).numpy(), "bfloat16"
    array = host.numpy()
    return array, array.dtype.name
