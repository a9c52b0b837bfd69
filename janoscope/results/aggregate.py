"""What several analyses must hold to be taken together, and what `analyze` then leaves: aggregate.json and aggregate.npz."""

from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from ..errors import InputError
from ..grid import GridTable
from . import analysis
from .analysis import AGAIN, AGGREGATE_SCHEMA, EARLIER_AGGREGATES, ID, VerdictFacts, refuse_mixed
from .files import read_arrays, read_json

Bounds = list[float | None]


class OneLevel(TypedDict):
    """Medians of a level's tokens in one analysis."""

    tokens: int
    convergence_step_median: float | None
    velocity_convergence_step_median: float | None
    reuse_error_median: float | None
    reuse_error_steps_median: NotRequired[list[float | None]]


class OneByLevel(TypedDict):
    """All levels."""

    static: OneLevel
    moderate: OneLevel
    active: OneLevel


class OneConvergence(TypedDict):
    """How tokens settle."""

    by_level: OneByLevel
    whole_run: OneLevel


class OnePrediction(TypedDict):
    """Of a map or of RAS importance."""

    target: str
    spearman: float | None
    agreement: float | None


class OneOfMap(OnePrediction):
    """By a map after its warm-up."""

    map: str
    warmup: int


class OneOfRas(OnePrediction):
    """At a step."""

    step: int


class OneAuroc(TypedDict):
    """By one signal."""

    auroc: float | None


class OneSeparation(TypedDict):
    """By both."""

    raw: OneAuroc
    converted: OneAuroc


class OnePredicted(TypedDict):
    """Of the plan."""

    compute: float | None
    speedup: float | None
    cache_bytes: float | None


class OneRun(TypedDict):
    """The recorded run."""

    model: str
    steps: int
    complete: bool


class OneComplexity(TypedDict):
    """The policy and its map, of which version 0.1.0 says both or none."""

    policy: str
    map: NotRequired[str]
    warmup: NotRequired[int]


class OneCurves(TypedDict):
    """Of the stored curves."""

    quantiles: list[float]


class One(TypedDict):
    """analysis.json as far as aggregates read it."""

    recording: str
    run: OneRun
    grid: GridTable
    complexity: OneComplexity
    convergence: OneConvergence
    map_predicts: list[OneOfMap]
    ras_predicts: list[OneOfRas]
    separation: OneSeparation
    predicted: OnePredicted
    curves: OneCurves


class Mean(TypedDict):
    """A mean over recordings."""

    mean: float | None
    interval: Bounds
    recordings: int


class Auroc(TypedDict):
    """A mean over recordings."""

    auroc: float | None
    interval: Bounds
    recordings: int


class Level(TypedDict):
    """A level's medians."""

    tokens: int
    convergence_step_median: Mean
    velocity_convergence_step_median: Mean
    reuse_error_median: Mean


class ByLevel(TypedDict):
    """All levels."""

    static: Level
    moderate: Level
    active: Level


class Convergence(TypedDict):
    """How tokens settle."""

    by_level: ByLevel
    whole_run: Level


class Prediction(TypedDict):
    """One map, or RAS importance at a step, against one target."""

    target: str
    spearman: float | None
    interval: Bounds
    agreement: float | None
    agreement_interval: Bounds
    recordings: int


class OfMap(Prediction):
    """By a map after its warm-up."""

    map: str
    warmup: int


class OfRas(Prediction):
    """At a step."""

    step: int


class Separation(TypedDict):
    """By both signals."""

    raw: Auroc
    converted: Auroc


class AggregatedRecording(TypedDict, total=False):
    """One of the recordings."""

    directory: str
    recording: str
    model: str | None
    prompt: object
    seed: object
    steps: int | None
    complete: bool | None
    policy: str


class AggregateFacts(TypedDict):
    """aggregate.json."""

    schema: str
    method: str
    recordings: list[AggregatedRecording]
    notes: list[str]
    map_predicts: list[OfMap]
    ras_predicts: list[OfRas]
    convergence: Convergence
    separation: Separation
    predicted: dict[str, Mean]
    id: NotRequired[str]
    verdict: NotRequired[VerdictFacts | None]


def read_facts(directory: Path, advice: str = AGAIN) -> AggregateFacts:
    """aggregate.json. Raises InputError where it is missing, damaged or of another version."""
    path = directory / "aggregate.json"
    return read_json(path, AggregateFacts, "aggregate", advice, schema=AGGREGATE_SCHEMA, earlier=EARLIER_AGGREGATES)


def read_stored(directory: Path) -> tuple[AggregateFacts, dict[str, np.ndarray]]:
    """(aggregate.json, the arrays of aggregate.npz); no arrays where the recordings' curves cannot be compared."""
    facts, path = read_facts(directory), directory / "aggregate.npz"
    if not path.is_file():
        return facts, {}
    arrays = read_arrays(path, "aggregate", AGAIN)
    stored = arrays.pop(ID, None)
    refuse_mixed(directory, path.name, None if stored is None else str(stored), facts, "aggregate.json")
    groups = 4  # static, moderate, active, all
    for name, array in arrays.items():
        shape = (2, groups) if name.endswith("_interval") else (groups,)
        if array.dtype.kind not in "fiu" or array.shape[:-1] != shape or array.shape[-1] < 1:
            raise InputError(f"{path} is damaged: {name} has shape {array.shape} of {array.dtype}. {AGAIN}")
    return facts, arrays


def read_one(directory: Path) -> One:
    """analysis.json, with all that an aggregate needs of it."""
    return read_json(directory / "analysis.json", One, "analysis", AGAIN, schema=analysis.SCHEMA, earlier=analysis.EARLIER)
