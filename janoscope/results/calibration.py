"""What `calibrate` leaves: calibration.json, as its reader checks it."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

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
Candidate = TypedDict(
    "Candidate",
    {
        "class": str,
        "compute": float,
        "predicted": float,
        "policy": dict[str, Any],
        "measured": NotRequired[Measured | None],
        "each": NotRequired[Each],
        "reached": NotRequired[bool],
        "validated": NotRequired[bool],
    },
)


class Validated(TypedDict):
    """A candidate that was run; checked beside `Candidate`."""

    measured: Measured
    each: Each


class Expected(TypedDict):
    """What to expect on new prompts; intervals of the mean by number of prompts."""

    prediction_interval: dict[str, list[float | None] | None]


class Validation(TypedDict):
    """Held-out prompts."""

    prompts: int
    prediction_interval: Expected | None
    candidates: list[Candidate]


class Notch(TypedDict):
    """One setting relaxed."""

    change: str
    compute: float
    quality: float


class Sensitivity(TypedDict):
    """Predictions around the chosen policy."""

    chosen: float
    notches: list[Notch]
    stretched: list[Notch]
    measure: NotRequired[str]


class Surrogate(TypedDict):
    """What the predictions are of, and how far they hold."""

    measure: NotRequired[str]
    spearman: NotRequired[dict[str, Any]]


class Target(TypedDict):
    """What was asked for."""

    kind: str
    value: float
    words: NotRequired[str]


class Model(TypedDict):
    """What was calibrated."""

    name: str
    device: NotRequired[str | None]


class Facts(TypedDict):
    """calibration.json."""

    schema: str
    target: Target
    reached: bool
    model: Model
    steps: int
    prompts: list[dict[str, Any]]
    runs: int
    front: list[Candidate]
    chosen: Candidate | None
    surrogate: Surrogate
    validation: Validation
    cliff: Sensitivity | None


def read_facts(directory: Path) -> Any:
    """calibration.json, of the shape `Facts`. Raises InputError where it is missing, damaged or of another version."""
    return read_json(directory / RESULT, Facts, "calibration", AGAIN, schema=SCHEMA)
