"""Bench of the executor: time of partial steps against their FLOPs, and of a refresh against a plain call, in one run.

Random weights, no pipeline: one transformer, called as a pipeline would call it, with the executor's hooks on it. Plain and
hooked calls take turns, so that a machine that slows down slows both.
"""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ...errors import InputError
from ...execution.caching.branch_cache import BranchCache
from ...execution.caching.strategies import keeper_of
from ...execution.counting.flops import flop_counter
from ...execution.hooks import CallState, Mode, NetworkHooks
from ...execution.rows import Rows
from ...pipeline.model import usable_device
from ...plan import Cache
from ...probe import find_probe

SCHEMA = "janoscope-bench-execute/1"
# efficiency = (plain time / partial time) / (plain FLOPs / partial FLOPs); refresh = refresh time / plain time
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LIMITS = {"efficiency": 0.97, "refresh": 1.02}


@dataclass(frozen=True)
class Size:
    """A network to time. config: of the transformer class. tokens: (frames, rows, cols) of image tokens."""

    name: str
    transformer: str
    config: Mapping[str, Any]
    tokens: tuple[int, int, int]
    text: int
    dtype: str = "float32"


def _flux(heads: int, double: int, single: int, **more: Any) -> dict[str, Any]:
    sizes = {"num_attention_heads": heads, "num_layers": double, "num_single_layers": single}
    return {"in_channels": 64, "guidance_embeds": True, **sizes, **more}


SMALL_TEXT = {"joint_attention_dim": 256, "pooled_projection_dim": 64, "attention_head_dim": 64, "axes_dims_rope": (8, 28, 28)}
SIZES = {
    "tiny": Size("tiny", "FluxTransformer2DModel", _flux(4, 1, 1, **SMALL_TEXT), (1, 16, 16), 32),
    "flux-like": Size("flux-like", "FluxTransformer2DModel", _flux(12, 2, 6, **SMALL_TEXT), (1, 64, 64), 128),
    "flux-1": Size("flux-1", "FluxTransformer2DModel", _flux(24, 19, 38, attention_head_dim=128), (1, 64, 64), 512, "bfloat16"),
    "wan-1.3b": Size(
        "wan-1.3b",
        "WanTransformer3DModel",
        {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30, "in_channels": 16}
        | {"out_channels": 16, "text_dim": 4096, "freq_dim": 256, "cross_attn_norm": True},
        (21, 30, 52),
        512,
        "bfloat16",
    ),
}


@dataclass(frozen=True)
class ShareTiming:
    """One share of active tokens. seconds: median of a partial call; flops: of one. Ratios are medians of neighbouring pairs."""

    share: float
    tokens: int
    seconds: float
    flops: int
    speedup: float
    flop_speedup: float

    @property
    def efficiency(self) -> float:
        return self.speedup / self.flop_speedup


@dataclass(frozen=True)
class ExecuteBench:
    """What was timed. refresh: time of a storing call over a plain one. cache_bytes: keys and values of one branch.

    clock: `wall`, or `cpu`, the processor time of this process, which a busy machine disturbs least.
    """

    size: Size
    device: str
    threads: int
    torch: str
    repeats: int
    plain_s: float
    plain_flops: int
    refresh: float
    shares: tuple[ShareTiming, ...]
    cache_bytes: int
    peak_bytes: int | None
    load: tuple[float, ...] = field(default_factory=tuple)
    clock: str = "wall"

    @property
    def faults(self) -> list[str]:
        """Each limit that was missed, in words."""
        found = [
            f"efficiency {share.efficiency:.3f} at {share.share:.0%} active; at least {LIMITS['efficiency']} is asked"
            for share in self.shares
            if share.efficiency < LIMITS["efficiency"]
        ]
        if self.refresh > LIMITS["refresh"]:
            found.append(f"a refresh takes {self.refresh:.3f} of a plain call; at most {LIMITS['refresh']} is asked")
        return found

    def to_json(self) -> dict[str, Any]:
        shares = [asdict(share) | {"efficiency": share.efficiency} for share in self.shares]
        return {"schema": SCHEMA, **asdict(self), "shares": shares, "limits": LIMITS, "faults": self.faults}

    def __str__(self) -> str:
        lines = [
            f"{self.size.name}: {self.size.transformer}, {_count(self.size)} image and {self.size.text} text tokens, "
            f"{self.size.dtype} on {self.device}, {self.threads} threads, torch {self.torch}, {self.clock} time",
            f"plain call {self.plain_s:.3f} s, {self.plain_flops / 1e9:.1f} GFLOP; refresh {self.refresh:.3f} of it; "
            f"cache {self.cache_bytes / 2**20:.1f} MiB a branch",
            f"{'active':>7} {'tokens':>7} {'seconds':>8} {'speedup':>8} {'by FLOPs':>9} {'efficiency':>11}",
        ]
        for share in self.shares:
            lines.append(
                f"{share.share:>7.0%} {share.tokens:>7} {share.seconds:>8.3f} {share.speedup:>8.2f} {share.flop_speedup:>9.2f} "
                f"{share.efficiency:>11.3f}"
            )
        return "\n".join([*lines, *self.faults])


def bench_execute(
    size: str = "flux-like",
    *,
    shares: tuple[float, ...] = (0.25, 0.5, 0.75),
    repeats: int = 5,
    device: str | None = None,
    clock: str = "wall",
) -> ExecuteBench:
    """Time a size of `SIZES`: plain, refresh and partial calls at each share of active tokens, interleaved `repeats` times.

    Raises InputError for an unknown size, clock or device, and for processor time on an accelerator.
    """
    if size not in SIZES:
        raise InputError(f"no size {size!r}; legal: {', '.join(SIZES)}.")
    if clock not in CLOCKS:
        raise InputError(f"no clock {clock!r}; legal: {', '.join(CLOCKS)}.")
    where = torch.device(usable_device(device))
    if clock == "cpu" and where.type != "cpu":
        raise InputError(f"clock cpu says nothing of work on {where}; leave it out, or time on the cpu.")
    return _Bench(SIZES[size], where, clock).run(shares, repeats)


def describe_bench(found: ExecuteBench) -> str:
    """The figures, Markdown."""
    return f"```\n{found}\n```"


class _Bench:
    """A network under the hooks, and its calls."""

    def __init__(self, size: Size, device: torch.device, clock: str):
        import diffusers

        self._size, self._device, self._clock = size, device, clock
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            with _default_dtype(getattr(torch, size.dtype)), torch.device(device):  # a copy in float32 would not fit beside it
                self._network = getattr(diffusers, size.transformer)(**size.config).eval()
            self._arguments = _arguments(size, device)
        sheet = find_probe([size.transformer])
        assert sheet.execution is not None
        self._facts, self._state = sheet.execution, CallState()
        self._hooks = NetworkHooks("transformer", self._network, self._facts, self._state)
        self._cache = BranchCache(_count(size), keeper_of(Cache(), list).branch(self._hooks.layers))

    def run(self, shares: tuple[float, ...], repeats: int) -> ExecuteBench:
        count = _count(self._size)
        draw = torch.Generator().manual_seed(0)
        chosen = {share: torch.randperm(count, generator=draw)[: round(share * count)].sort().values for share in shares}
        calls: dict[Any, Callable[[], Any]] = {"plain": lambda: self._call(Mode.OFF), "refresh": lambda: self._call(Mode.REFRESH)}
        for share, indices in chosen.items():
            rows = Rows(count, indices, self._facts)
            calls[share] = lambda rows=rows: self._call(Mode.PARTIAL, rows)  # type: ignore[misc]
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        flops = {name: self._flops(call) for name, call in calls.items()}
        times: dict[Any, list[float]] = {name: [] for name in calls}
        ratios: dict[Any, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                # a plain call before and after: their mean is what this call is held against
                before, own, after = self._seconds(calls["plain"]), self._seconds(call), self._seconds(calls["plain"])
                times[name].append(own)
                ratios[name].append((before + after) / 2 / own)
        self._hooks.remove()
        return ExecuteBench(
            self._size,
            torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else platform.processor() or "cpu",
            torch.get_num_threads(),
            torch.__version__,
            repeats,
            statistics.median(times["plain"]),
            flops["plain"],
            1 / statistics.median(ratios["refresh"]),
            tuple(self._share(share, len(chosen[share]), times, ratios, flops) for share in shares),
            self._cache.bytes.device,
            torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None,
            _load(),
            self._clock,
        )

    def _share(self, share: float, tokens: int, times: Any, ratios: Any, flops: Any) -> ShareTiming:
        seconds, speedup = statistics.median(times[share]), statistics.median(ratios[share])
        return ShareTiming(share, tokens, seconds, flops[share], speedup, flops["plain"] / flops[share])

    def _call(self, mode: Mode, rows: Rows | None = None) -> Any:
        if rows is not None:
            rows.forget_tables()
        with self._state.during(mode, self._cache, rows):
            output = self._network(**self._arguments, return_dict=False)
            self._hooks.check_served()
        return output

    @torch.no_grad()
    def _flops(self, call: Callable[[], Any]) -> int:
        with flop_counter() as counter:
            call()
        return int(counter.get_total_flops())

    @torch.no_grad()
    def _seconds(self, call: Callable[[], Any]) -> float:
        self._wait()
        now = CLOCKS[self._clock]
        started = now()
        call()
        self._wait()
        return now() - started

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _count(size: Size) -> int:
    frames, rows, cols = size.tokens
    return frames * rows * cols


def _arguments(size: Size, device: torch.device) -> dict[str, Any]:
    """Forward arguments as a pipeline gives them, for one item."""
    dtype = getattr(torch, size.dtype)
    frames, rows, cols = size.tokens

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    if size.transformer == "WanTransformer3DModel":
        text = {"encoder_hidden_states": draw(1, size.text, size.config["text_dim"])}
        return {
            "hidden_states": draw(1, 16, frames, 2 * rows, 2 * cols),
            "timestep": torch.tensor([700.0], device=device),
            **text,
        }
    ids = torch.zeros(rows, cols, 3, device=device)
    ids[..., 1] += torch.arange(rows, device=device)[:, None]
    ids[..., 2] += torch.arange(cols, device=device)[None]
    widths = {"joint_attention_dim": 4096, "pooled_projection_dim": 768} | dict(size.config)
    return {
        "hidden_states": draw(1, rows * cols, size.config["in_channels"]),
        "encoder_hidden_states": draw(1, size.text, widths["joint_attention_dim"]),
        "pooled_projections": draw(1, widths["pooled_projection_dim"]),
        "img_ids": ids.reshape(-1, 3),
        "txt_ids": torch.zeros(size.text, 3, device=device),
        "timestep": torch.tensor([0.7], device=device, dtype=dtype),
        "guidance": torch.tensor([3.5], device=device, dtype=dtype),
    }


def _load() -> tuple[float, ...]:
    """Load averages: what else ran while this was timed."""
    import os

    return os.getloadavg() if hasattr(os, "getloadavg") else ()
