"""Bench of the analysis: its time against work that no analysis can avoid, its memory above the process. One thread, one run.

Each measurement is a process of its own (`python -m janoscope.workflows.bench.analyze TASK`), so that one peak hides no other.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ...analysis import jano_complexity
from ...errors import TaskFailed
from ...grid import TokenGrid, Triple
from ...plan import Policy
from ...recording import Recorder, open_recording
from ..analyze.recording import analyze_to_directory

SCHEMA = "janoscope-bench-analyze/1"
MIB = 2**20
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class MapCase:
    """The complexity map to time: signals of (channel, frame, row, col) cells, cut into tiles."""

    signals: int = 7
    channels: int = 16
    cells: Triple = (21, 60, 104)
    tile: Triple = (7, 6, 8)
    temporal_weight: float = 0.7
    repeats: int = 25


@dataclass(frozen=True)
class RunCase:
    """The recording to analyse: by default the size of Wan 14B at 720p, two branches and the guided prediction, in bfloat16."""

    channels: int = 16
    cells: Triple = (21, 90, 160)
    patch: Triple = (1, 2, 2)
    tile: Triple = (7, 6, 8)
    steps: int = 50
    warmup: int = 6


SMALL_MAP = MapCase(cells=(7, 12, 16), repeats=3)
SMALL_RUN = RunCase(cells=(7, 18, 16), steps=10)
# name of a ratio or size -> what it may be at most
LIMITS = {"map_time_ratio": 3.0, "map_memory_mib": 250.0, "run_time_ratio": 10.0, "run_memory_mib": 1.2 * 1024}


def bench_analyze(
    map_case: MapCase | None = None,
    run_case: RunCase | None = None,
    scratch: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time and memory of the complexity map and of a whole analysis, with the limits they are held to.

    map: against its Gram products alone, one batched matmul of the same shapes, timed in turns. run: `analyze` with its files
    written, against one pass that reads every map of the recording and widens it to float32, before and after; the recording
    is written to `scratch` (default: the system's temporary folder) and deleted. Times are CPU times of one thread, of the map
    the shortest of several: what else the machine does then weighs little.
    """
    map_case, run_case = map_case or MapCase(), run_case or RunCase()
    say("complexity map")
    whole_map = _measure("map", asdict(map_case))
    run = _bench_run(run_case, scratch, say)
    figures = {
        "map_time_ratio": whole_map["seconds"] / whole_map["gram_seconds"],
        "map_memory_mib": whole_map["peak_bytes"] / MIB,
        "run_time_ratio": run["analysis_s"] / statistics.mean(run["passes_s"]),
        "run_memory_mib": run.pop("peak_bytes") / MIB,
    }
    return {
        "schema": SCHEMA,
        "map_case": asdict(map_case),
        "run_case": asdict(run_case),
        "map": whole_map,
        **run,
        "figures": figures,
        "limits": LIMITS,
        "within": {name: figures[name] <= limit for name, limit in LIMITS.items()},
        "machine": {"python": sys.version.split()[0], "numpy": np.__version__, "cores": os.cpu_count()},
    }


def _bench_run(case: RunCase, scratch: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=scratch, prefix="janoscope-bench-") as folder:
        path = str(Path(folder) / "run.h5")
        say("writing the recording")
        told = {"path": path, "output": str(Path(folder) / "out"), **asdict(case)}
        written = _measure("write", told)
        say("pass over the recording, analysis, pass over the recording")
        before, analysis, after = (_measure(task, told) for task in ("pass", "analyze", "pass"))
    return {
        "recording_bytes": written["bytes"],
        "passes_s": [before["seconds"], after["seconds"]],
        "analysis_s": analysis["seconds"],
        "analysis_wall_s": analysis["wall_s"],
        "peak_bytes": analysis["peak_bytes"],
    }


def describe_bench(result: dict[str, Any]) -> str:
    """A Markdown table of the figures against their limits, and what they were measured on."""
    words = {
        "map_time_ratio": "complexity map, time over its Gram products",
        "map_memory_mib": "complexity map, MiB above the process",
        "run_time_ratio": "analysis, time over one pass that reads and widens",
        "run_memory_mib": "analysis, MiB above the process",
    }
    rows = [
        f"| {words[name]} | {value:.2f} | {result['limits'][name]:g} | {'yes' if result['within'][name] else '**no**'} |"
        for name, value in result["figures"].items()
    ]
    run, cells = result["run_case"], result["map_case"]
    tokens = np.prod([cell // patch for cell, patch in zip(run["cells"], run["patch"], strict=True)])
    return "\n".join(
        [
            "| figure | measured | limit | within |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Map: {cells['signals']} signals of {cells['channels']} x {' x '.join(map(str, cells['cells']))} cells, tile "
            f"{tuple(cells['tile'])}, shortest of {cells['repeats']}: {result['map']['seconds']:.3f} s against "
            f"{result['map']['gram_seconds']:.3f} s.",
            f"Analysis: {tokens} tokens, {run['steps']} steps, {result['recording_bytes'] / 1e9:.2f} GB in bfloat16 with the "
            f"guided prediction and two branches: {result['analysis_s']:.1f} s against passes of "
            f"{' and '.join(f'{seconds:.1f}' for seconds in result['passes_s'])} s.",
            f"CPU time of one thread (of {result['machine']['cores']} cores), Python {result['machine']['python']}, NumPy "
            f"{result['machine']['numpy']}; the file lay in the page cache. Each ratio is taken in one run. On a machine that "
            f"others use too: the analysis took {result['analysis_wall_s']:.1f} s of wall time.",
        ]
    )


def _measure(task: str, told: dict[str, Any]) -> dict[str, Any]:
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, "1")
    command = [sys.executable, "-m", "janoscope.workflows.bench.analyze", task, json.dumps(told)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TaskFailed(
            f"bench task {task} failed: {done.stderr.strip().splitlines()[-1:] or 'killed'}; is there room on the disk?"
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# --- what runs in the process of its own ---


def _map(**told: Any) -> dict[str, Any]:
    case: MapCase = _case(MapCase, told)
    rng = np.random.default_rng(0)
    signals = rng.standard_normal((case.signals, case.channels, *case.cells), dtype=np.float32)
    make = lambda: jano_complexity(signals, case.tile, temporal_weight=case.temporal_weight)
    _, peak = _peak(make)
    vectors = _gram_input(signals, case.tile)
    gram = lambda: np.matmul(np.matrix_transpose(vectors), vectors)
    times: dict[str, list[float]] = {"seconds": [], "gram_seconds": []}
    gram()
    for _ in range(case.repeats):  # in turns: what else the machine does meets both
        for name, function in (("seconds", make), ("gram_seconds", gram)):
            times[name].append(_seconds(function))
    return {name: min(values) for name, values in times.items()} | {"peak_bytes": peak}


def _gram_input(signals: np.ndarray, tile: Triple) -> np.ndarray:
    """(signal, tile, frame, channel, position): the vectors whose products the map cannot do without; the tile must divide."""
    count, channels, *cells = signals.shape
    (nt, nh, nw), (bt, bh, bw) = (cell // size for cell, size in zip(cells, tile, strict=True)), tile
    split = signals.reshape(count, channels, nt, bt, nh, bh, nw, bw).transpose(0, 2, 4, 6, 3, 1, 5, 7)
    return np.ascontiguousarray(split).reshape(count, nt * nh * nw, bt, channels, bh * bw)


def _write(path: str, **told: Any) -> dict[str, Any]:
    """A recording whose values fade from noise to a scene; made from a few arrays, rolled, since drawing is the slow part."""
    case: RunCase = _case(RunCase, told)
    grid = TokenGrid(case.channels, case.cells, case.patch)
    rng = np.random.default_rng(0)
    noise, scene, jitter = (rng.standard_normal((grid.count, grid.token_channels), dtype=np.float32) for _ in range(3))
    sigma = np.linspace(1, 1 / case.steps, case.steps)
    branches = ("guided", "cond", "uncond")
    with Recorder(path, grid=grid, prediction_type="flow", branches=branches, planned_steps=case.steps) as recorder:
        for step, level in enumerate(sigma):
            velocity = noise - scene + np.float32(0.3 * level) * np.roll(jitter, 7919 * step)
            recorder.put("sample", _bits(np.float32(1 - level) * scene + np.float32(level) * noise), dtype="bfloat16")
            for branch, scale in zip(branches, (1.0, 0.9, 0.8), strict=True):
                recorder.put("model_output", _bits(np.float32(scale) * velocity), branch=branch, dtype="bfloat16")
            recorder.commit(timestep=1000 * level, alpha=1 - level, sigma=level)
    return {"bytes": Path(path).stat().st_size}


def _bits(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _pass(path: str, **_: Any) -> dict[str, Any]:
    with open_recording(path) as recording:
        return {"seconds": _seconds(lambda: _read_all(recording))}


def _read_all(recording: Any) -> None:
    for step in range(recording.steps):
        recording.map("sample", step)
        for branch in recording.branches:
            recording.map("model_output", step, branch=branch)


def _analyze(path: str, output: str, **told: Any) -> dict[str, Any]:
    case: RunCase = _case(RunCase, told)
    table = {
        "name": "bench",
        "warmup": case.warmup,
        "cooldown": 4,
        "tile": list(case.tile),
        "temporal_weight": 0.7,
        "quantiles": {"static": 0.4, "moderate": 0.7},
        "intervals": {"static": 6, "moderate": 4},
    }
    policy = Policy.from_table(table, "the bench's policy")
    start, cpu = time.perf_counter(), time.process_time()
    _, peak = _peak(lambda: analyze_to_directory(Path(path), Path(output), policy=policy))
    return {"seconds": time.process_time() - cpu, "wall_s": time.perf_counter() - start, "peak_bytes": peak}


def _case(kind: Any, told: dict[str, Any]) -> Any:
    """A case from its JSON, in which tuples became lists; what it does not know belongs to the task."""
    known = {field.name for field in fields(kind)}
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in told.items() if key in known})


def _seconds(function: Callable[[], Any]) -> float:
    """CPU time, user and system: with one thread that is wall time, less what other processes took."""
    start = time.process_time()
    function()
    return time.process_time() - start


def _peak(function: Callable[[], Any]) -> tuple[Any, int]:
    """The result, and the bytes by which the process grew at most while it was made (Linux; elsewhere since its start)."""
    base = _resident("VmRSS")
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # forget the peak so far
    result = function()
    return result, _resident("VmHWM") - base


def _resident(field: str) -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


_TASKS: dict[str, Callable[..., dict[str, Any]]] = {"map": _map, "write": _write, "pass": _pass, "analyze": _analyze}

if __name__ == "__main__":
    print(json.dumps(_TASKS[sys.argv[1]](**json.loads(sys.argv[2]))))
