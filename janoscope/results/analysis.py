"""What `analyze` leaves: analysis.json, analysis.npz and plan.json, which carry one id, and aggregate.json over several."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from ..errors import InputError
from ..grid import GridTable
from .files import read_arrays, read_json
from .writing import finite

SCHEMA = "janoscope-analysis/1"
AGGREGATE_SCHEMA = "janoscope-aggregate/1"
AGAIN = "Run `janoscope analyze` again."
ID = "id"  # key of analysis.json and plan.json, array of analysis.npz

Interval = list[float | None] | None
Versions = dict[str, Any]


class Run(TypedDict, total=False):
    """The recorded run; a recording may not say everything."""

    model: str
    argument: str
    revision: str | None
    prompt: str | list[str] | None
    seed: Any
    steps: int
    planned_steps: int | None
    complete: bool
    scheduler: str
    options: dict[str, Any]


class Conversion(TypedDict, total=False):
    """How predictions became velocities."""

    prediction_type: str
    method: str
    time_unit: str
    noise_path: str


class Complexity(TypedDict):
    """The map and the policy that it was made by."""

    tile: tuple[int, int, int]
    policy: NotRequired[str]
    warmup: NotRequired[int]
    nonfinite: NotRequired[int]


class Level(TypedDict, total=False):
    """Medians of a level's tokens."""

    tokens: int
    convergence_step_median: float | None
    velocity_convergence_step_median: float | None
    holding_cost_median: float | None
    holding_cost_steps_median: list[float | None]


class Convergence(TypedDict, total=False):
    """How tokens settle, by level and over all."""

    tolerance: float
    by_level: dict[str, Level]
    whole_run: Level
    masked_tokens: int


class Predicts(TypedDict, total=False):
    """One map against one target; of `ras_predicts` with a step in the place of map and warm-up."""

    map: str
    warmup: int
    step: int
    target: str
    spearman: float | None
    interval: Interval
    agreement: float | None
    agreement_interval: Interval


class Separation(TypedDict, total=False):
    """Active against static tokens by one signal."""

    auroc: float | None
    interval: Interval


class Point(TypedDict):
    """A place of interest."""

    name: str
    frame: int
    row: int
    col: int
    level: str


class Curves(TypedDict, total=False):
    """What the axes of stored curves stand for."""

    groups: list[str]
    quantiles: list[float]


class Facts(TypedDict):
    """analysis.json."""

    schema: str
    run: Run
    grid: GridTable
    conversion: Conversion
    complexity: Complexity
    convergence: Convergence
    map_predicts: list[Predicts]
    separation: dict[str, Separation | None]
    points: list[Point]
    versions: Versions
    id: NotRequired[str]
    asked: NotRequired[str]
    recording: NotRequired[str]
    notes: NotRequired[list[str]]
    ras_predicts: NotRequired[list[Predicts]]
    curves: NotRequired[Curves | None]
    predicted: NotRequired[dict[str, float | None]]
    shown_frames: NotRequired[list[int] | None]
    reduction: NotRequired[str]
    nonfinite: NotRequired[dict[str, int]]
    verdict: NotRequired[dict[str, Any] | None]


def read_facts(directory: Path) -> Facts:
    """analysis.json, of the declared shape. Raises InputError where it is missing, damaged or of another version."""
    path = directory / "analysis.json"
    if not path.exists():
        raise InputError(f"{directory} holds no {path.name}, so it is no finished analysis. {AGAIN}")
    facts: Facts = read_json(path, Facts, "analysis", AGAIN, schema=SCHEMA, finite=False)  # pages draw NaN as a dash
    return facts


def read_analysis_arrays(directory: Path, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """analysis.npz without its id, which is that of analysis.json; InputError where it is of another analysis."""
    path = directory / "analysis.npz"
    if not path.exists():
        raise InputError(f"{directory} holds no {path.name}, so it is no finished analysis. {AGAIN}")
    arrays = read_arrays(path, "analysis", AGAIN)
    stored = arrays.pop(ID, None)
    refuse_mixed(directory, path.name, None if stored is None else str(stored), facts)
    if texts := [name for name, array in arrays.items() if array.dtype.kind == "U"]:
        raise InputError(f"{path} is damaged: {texts[0]} holds text, numbers are needed. {AGAIN}")
    return arrays


def refuse_mixed(directory: Path, name: str, stored: str | None, facts: Mapping[str, Any], result: str = "analysis.json") -> None:
    """Raise InputError where a file beside a result is of another one. Files of version 0.1.0 carry no id."""
    if stored != facts.get(ID):
        raise InputError(f"{directory} holds files of two analyses: {name} has id {stored}, {result} {facts.get(ID)}. {AGAIN}")


def analysis_id(results: Mapping[str, Any], plan: str, arrays: Mapping[str, np.ndarray]) -> str:
    """The same for the same analysis, so that a repeated one gives equal files; other for any other."""
    made = hashlib.sha256(plan.encode(errors="replace"))
    made.update(json.dumps(finite(results), sort_keys=True, default=str).encode())
    for name, array in arrays.items():
        made.update(f"{name} {array.dtype} {array.shape}".encode())
        made.update(np.ascontiguousarray(array).data)
    return made.hexdigest()[:32]
