"""Result files of a small made-up generation: a disc over a smooth sky, recorded, analysed and planned by the package itself."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from janoscope.analysis import (
    Enhancement,
    jano_complexity,
    map_predicts,
    measure_convergence,
    ras_importance,
    separation,
    tile_of_tokens,
    token_means,
)
from janoscope.grid import TokenGrid
from janoscope.plan import Fingerprint, Plan, Policy, TokenLevel, make_plan
from janoscope.recording import Recorder, open_recording

PICTURE = TokenGrid(channels=3, cells=(1, 14, 22), patch=(1, 2, 2))
CLIP = TokenGrid(channels=3, cells=(3, 10, 14), patch=(1, 2, 2))
WARMUP = 4
RAS_STEPS = (0, 3, 5, 9)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Made:
    """An analysis directory and what went into it."""

    directory: Path
    recording: Path
    facts: dict
    arrays: dict[str, np.ndarray]
    plan: Plan
    picture: np.ndarray
    x0: np.ndarray  # (step, token, channel)


def make_results(
    folder: Path,
    *,
    grid: TokenGrid = PICTURE,
    steps: int = 13,
    prompt: str = "a red disc, blue sky",
    pixels: int = 8,
    seed: int = 3,
) -> Made:
    """Write run.h5, run.png and run/{analysis.json, analysis.npz, plan.json} under `folder`."""
    rng = np.random.default_rng(seed)
    clean = scene(grid, rng)
    sigma = np.linspace(1, 1 / steps, steps)
    noise = rng.standard_normal((grid.count, grid.token_channels)).astype(np.float32)
    velocity, sample = generate(grid.pack(clean), noise, sigma, grid, rng)
    x0 = sample - sigma[:, None, None] * velocity
    recording = folder / "run.h5"
    write_recording(recording, grid, velocity, sample, sigma, prompt, seed)
    picture = paint(clean, pixels)
    write_picture(folder / "run.png", picture)
    facts, arrays, plan = analyse(grid, velocity, sample, x0, sigma, prompt, seed)
    directory = folder / "run"
    directory.mkdir()
    (directory / "analysis.json").write_text(json.dumps(facts), encoding="utf-8")
    np.savez(directory / "analysis.npz", **arrays)
    (directory / "plan.json").write_text(plan.to_text(), encoding="utf-8")
    return Made(directory, recording, facts, arrays, plan, picture, x0)


def scene(grid: TokenGrid, rng: np.random.Generator) -> np.ndarray:
    """(channel, frame, row, col) in about -1..1: a gradient, and a textured disc that moves from frame to frame."""
    frames, rows, cols = grid.cells
    y, x = (np.arange(rows)[:, None] + 0.5) / rows, (np.arange(cols)[None, :] + 0.5) / cols
    latent = np.empty((grid.channels, *grid.cells), dtype=np.float32)
    texture = rng.standard_normal((grid.channels, rows, cols)) * 0.35
    colour = np.linspace(0.9, -0.6, grid.channels)
    for frame in range(frames):
        away = np.hypot((y - 0.55) * rows / cols, x - 0.35 - 0.15 * frame / frames)
        disc = (away < 0.2)[None]
        sky = np.stack([0.6 * y + 0 * x - 0.3 * channel / grid.channels for channel in range(grid.channels)])
        latent[:, frame] = np.where(disc, colour[:, None, None] + texture, sky)
    return latent


def generate(
    clean: np.ndarray, noise: np.ndarray, sigma: np.ndarray, grid: TokenGrid, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Velocity and sample (step, token, channel) of a flow model whose x0 estimate is late where the scene is textured."""
    blurred = clean.mean(axis=0, keepdims=True)
    late = np.clip(np.abs(clean - clean.mean(axis=1, keepdims=True)).mean(axis=1) * 6, 0.15, 1)[:, None]
    sample, outputs, samples = noise.copy(), [], []
    for step, level in enumerate(sigma):
        done = np.clip((1 - level) / late, 0, 1) ** 0.7
        x0 = blurred + done * (clean - blurred) + 0.02 * level * rng.standard_normal(clean.shape)
        velocity = (sample - x0) / level
        outputs.append(velocity)
        samples.append(sample.copy())
        following = sigma[step + 1] if step + 1 < len(sigma) else 0.0
        sample = sample + (following - level) * velocity
    return np.stack(outputs).astype(np.float32), np.stack(samples).astype(np.float32)


def record_as_epsilon(made: Made, path: Path) -> None:
    """The same run as a network that predicts the noise would have been recorded: same samples, same x0 estimates."""
    grid, sigma = made.plan.fingerprint.grid, made.arrays["sigma"]
    with open_recording(made.recording) as run:
        sample = run.read("sample")
    with Recorder(path, grid=grid, prediction_type="epsilon", planned_steps=len(sigma)) as recorder:
        for step, level in enumerate(sigma):
            recorder.put("model_output", (sample[step] - (1 - level) * made.x0[step]) / level)
            recorder.put("sample", sample[step])
            recorder.commit(timestep=1000 * level, alpha=1 - level, sigma=level)


def write_recording(
    path: Path, grid: TokenGrid, velocity: np.ndarray, sample: np.ndarray, sigma: np.ndarray, prompt: str, seed: int
) -> None:
    run = {"prompt": prompt, "seed": seed}
    with Recorder(path, grid=grid, prediction_type="flow", planned_steps=len(sigma), provenance={"run": run}) as recorder:
        for step, level in enumerate(sigma):
            recorder.put("model_output", velocity[step])
            recorder.put("sample", sample[step])
            recorder.commit(timestep=1000 * level, alpha=1 - level, sigma=level)


def paint(clean: np.ndarray, pixels: int) -> np.ndarray:
    """uint8 (frame, row, col, 3): the first three channels, each cell `pixels` wide."""
    colours = np.clip(np.moveaxis(clean[:3], 0, -1) * 0.4 + 0.5, 0, 1)
    return np.repeat(np.repeat((255 * colours).round().astype(np.uint8), pixels, axis=1), pixels, axis=2)


def write_picture(path: Path, picture: np.ndarray) -> None:
    first, *others = [Image.fromarray(frame) for frame in picture]
    first.save(path, **({"save_all": True, "append_images": others} if others else {}))


def policy_for(grid: TokenGrid) -> Policy:
    clip = grid.cells[0] > 1
    table = {
        "name": "test/1", "map": "jano", "warmup": WARMUP, "cooldown": 2, "tile": [2 if clip else 1, 4, 4],
        "temporal_weight": 0.5 if clip else 0.0, "enhance": {"strength": 0.8, "distance": 2}, "tokens": "majority",
        "thresholds": {"static": 0.2, "moderate": 0.55}, "intervals": {"static": 5, "moderate": 3, "active": 1},
        "source": "made up",
    }  # fmt: skip
    return Policy.from_table(table, "test policy")


def analyse(
    grid: TokenGrid, velocity: np.ndarray, sample: np.ndarray, x0: np.ndarray, sigma: np.ndarray, prompt: str, seed: int
) -> tuple[dict, dict, Plan]:
    """analysis.json as a dict, analysis.npz as arrays, and the plan."""
    policy, steps = policy_for(grid), len(sigma)
    signals = grid.unpack(np.concatenate([sample[:1], velocity[:WARMUP]]))
    maps = jano_complexity(signals, policy.tile, temporal_weight=policy.temporal_weight, enhance=Enhancement(0.8, 2))
    settled = measure_convergence(velocity, x0)
    ras = np.asarray(ras_importance(velocity[WARMUP], grid, sigma=sigma[WARMUP], sigma_next=sigma[WARMUP + 1]))
    guidance = {"scale": 3.5, "negative_prompt": None}
    made_for = Fingerprint("tiny/flow", {"class": "Tiny", "sha256": "0" * 64}, grid, steps, "FlowMatch", guidance, prompt, seed)
    plan = make_plan(policy, maps.enhanced, made_for)
    points = chosen_points(grid, plan)
    at = [grid.token_at(*(point[axis] for axis in ("frame", "row", "col"))) for point in points]
    rms = np.sqrt((velocity**2).mean(axis=-1))
    raw = np.sqrt((np.diff(velocity, axis=0) ** 2).mean(axis=-1))
    arrays = {
        "complexity_temporal": maps.temporal, "complexity_spatial": maps.spatial, "complexity_combined": maps.combined,
        "complexity_enhanced": maps.enhanced, "ras_importance": ras, "convergence_step": settled.convergence_step,
        "reuse_error": settled.reuse_error, "flow_velocity_change": settled.relative_change[1:],
        "x0_distance": settled.x0_distance,
        "raw_change": raw, "point_raw": rms[:, at].T, "point_velocity": rms[:, at].T, "timestep": 1000 * sigma, "sigma": sigma,
        "alpha": 1 - sigma, **over_the_run(grid, plan, velocity, sigma, settled, raw),
    }  # fmt: skip
    score = token_means(maps.enhanced, grid, policy.tile)
    groups = tile_of_tokens(grid, policy.tile)
    targets = {"convergence_step": settled.convergence_step, "reuse_error": settled.reuse_error}
    active, static = plan.ranks == TokenLevel.ACTIVE.rank, plan.ranks == TokenLevel.STATIC.rank
    apart = separation(settled.velocity_change, active, static, groups=groups)
    facts = {
        "schema": "janoscope-analysis/2",
        "recording": "run.h5",
        "run": {"model": "tiny/flow", "prompt": prompt, "seed": seed, "steps": steps, "guidance": 3.5, "complete": True},
        "grid": grid.to_json(),
        "conversion": {"prediction_type": "flow", "method": "backward", "time_unit": "sigma", "sign": "toward noise"},
        "complexity": {
            "policy": policy.name, "warmup": WARMUP, "tile": list(policy.tile), "tile_grid": list(grid.tiles(policy.tile)),
            "temporal_weight": policy.temporal_weight, "padding": "count", "initial_latent": True,
            "enhance": {"strength": 0.8, "distance": 2}, "nonfinite": 0,
        },
        "convergence": {"tolerance": 0.1, "hold_steps": 7, **by_level(plan, settled)},
        "predicted": {name: getattr(plan.predicted, name) for name in ("compute", "speedup", "cache_bytes")},
        "map_predicts": [
            {"map": found.map, "warmup": WARMUP, "target": found.target, **scored(found)}
            for found in map_predicts({"jano": score, "ras": ras}, targets, groups=groups)
        ],
        "ras_predicts": ras_predicts(arrays, targets, groups),
        "notes": [],
        "curves": {"groups": ["static", "moderate", "active", "all"], "quantiles": list(QUANTILES)},
        "shown_frames": list(range(min(2, grid.tokens[0]))),
        "separation": {"raw": estimate("auroc", apart), "converted": estimate("auroc", apart)},
        "points": points,
        "reduction": "rms",
        "versions": {"janoscope": "0.1.0", "numpy": np.__version__},
        "nonfinite": {"model_output": 0, "sample": 0},
    }  # fmt: skip
    return facts, arrays, plan


def over_the_run(grid: TokenGrid, plan: Plan, velocity: np.ndarray, sigma: np.ndarray, settled, raw: np.ndarray) -> dict:
    """RAS importance at RAS_STEPS, masked tokens, and the quantile curves by level."""
    following = np.append(sigma[1:], 0.0)
    ras = [ras_importance(velocity[at], grid, sigma=sigma[at], sigma_next=following[at]) for at in RAS_STEPS]
    groups = [*(plan.ranks == level.rank for level in TokenLevel), np.ones(grid.count, bool)]
    measured = {"x0_distance": settled.x0_distance, "velocity_change": settled.relative_change[1:], "raw_change": raw}
    curves = {
        f"curve_{name}_quantiles": np.stack([np.quantile(values[:, chosen], QUANTILES, axis=1) for chosen in groups])
        for name, values in measured.items()
    }
    importance = {"ras_steps": np.array(RAS_STEPS), "ras_importance_steps": np.stack(ras)}
    return importance | curves | {"masked_tokens": np.zeros(grid.count, bool)}


def ras_predicts(arrays: dict, targets: dict, groups: np.ndarray) -> list[dict]:
    maps = {str(step): -values for step, values in zip(RAS_STEPS, arrays["ras_importance_steps"], strict=True)}
    return [
        {"step": int(found.map), "target": found.target, **scored(found)} for found in map_predicts(maps, targets, groups=groups)
    ]


def chosen_points(grid: TokenGrid, plan: Plan) -> list[dict]:
    frame, row, col = grid.places()
    points = []
    for level in TokenLevel:
        tokens = np.flatnonzero(plan.ranks == level.rank)
        for token in tokens[[len(tokens) // 3, -1]] if level is TokenLevel.ACTIVE else tokens[[len(tokens) // 2]]:
            place = {"frame": int(frame[token]), "row": int(row[token]), "col": int(col[token])}
            points.append({"name": "ABCD"[len(points)], **place, "level": level.value})
    return points


def by_level(plan: Plan, settled) -> dict:
    """`by_level` and `whole_run` of the convergence."""
    groups = {level.value: plan.ranks == level.rank for level in TokenLevel} | {"all": np.ones(plan.ranks.size, bool)}
    found = {
        name: {
            "tokens": int(chosen.sum()),
            "convergence_step_median": float(np.median(settled.convergence_step[chosen])),
            "velocity_convergence_step_median": float(np.median(settled.velocity_convergence_step()[chosen])),
            "reuse_error_median": float(np.median(settled.reuse_error[chosen])),
        }
        for name, chosen in groups.items()
    }
    return {"whole_run": found.pop("all"), "by_level": found}


def scored(found) -> dict:
    agreement = estimate("agreement", found.agreement)
    return {
        **estimate("spearman", found.spearman), "agreement": agreement["agreement"], "agreement_interval": agreement["interval"],
    }  # fmt: skip


def estimate(name: str, found) -> dict:
    """As study writes an Estimate: null where it is not defined."""
    numbers = [None if math.isnan(value) else float(value) for value in (found.value, found.low, found.high)]
    return {name: numbers[0], "interval": numbers[1:]}


def add_applied(made: Made) -> dict:
    """Write apply.json with its two pictures; returns its content."""
    reference = made.picture
    shade = np.zeros(reference.shape, dtype=np.int16)
    shade[:, : reference.shape[1] // 2] = 17  # the upper half is off by a known amount
    output = np.clip(reference.astype(np.int16) - shade, 0, 255).astype(np.uint8)
    write_picture(made.directory / "reference.png", reference)
    write_picture(made.directory / "applied.png", output)
    tokens = {kind: int((made.plan.ranks >= kind.least_rank).sum()) for kind in set(made.plan.step_kind)}
    steps = [
        {"step": step, "kind": kind.value, "tokens": tokens[kind], "flops": 10**9 * tokens[kind], "calls": 1, "forced": False}
        for step, kind in enumerate(made.plan.step_kind)
    ]
    applied = {
        "psnr": 27.25, "ssim": 0.9123, "compute": 0.5, "token_fraction": 0.5, "cache_bytes": 3 << 20, "speedup": 1.75,
        "account": {"compute": 0.5, "token_fraction": 0.5, "cache_bytes": 3 << 20, "nonfinite": 0, "token_levels": {},
                    "steps": steps},
        "output": "applied.png", "reference": "reference.png",
    }  # fmt: skip
    (made.directory / "apply.json").write_text(json.dumps(applied), encoding="utf-8")
    return applied
