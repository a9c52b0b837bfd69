"""A small recording whose axes all have different sizes, so that a swap cannot hide."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janoscope.grid import TokenGrid
from janoscope.recording import Recorder

GRID = TokenGrid(channels=3, cells=(1, 4, 10), patch=(1, 2, 2))  # 10 tokens of 12 channels
STEPS, ITEMS, BRANCHES = 5, 2, ("guided", "cond", "uncond")


def values(signal: str, step: int, item: int = 0, branch: str = "guided", dtype: Any = np.float32) -> np.ndarray:
    """(token, channel), different for every place."""
    seed = [len(signal), step, item, BRANCHES.index(branch)]
    return np.random.default_rng(seed).standard_normal((GRID.count, GRID.token_channels)).astype(dtype)


def write(path: Path, *, steps: int = STEPS, dtype: Any = np.float32, **options: Any) -> Recorder:
    """Record `steps` steps of every item and branch and close."""
    alpha = np.linspace(0.1, 0.9, max(steps, 1))
    arguments = {"prediction_type": "epsilon", "branches": BRANCHES, "items": ITEMS, "alpha": alpha, "sigma": 1 - alpha} | options
    with Recorder(path, grid=GRID, **arguments) as recorder:
        for step in range(steps):
            put_step(recorder, step, dtype)
            recorder.commit(timestep=1000 - step, time_s={"guided": 0.25}, peak_bytes=1 << 20)
    return recorder


def put_step(recorder: Recorder, step: int, dtype: Any = np.float32) -> None:
    for item in range(recorder.items):
        recorder.put("sample", values("sample", step, item, dtype=dtype), item=item)
        for branch in recorder.branches:
            recorder.put("model_output", values("model_output", step, item, branch, dtype), item=item, branch=branch)


@pytest.fixture
def sample_file(tmp_path: Path) -> Path:
    write(tmp_path / "run.h5", provenance={"run": {"prompt": "a cat", "seed": 7}})
    return tmp_path / "run.h5"


@pytest.fixture
def recording_values() -> Callable[..., np.ndarray]:
    return values


@pytest.fixture
def write_recording() -> Callable[..., Recorder]:
    return write


@pytest.fixture
def put_whole_step() -> Callable[..., None]:
    return put_step


@pytest.fixture
def grid() -> TokenGrid:
    return GRID
