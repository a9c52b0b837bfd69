"""What `calibrate` leaves: calibration.json, as its reader checks it."""

from pathlib import Path
from typing import NotRequired, TypedDict

from .files import read_json

SCHEMA = "janoscope-calibration/1"
RESULT = "calibration.json"
AGAIN = "Run `janoscope calibrate` again."


class Measured(TypedDict):
    """Means over held-out prompts."""

    psnr: float
    compute: float
    speedup: float


class Each(TypedDict):
    """The same of every held-out prompt."""

    psnr: list[float]


# `class` is no name that a Python class body can hold
ScoredPolicy = TypedDict("ScoredPolicy", {"class": str, "compute": float, "predicted": float, "policy": dict[str, object]})


class Candidate(ScoredPolicy):
    """A policy that was scored; measured and each where it was run."""

    measured: NotRequired[Measured | None]
    each: NotRequired[Each]
    reached: NotRequired[bool]
    validated: NotRequired[bool]


class ValidatedCandidate(ScoredPolicy):
    """A candidate that was run."""

    measured: Measured
    each: Each


class Expected(TypedDict):
    """What to expect on new prompts; intervals of the mean by number of prompts."""

    prediction_interval: dict[str, list[float | None] | None]


class Validation(TypedDict):
    """Held-out prompts."""

    prompts: int
    prediction_interval: Expected | None
    candidates: list[ValidatedCandidate]


class RelaxedSetting(TypedDict):
    """One setting relaxed, and what that is predicted to give."""

    change: str
    compute: float
    quality: float


class Sensitivity(TypedDict):
    """Predictions around the chosen policy."""

    chosen: float
    notches: list[RelaxedSetting]
    stretched: list[RelaxedSetting]
    measure: NotRequired[str]
    collapse_db: NotRequired[float | None]
    collapse_margin_db: NotRequired[float | None]


class RankCorrelation(TypedDict):
    """Of predicted with measured PSNR."""

    spearman: float | None
    rmse_db: float | None
    runs: int


class Ranking(TypedDict):
    """How well predictions rank policies, within each class and across all."""

    across: RankCorrelation
    within: dict[str, RankCorrelation]


class Surrogate(TypedDict):
    """What the predictions are of, and how well they rank."""

    measure: NotRequired[str]
    spearman: NotRequired[dict[str, Ranking]]


class Target(TypedDict):
    """What the policy is to reach."""

    kind: str
    value: float
    words: NotRequired[str]


class CalibratedPrompt(TypedDict):
    """A prompt that was recorded or run."""

    prompt: str
    seed: NotRequired[int | None]


class Model(TypedDict):
    """What was calibrated."""

    name: str
    device: NotRequired[str | None]


class CalibrationFacts(TypedDict):
    """calibration.json."""

    schema: str
    target: Target
    reached: bool
    model: Model
    steps: int
    prompts: list[CalibratedPrompt]
    runs: int
    front: list[Candidate]
    chosen: Candidate | None
    surrogate: Surrogate
    validation: Validation
    cliff: Sensitivity | None
    note: NotRequired[str]
    offline: NotRequired[bool]
    left_out: NotRequired[list[str]]
    tried: NotRequired[int]


def read_facts(directory: Path) -> CalibrationFacts:
    """calibration.json. Raises InputError where it is missing, damaged or of another version."""
    return read_json(directory / RESULT, CalibrationFacts, "calibration", AGAIN, schema=SCHEMA)
