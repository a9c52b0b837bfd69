"""Small recordings with known contents, written by the Recorder: noise that fades around a scene with a busy corner."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from janoscope.conversion import NoisePath, to_prediction
from janoscope.grid import TokenGrid
from janoscope.recording import Recorder, RecorderOptions

PICTURE = TokenGrid(channels=3, cells=(1, 22, 26), patch=(1, 2, 2))  # 11 x 13 tokens
CLIP = TokenGrid(channels=3, cells=(5, 14, 22), patch=(1, 2, 2))  # 5 x 7 x 11 tokens


@dataclass(frozen=True)
class Run:
    """A recording and what went into it: arrays (item, step, token, channel) float64 before they were stored."""

    path: Path
    grid: TokenGrid
    noise_path: NoisePath
    sample: np.ndarray
    output: np.ndarray
    velocity: np.ndarray
    x0: np.ndarray


@dataclass
class Recipe:
    grid: TokenGrid = PICTURE
    steps: int = 23
    kept: int | None = None  # fewer than steps: a run that was cut short
    prediction: str = "flow"
    items: int = 1
    dtype: str = "float32"
    seed: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)
    branches: tuple[str, ...] = ("guided",)
    broken: tuple[tuple[int, int], ...] = ()  # (step, token) that hold a NaN


def record_run(path: Path, **recipe: Any) -> Run:
    made = Recipe(**recipe)
    noise_path = path_of(made)
    runs = [generate(made, noise_path, item) for item in range(made.items)]
    arrays = {name: np.stack([run[name] for run in runs]) for name in ("sample", "output", "velocity", "x0")}
    for step, token in made.broken:
        arrays["output"][:, step, token, 1] = np.nan
    write(path, made, noise_path, arrays)
    kept = path if made.kept is None else path.with_suffix(".partial.h5")
    return Run(kept, made.grid, noise_path, **arrays)


def path_of(made: Recipe) -> NoisePath:
    timestep = np.linspace(980, 20, made.steps)
    if made.prediction == "flow":
        sigma = np.linspace(1, 1 / made.steps, made.steps)
        return NoisePath(1000 * sigma, 1 - sigma, sigma)
    angle = np.linspace(1.5, 0.1, made.steps)
    return NoisePath(timestep, np.cos(angle), np.sin(angle))


def generate(made: Recipe, noise_path: NoisePath, item: int) -> dict[str, np.ndarray]:
    """A run whose x0 estimate settles late where the scene is busy."""
    rng, grid = np.random.default_rng(made.seed + item), made.grid
    scene = np.zeros((grid.channels, *grid.cells))
    rows, cols = grid.cells[1] // 2, grid.cells[2] // 2
    scene[:, :, :rows, :cols] = rng.standard_normal((grid.channels, grid.cells[0], rows, cols))
    clean, noise = grid.pack(scene), rng.standard_normal((grid.count, grid.token_channels))
    late = np.where(np.abs(clean).max(axis=-1, keepdims=True) > 0, 1.0, 0.25)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("sample", "output", "velocity", "x0")}
    for step in range(made.steps):
        point = noise_path.at(step)
        done = np.clip((step + 1) / made.steps / late, 0, 1)
        x0 = done * clean + 0.3 * (1 - done) * rng.standard_normal(clean.shape)
        epsilon = noise + 0.2 * rng.standard_normal(clean.shape)
        sample = point.alpha * x0 + point.sigma * epsilon
        velocity = epsilon - x0 if made.prediction == "flow" else point.alpha_rate * x0 + point.sigma_rate * epsilon
        output = to_prediction(velocity, sample, prediction=made.prediction, point=point)
        for name, values in (("sample", sample), ("output", output), ("velocity", velocity), ("x0", x0)):
            found[name].append(values)
    return {name: np.stack(values) for name, values in found.items()}


def write(path: Path, made: Recipe, noise_path: NoisePath, arrays: dict[str, np.ndarray]) -> None:
    with Recorder(
        path,
        grid=made.grid,
        prediction_type=made.prediction,
        branches=made.branches,
        items=made.items,
        planned_steps=made.steps,
        provenance=made.provenance,
        options=RecorderOptions(store_dtype=made.dtype),
    ) as recorder:
        for step in range(made.kept or made.steps):
            for item in range(made.items):
                recorder.put("sample", arrays["sample"][item, step].astype(np.float32), item=item)
                for branch in made.branches:
                    scale = 1 if branch == "guided" else 0.5
                    values = (scale * arrays["output"][item, step]).astype(np.float32)
                    recorder.put("model_output", values, item=item, branch=branch)
            levels = {"alpha": float(noise_path.alpha[step]), "sigma": float(noise_path.sigma[step])}
            recorder.commit(timestep=float(noise_path.timestep[step]), **levels)
        if made.kept is not None:
            recorder.close("stopped by the test")
