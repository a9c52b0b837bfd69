"""Bench of recording: overhead on a simulated accelerator step, writing against raw writes, a curve against reading all.

The accelerator is a host that sleeps: what is measured is what the generation waits for, not what a device could hide beside its
work. Runs of both kinds alternate and a ratio is that of the fastest of each, as in `timeit`: what other processes take is no
property of ours. The ratios of single pairs are kept beside it.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...capture import Capture
from ...grid import TokenGrid
from ...pipeline.provenance import installed_versions
from ...pipeline.threads import one_torch_thread
from ...recording import Recorder, open_recording
from ..record.sink import RecordingSink
from .simulated import SimulatedPipeline, simulated_probe

SCHEMA = "janoscope-bench-record/1"
STEP_S = 0.1  # of the simulated accelerator


@dataclass(frozen=True)
class Case:
    """A size. guided: two branches, so that four signals are recorded a step instead of two; values are bfloat16."""

    name: str
    cells: tuple[int, int, int]
    guided: bool
    steps: int = 10
    repeats: int = 7
    file_repeats: int = 15  # of writing and reading, where other users of the disk are felt

    @property
    def grid(self) -> TokenGrid:
        return TokenGrid(16, self.cells, (1, 2, 2))

    @property
    def signals(self) -> int:
        return 4 if self.guided else 2


CASES = (Case("flux-1024", (1, 128, 128), guided=False), Case("wan-480p", (21, 60, 104), guided=True))
SMALL_CASES = tuple(Case(f"{c.name}-small", (1, 12, 20), c.guided, steps=3, repeats=2, file_repeats=2) for c in CASES)
# ratio -> (limit, whether it is the least allowed); writing and curves are asked of the largest case
LIMITS = {"overhead_flux": (0.01, False), "overhead_wan": (0.10, False), "write_ratio": (0.6, True), "curve_ratio": (0.05, False)}


def bench_record(
    cases: tuple[Case, ...] = CASES, scratch: Path | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """All measurements of this process; ratios, spreads, limits and whether they are kept.

    Takes about a minute and writes about 500 MB under `scratch`, which are removed again.
    """
    with one_torch_thread(), tempfile.TemporaryDirectory(dir=scratch) as folder:
        overheads = {}
        for case in cases:
            say(f"{case.name}: overhead of {case.signals} signals, {case.repeats} pairs of {case.steps} steps")
            overheads[case.name] = _overhead(case, Path(folder))
        largest = cases[-1]
        say(f"{largest.name}: writing and reading")
        files = _files(largest, Path(folder))
    ratios = {
        "overhead_flux": overheads[cases[0].name]["fastest"],
        "overhead_wan": overheads[cases[-1].name]["fastest"],
        "write_ratio": files["write_ratio"]["fastest"],
        "curve_ratio": files["curve_ratio"]["fastest"],
    }
    return {
        "schema": SCHEMA,
        "ratios": ratios,
        "limits": {name: limit for name, (limit, _) in LIMITS.items()},
        "within": {name: _within(name, value) for name, value in ratios.items()},
        "step_s": STEP_S,
        "overhead": overheads,
        "files": files,
        "cases": [asdict(case) for case in cases],
        "machine": _machine(),
        "packages": installed_versions(),
    }


def describe_bench(result: Mapping[str, Any]) -> str:
    """A table for people; where a limit is missed it says so."""
    words = {
        "overhead_flux": "recording over a 100 ms step, Flux size",
        "overhead_wan": "recording over a 100 ms step, Wan size, four signals",
        "write_ratio": "writing with checksums against raw writes",
        "curve_ratio": "one token's curve against reading all",
    }
    lines = ["| ratio | measured | limit | |", "|---|---|---|---|"]
    for name, value in result["ratios"].items():
        least = LIMITS[name][1]
        kept = "" if result["within"][name] else "missed"
        lines.append(f"| {words[name]} | {value:.4f} | at {'least' if least else 'most'} {result['limits'][name]} | {kept} |")
    machine = result["machine"]
    spreads = ", ".join(f"{name} {o['least']:.4f} to {o['most']:.4f}" for name, o in result["overhead"].items())
    first = ", run before all other processes (real-time priority)" if machine["real_time"] else ""
    told = f"{machine['cpus']} CPUs, load {machine['load']:.1f}{first}, one torch thread."
    lines += ["", f"Overhead of single pairs: {spreads}. {told}"]
    return "\n".join(lines)


def _machine() -> dict[str, Any]:
    real_time = hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    return {"cpus": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[0], "real_time": real_time}


def _within(name: str, value: float) -> bool:
    limit, least = LIMITS[name]
    return value >= limit if least else value <= limit


def _ratio(above: list[float], below: list[float], less: float = 0.0) -> dict[str, float]:
    """Fastest over fastest, minus `less`, and the ratios of neighbours."""
    pairs = [a / b - less for a, b in zip(above, below, strict=True)]
    median = statistics.median(pairs)
    return {"fastest": min(above) / min(below) - less, "median": median, "least": min(pairs), "most": max(pairs)}


def _overhead(case: Case, folder: Path) -> dict[str, float]:
    """Wall time of a recorded loop over a plain one, minus 1; the file's closing is not part of the generation's steps."""
    calls = 2 if case.guided else 1
    pipeline = SimulatedPipeline(case.grid, call_s=STEP_S / calls, dtype=torch.bfloat16)
    plain, recorded = [], []
    for _ in range(case.repeats):
        plain.append(_seconds(lambda: pipeline(case.steps, guided=lambda step: case.guided)))
        with Capture(pipeline, simulated_probe(), RecordingSink(folder / "overhead.h5", {}, force=True)):
            recorded.append(_seconds(lambda: pipeline(case.steps, guided=lambda step: case.guided)))
    return _ratio(recorded, plain, less=1.0)


def _files(case: Case, folder: Path) -> dict[str, Any]:
    """Raw unbuffered writes, the recorder's, then reads, in turns; both writes end with fsync."""
    rng = np.random.default_rng(0)
    shape = (case.signals, case.grid.count, case.grid.token_channels)
    maps = rng.standard_normal(shape, dtype=np.float32).astype(np.float16)
    raw, recorded, curve, whole = [], [], [], []
    for _ in range(case.file_repeats):
        for name in ("raw.bin", "run.h5"):  # both begin with a new file: freeing the old one's pages is not writing
            (folder / name).unlink(missing_ok=True)
        raw.append(_seconds(lambda: _write_raw(folder / "raw.bin", maps, case.steps)))
        recorded.append(_seconds(lambda: _write_recording(folder / "run.h5", maps, case)))
        one, every = _read_times(folder / "run.h5", case.grid.count // 2)
        curve.append(one)
        whole.append(every)
    ratios = {"write_ratio": _ratio(raw, recorded), "curve_ratio": _ratio(curve, whole)}
    return ratios | {"bytes": maps.nbytes * case.steps}


def _read_times(path: Path, token: int) -> tuple[float, float]:
    """Seconds for one token's curve, and for all tokens of the same signal and branch."""
    with open_recording(path) as recording:
        whole = _seconds(lambda: recording.read("model_output", raw=True))
        return min(_seconds(lambda: recording.curve("model_output", token, raw=True)) for _ in range(3)), whole


def _write_raw(path: Path, maps: np.ndarray, steps: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(steps):
            for one in maps:
                file.write(one)
        os.fsync(file.fileno())


def _write_recording(path: Path, maps: np.ndarray, case: Case) -> None:
    names = ("guided", "cond", "uncond")[: case.signals - 1]
    with Recorder(path, grid=case.grid, prediction_type="flow", branches=names, planned_steps=case.steps, force=True) as recorder:
        for step in range(case.steps):
            recorder.put("sample", maps[0])
            for name, one in zip(names, maps[1:], strict=True):
                recorder.put("model_output", one, branch=name)
            recorder.commit(timestep=step, alpha=0.5, sigma=0.5)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
