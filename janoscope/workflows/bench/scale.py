"""Bench of scale: merging manifests, writing, reading and reducing recordings, scoring policies; CPU seconds of one core."""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...grid import TokenGrid
from ...pipeline.provenance import installed_versions
from ...pipeline.threads import one_torch_thread
from ...recording import Recorder, open_recording
from ..analyze.trajectory import RunView
from ..calibrate.search import drawn_policy
from ..calibrate.space import Space
from ..calibrate.tracks import TOKENS, Tracks, reduce_recording
from ..record.gather import gather_shards
from ..record.manifest import COMPLETE, MANIFEST, Entry, sha256_of
from .cluster_cost import GB

SCHEMA = "janoscope-bench-scale/1"
BRANCHES, PATCH = ("guided", "cond", "uncond"), (1, 2, 2)
WAN = (6, 60, 104)  # latent cells: a part of a clip of Wan at 480p, what is measured is proportional to tokens
STEPS = 50
SMALL = (2, 12, 16)
CANDIDATES = 500
RECIPES = 8  # as many as there were machines: each opens one recording


def bench_scale(
    manifests: int = 1000,
    cells: tuple[int, int, int] = WAN,
    steps: int = STEPS,
    repeats: int = 3,
    scratch: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """All measurements of this process; of merging, writing and reading the fastest of `repeats`.

    Takes about a minute of CPU and writes 300 MB under `scratch`, which are removed again.

    A manifest holds one recording; their files are links to one, as what is merged does not depend on what they hold.
    """
    with one_torch_thread(), tempfile.TemporaryDirectory(dir=scratch) as folder:
        say(f"merging {manifests} manifests")
        merge_s = _merge(Path(folder), manifests, repeats)
        say(f"writing, reading and reducing {cells} latent cells, {steps} steps")
        write_s, read_s, size = _files(Path(folder), cells, steps, repeats)
        reduce_s, sort_s, score_s, maps = _replay(Path(folder) / "run.h5")
    return {
        "schema": SCHEMA,
        "manifests": manifests,
        "merge_cpu_s": merge_s,
        "write_cpu_s_a_gb": write_s / size * GB,
        "read_cpu_s_a_gb": read_s / size * GB,
        "reduce_cpu_s_a_gb": reduce_s / size * GB,
        "sort_cpu_s_a_million_tokens": sort_s / TokenGrid(16, cells, PATCH).count * 1e6,
        "score_cpu_s": score_s,
        "maps": maps,
        "bytes": size,
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[0]},
        "packages": installed_versions(),
    }


def _merge(folder: Path, manifests: int, repeats: int) -> float:
    recording = _write(folder / "one.h5", SMALL, 2)
    told: dict[str, Any] = {"sha256": sha256_of(recording), "bytes": recording.stat().st_size, "steps": 2}
    for at in range(manifests):
        directory = folder / "shards" / f"{at:05d}"
        directory.mkdir(parents=True)
        os.link(recording, directory / f"{at:04d}.h5")
        entry = Entry(f"{at:04d}.h5", at, f"prompt {at}", 0, COMPLETE, f"recipe {at % RECIPES}", **told)
        (directory / MANIFEST).write_text(json.dumps(asdict(entry)) + "\n", encoding="utf-8")

    merged: list[int] = []
    seconds = min(_cpu_seconds(lambda: merged.append(len(gather_shards([folder / "shards"]).recordings))) for _ in range(repeats))
    if set(merged) != {manifests}:
        raise RuntimeError(
            f"merging {manifests} manifests of a recording each gave {merged} recordings; these times mean nothing."
        )
    return seconds


def _files(folder: Path, cells: tuple[int, int, int], steps: int, repeats: int) -> tuple[float, float, int]:
    """CPU seconds to write a recording, all threads together, and to read it as the analysis does; its bytes."""
    path, written, read = folder / "run.h5", [], []
    for _ in range(repeats):
        path.unlink(missing_ok=True)
        written.append(_cpu_seconds(lambda: _write(path, cells, steps)))
        read.append(_cpu_seconds(lambda: _read(path)))
    return min(written), min(read), path.stat().st_size


def _replay(path: Path) -> tuple[float, float, float, int]:
    """CPU seconds to reduce a recording, to put one of its maps in order, and to score a candidate; how many maps there are."""
    started = time.process_time()
    tracks = Tracks([reduce_recording(path, TOKENS[0])])
    reduced = time.process_time() - started
    space = Space.of_span(tracks.grid, tracks.steps, tracks.spans(None)[0])
    if space is None:
        raise InputError(f"{tracks.steps} steps are too few for any policy that skips; measure more steps.")
    maps = list(space.mapping_policies())
    tracks.score(maps[0])  # counts FLOPs once
    rng = np.random.default_rng(0)
    drawn = [drawn_policy(space, rng) for _ in range(CANDIDATES)]
    sort_s = _cpu_seconds(lambda: [tracks.order(policy) for policy in maps]) / len(maps)
    for policy in drawn:
        tracks.order(policy)  # random maps, which no recording holds
    return reduced, sort_s, _cpu_seconds(lambda: [tracks.score(policy) for policy in drawn]) / CANDIDATES, len(maps)


def _write(path: Path, cells: tuple[int, int, int], steps: int) -> Path:
    grid = TokenGrid(16, cells, PATCH)
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((grid.count, grid.token_channels), dtype=np.float32)
    outputs = {branch: sample.astype(np.float16) for branch in BRANCHES}
    with Recorder(path, grid=grid, prediction_type="flow", branches=BRANCHES, planned_steps=steps) as recorder:
        for step in range(steps):
            recorder.put("sample", sample)
            for branch, output in outputs.items():
                recorder.put("model_output", output, branch=branch)
            sigma = 1 - step / steps
            recorder.commit(timestep=1000 * sigma, alpha=1 - sigma, sigma=sigma)
    return path


def _read(path: Path) -> None:
    with open_recording(path) as recording:
        view = RunView(recording)
        for step in range(view.steps):
            view.step(step)


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
