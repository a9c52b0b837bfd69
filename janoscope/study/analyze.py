"""Analyze: a recording to velocity, convergence, maps and a plan; the files that hold them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import Complexity, Convergence, map_predicts, measure_convergence, separation, tile_of_tokens, token_means
from ..conversion import NoisePath, to_flow_velocity, to_x0
from ..errors import InputError
from ..execution import Identity, fingerprint_of
from ..plan import Fingerprint, Plan, Policy, highest, plan_from_ranks, run_facts, token_ranks
from ..plan.importance import warmup_scores
from ..probe import ProbeSheet, load_sheet, sheet_paths
from ..recording import Recording, open_recording
from .early_maps import early_maps
from .model import BUNDLED, bundled_directory, model_defaults, named_policy
from .points import Point, choose_points, reduce_channels

SCHEMA = "janoscope-analysis/1"
UNKNOWN = "unknown"
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Analysis:
    """What `analyze` found in one recording. `arrays` by the names of analysis.npz, `results` as in analysis.json."""

    plan: Plan
    complexity: Complexity
    convergence: Convergence
    results: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def apply_arguments(self) -> list[str]:
        """MODEL and options of the `apply` call that repeats this run."""
        run = self.results["run"]
        return [str(run["model"]), "-p", str(run["prompt"]), "--seed", str(run["seed"])]

    def __repr__(self) -> str:
        return f"<Analysis of {self.results['recording']}\n{self.complexity!r}\n{self.convergence!r}\n{self.plan.describe()}>"


class _Run:
    """One item of a recording as velocities and x0 estimates, converted as they are read."""

    def __init__(self, recording: Recording, item: int = 0):
        self.recording, self.item = recording, item
        final = recording.provenance["scheduler"]["final"]
        known = (float(final[0]), float(final[1])) if isinstance(final, list) else (1.0, 0.0)
        self.path = NoisePath(recording.timestep, recording.alpha, recording.sigma, known if recording.complete else None)
        self.prediction = recording.prediction_type

    def output(self, step: int) -> np.ndarray:
        return self.recording.map("model_output", step, self.item)

    def sample(self, step: int) -> np.ndarray:
        return self.recording.map("sample", step, self.item)

    def velocity(self, step: int) -> np.ndarray:
        point = self.path.at(step)
        return np.asarray(to_flow_velocity(self.output(step), self.sample(step), prediction=self.prediction, point=point))

    def x0(self, step: int) -> np.ndarray:
        return np.asarray(to_x0(self.output(step), self.sample(step), prediction=self.prediction, point=self.path.at(step)))

    def scores(self, policy: Policy) -> Complexity:
        grid, steps = self.recording.grid, slice(policy.warmup)
        samples = self.recording.latents("sample", self.item, steps=steps)
        outputs = self.recording.latents("model_output", self.item, steps=steps)
        return warmup_scores(policy, list(samples), list(outputs), path=self.path, prediction=self.prediction)


@dataclass(frozen=True)
class _Lazy:
    """A sequence whose entries are computed on indexing: a recording is never held whole."""

    length: int
    at: Callable[[int], np.ndarray]
    seen: Callable[[int], None] = lambda step: None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, step: int) -> np.ndarray:
        self.seen(step)
        return self.at(step)


def analyze(
    path: str | Path,
    *,
    policy: Policy | str | Path | None = None,
    points: Sequence[str] = (),
    reduction: str = "rms",
    probe: Path | None = None,
    partial: bool = False,
    on_step: OnStep | None = None,
) -> Analysis:
    """Analyse one recording.

    Args:
        policy: a Policy, preset name or file; by default the model's own, else the family's first preset.
        points: places to probe as `NAME=frame,row,col` in tokens; by default A-D from the most static to the most active.
        reduction: a token's channels as one number, `mean`, `rms` or `channel:K`.
        partial: accept a recording that was cut short.

    Raises:
        RecordingError: the file cannot be opened or trusted. InputError: policy, point or reduction do not fit it.
    """
    with open_recording(path, partial=partial) as recording:
        sheet = sheet_of_recording(recording, probe)
        chosen = policy if isinstance(policy, Policy) else policy_of_recording(recording, sheet, policy)
        if recording.steps < max(chosen.warmup, 2):
            raise InputError(
                f"{recording.path.name} holds {recording.steps} steps, fewer than the warm-up of {chosen.warmup} of policy {chosen.name}; "
                "choose a policy with a shorter warm-up."
            )
        return _analyze(recording, sheet, chosen, points, reduction, on_step)


def _analyze(
    recording: Recording, sheet: ProbeSheet | None, policy: Policy, points: Sequence[str], reduction: str, on_step: OnStep | None
) -> Analysis:
    runs = [_Run(recording, item) for item in range(recording.items)]
    maps = [run.scores(policy) for run in runs]
    run, complexity, grid = runs[0], maps[0], recording.grid
    plan = _plan(recording, sheet, policy, maps)
    seen = (lambda step: on_step(step + 1, recording.steps)) if on_step else (lambda step: None)
    convergence = measure_convergence(_Lazy(recording.steps, run.velocity, seen), _Lazy(recording.steps, run.x0))
    raw_change = _raw_change(run)
    scores = token_means(complexity.enhanced, grid, policy.tile)
    probed = choose_points(points, scores, grid)
    tokens = [point.token for point in probed]
    groups = tile_of_tokens(grid, policy.tile)
    arrays = {
        **{f"complexity_{name}": getattr(complexity, name) for name in ("temporal", "spatial", "combined", "enhanced")},
        "ras_importance": early_maps(run, policy, policy.warmup)["ras"],
        "convergence_step": convergence.convergence_step,
        "holding_cost": convergence.holding_cost,
        "flow_velocity_change": convergence.relative_change[1:],
        "x0_distance": convergence.x0_distance,
        "raw_change": raw_change,
        "point_raw": _curves(_Lazy(recording.steps, run.output), tokens, reduction),
        "point_velocity": _curves(_Lazy(recording.steps, run.velocity), tokens, reduction),
        "timestep": recording.timestep,
        "alpha": recording.alpha,
        "sigma": recording.sigma,
    }
    separations = {"raw": raw_change, "converted": convergence.velocity_change[1:]}
    results = {
        "schema": SCHEMA,
        "recording": recording.path.name,
        "run": _run_facts(recording),
        "grid": grid.to_json(),
        "conversion": {"prediction_type": run.prediction, "method": "backward", "time_unit": run.path.time_unit, "sign": "toward noise"},
        "complexity": _complexity_facts(policy, complexity),
        "convergence": _convergence_facts(plan, convergence),
        "map_predicts": _map_predicts(run, policy, convergence, groups),
        "separation": {name: _separation(change, plan, groups) for name, change in separations.items()},
        "points": [point.to_json(plan) for point in probed],
        "reduction": reduction,
        "versions": dict(recording.provenance["packages"]),
        "nonfinite": {signal: recording.nonfinite(signal) for signal in recording.signals},
    }
    return Analysis(plan, complexity, convergence, results, arrays)


# --- what the recording was ---


def sheet_of_recording(recording: Recording, probe: Path | None = None) -> ProbeSheet | None:
    """The probe sheet the recording was made with; None for one fed from a user's own loop."""
    if probe is not None:
        return load_sheet(probe)
    family = recording.provenance["capture"]["probe"]
    named = {path.stem: path for path in sheet_paths()}
    return load_sheet(named[family]) if family in named else None


def policy_of_recording(recording: Recording, sheet: ProbeSheet | None, name: str | Path | None) -> Policy:
    """A named policy, else the model's own, else the family's first preset, else one that suits the grid."""
    model = recording.provenance["model"]
    table = model["default_policy"] if isinstance(model["default_policy"], dict) else {}
    if not table and model["id"] in BUNDLED:
        table = model_defaults(bundled_directory(model["id"]))[1]
    if table and name in (None, table.get("name")):
        return Policy.from_table(table, f"the default policy of {model['id']}")
    if sheet is not None and (name is not None or sheet.policies):
        return named_policy(sheet, None if name is None else str(name))
    if name is not None:
        return Policy.from_toml(Path(name).read_text(encoding="utf-8"), str(name))
    return _generic_policy(recording)


def _generic_policy(recording: Recording) -> Policy:
    patch, steps = recording.grid.patch, recording.planned_steps or recording.steps
    table = {
        "name": "generic",
        "warmup": max(2, round(0.14 * steps)),
        "cooldown": max(1, round(0.04 * steps)),
        "tile": [patch[0], 4 * patch[1], 4 * patch[2]],
        "thresholds": {"static": 0.2, "moderate": 0.5},
        "intervals": {"static": 4, "moderate": 2, "active": 1},
        "source": "no family known: tiles of 4x4 tokens, warm-up 14 % of the steps",
    }
    return Policy.from_table(table, "the generic policy")


def fingerprint_of_recording(recording: Recording) -> Fingerprint:
    """What a plan made from this recording was made for."""
    provenance, run = recording.provenance, recording.provenance["run"]
    seed = run["seed"]
    identity = Identity(
        model=provenance["model"]["id"],
        prompt=run["prompt"],
        seed=seed if isinstance(seed, int) else None,
        guidance={"scale": run["guidance_scale"], "negative_prompt": run["negative_prompt"]},
    )
    transformer = provenance["model"]["transformer"]
    described = transformer if isinstance(transformer, dict) else {"class": UNKNOWN, "config": {}}
    scheduler = {"class": provenance["scheduler"]["class"], "config": provenance["scheduler"]["config"]}
    return fingerprint_of(described, scheduler, recording.grid, recording.planned_steps or recording.steps, identity)


def _plan(recording: Recording, sheet: ProbeSheet | None, policy: Policy, maps: Sequence[Complexity]) -> Plan:
    ranks = highest([token_ranks(complexity.enhanced, policy, recording.grid) for complexity in maps])
    transformer = recording.provenance["model"]["transformer"]
    text = recording.provenance["capture"]["text_tokens"]
    facts = run_facts(
        sheet.execution if sheet else None,
        transformer["config"] if isinstance(transformer, dict) else {},
        dtype=recording.provenance["run"]["dtype"],
        text_tokens=text if isinstance(text, int) else 0,
        branches=max(1, len(recording.branches) - 1),
    )
    return plan_from_ranks(policy, ranks, fingerprint_of_recording(recording), facts)


def _run_facts(recording: Recording) -> dict[str, Any]:
    run, model = recording.provenance["run"], recording.provenance["model"]
    return {
        "model": model["id"],
        "revision": model["revision"],
        "prompt": run["prompt"],
        "negative_prompt": run["negative_prompt"],
        "seed": run["seed"],
        "guidance": run["guidance_scale"],
        "steps": recording.steps,
        "planned_steps": recording.planned_steps,
        "device": run["device"],
        "dtype": run["dtype"],
        "scheduler": recording.provenance["scheduler"]["class"],
        "recorded": recording.created,
    }


# --- numbers for analysis.json ---


def _complexity_facts(policy: Policy, complexity: Complexity) -> dict[str, Any]:
    return {
        "policy": policy.name,
        "warmup": policy.warmup,
        "tile": list(policy.tile),
        "tile_grid": list(complexity.grid),
        "temporal_weight": policy.temporal_weight,
        "padding": policy.padding,
        "initial_latent": policy.initial_latent,
        "enhance": {"strength": policy.enhance.strength, "distance": policy.enhance.distance},
        "nonfinite": complexity.nonfinite,
    }


def _convergence_facts(plan: Plan, convergence: Convergence) -> dict[str, Any]:
    by_level = {}
    for level in ("static", "moderate", "active"):
        chosen = np.array([word == level for word in plan.token_level])
        medians = (float(np.median(values[chosen])) if chosen.any() else None for values in (convergence.convergence_step, convergence.holding_cost))
        by_level[level] = {"tokens": int(chosen.sum()), **dict(zip(("convergence_step_median", "holding_cost_median"), medians, strict=True))}
    return {"tolerance": convergence.tolerance, "hold_steps": convergence.hold_steps, "by_level": by_level, "nonfinite": convergence.nonfinite}


def _map_predicts(run: _Run, policy: Policy, convergence: Convergence, groups: np.ndarray) -> list[dict[str, Any]]:
    targets = {"convergence_step": convergence.convergence_step, "holding_cost": convergence.holding_cost}
    rows = []
    warmups = sorted({w for w in (policy.warmup, 5, 10, 15) if 2 <= w <= run.recording.steps // 2} | {policy.warmup})
    for warmup in warmups:
        for score in map_predicts(early_maps(run, policy, warmup), targets, groups=groups):
            row = {"map": score.map, "warmup": warmup, "target": score.target}
            values = {"spearman": score.spearman.value, "interval": [score.spearman.low, score.spearman.high]}
            classes = {"agreement": score.agreement.value, "agreement_interval": [score.agreement.low, score.agreement.high]}
            rows.append(row | values | classes)
    return rows


def _separation(change: np.ndarray, plan: Plan, groups: np.ndarray) -> dict[str, Any]:
    levels = np.array([str(word) for word in plan.token_level])
    estimate = separation(change, levels == "active", levels == "static", groups=groups)
    return {"auroc": estimate.value, "interval": [estimate.low, estimate.high]}


def _raw_change(run: _Run) -> np.ndarray:
    """(step - 1, token): rms over channels of the raw output's step differences."""
    rows, previous = [], run.output(0)
    for step in range(1, run.recording.steps):
        current = run.output(step)
        rows.append(np.sqrt(np.mean(np.square(np.nan_to_num(current - previous)), axis=-1)))
        previous = current
    return np.stack(rows)


def _curves(values: Sequence[np.ndarray], tokens: Sequence[int], reduction: str) -> np.ndarray:
    """(point, step): the chosen tokens' values, channels reduced."""
    return np.stack([reduce_channels(values[step][tokens], reduction) for step in range(len(values))], axis=1)


# --- files ---


def analysis_directory(recording: Path, output: Path | None, force: bool) -> Path:
    """Where the analysis goes: `output`, else the recording's name without .h5. Refused when an analysis stands there."""
    directory = output or recording.with_suffix("")
    if (directory / "analysis.json").exists() and not force:
        raise InputError(f"{directory} holds an analysis already; choose another directory with -o, or pass --force to replace it.")
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file, the analysis needs a directory; choose one with -o.")
    return directory


def write_analysis(analysis: Analysis, directory: Path) -> None:
    """analysis.json, analysis.npz and plan.json, each complete or absent."""
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "plan.json", analysis.plan.to_text().encode())
    with (directory / "analysis.npz.tmp").open("wb") as file:
        np.savez_compressed(file, **analysis.arrays)
    (directory / "analysis.npz.tmp").replace(directory / "analysis.npz")
    text = json.dumps(_finite(analysis.results), indent=1, ensure_ascii=False, default=str, allow_nan=False)
    _write(directory / "analysis.json", text.encode(errors="surrogateescape"))


def analyze_to_directory(path: Path, directory: Path, **options: Any) -> Analysis:
    """`analyze`, then `write_analysis`."""
    analysis = analyze(path, **options)
    write_analysis(analysis, directory)
    return analysis


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that does not exist is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value
