"""What a run costs: wall and CPU time, FLOPs, memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

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


@contextmanager
def clock(device: torch.device) -> Iterator[dict[str, Any]]:
    """Times a generation: fills the yielded dict with wall_s, cpu_s and peak_bytes."""
    told: dict[str, Any] = {"peak_bytes": None}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    yield told
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        told["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    told["wall_s"], told["cpu_s"] = time.perf_counter() - wall, time.process_time() - cpu


def device_of(model: Model) -> torch.device:
    return torch.device(model.pipe._execution_device)
