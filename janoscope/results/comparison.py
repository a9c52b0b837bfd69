"""What `compare` leaves: comparison.json, as its reader checks it."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from .files import read_json

SCHEMA = "janoscope-comparison/1"
AGAIN = "Run `janoscope compare` again, into another --output."


class RunFacts(TypedDict):
    """One generation against the full run of the same prompt and seed."""

    prompt: str
    seed: int
    wall_s: float
    cpu_s: NotRequired[float]
    compute: float | None
    speedup: float | None
    psnr: float | None
    ssim: float | None
    ms_ssim: float | None
    lpips: float | None
    cache_bytes: int | None
    peak_bytes: int | None
    identical: NotRequired[bool]
    machine: NotRequired[str | None]
    efficiency: NotRequired[float | None]


class Means(TypedDict):
    """Of a row's runs."""

    compute: float | None
    psnr: float | None
    wall_s: NotRequired[float | None]
    cpu_s: NotRequired[float | None]
    speedup: NotRequired[float | None]
    efficiency: NotRequired[float | None]
    ssim: NotRequired[float | None]
    ms_ssim: NotRequired[float | None]
    lpips: NotRequired[float | None]


class Intervals(TypedDict):
    """Of a row's means; (low, high), null where there are too few runs."""

    psnr: list[float | None] | None


class RowFacts(TypedDict):
    """A method and its runs."""

    label: str
    method: str
    options: dict[str, str]
    runs: list[RunFacts]
    note: str
    mean: Means
    interval: Intervals
    front: str
    on_front: NotRequired[bool]


class Difference(TypedDict):
    """Of two methods, a mean and its interval."""

    value: float | None
    low: float | None
    high: float | None
    runs: int


class Paired(Difference):
    """Run by run."""

    first: str
    second: str


class AtEqualCompute(Difference):
    """A row against another method's front."""

    row: str
    against: str


class Facts(TypedDict):
    """comparison.json. pictures: label -> path, of which only the name counts."""

    schema: str
    model: str
    device: str
    dtype: str
    steps: int | None
    complete: bool
    missing: dict[str, str]
    rows: list[RowFacts]
    pictures: dict[str, str]
    paired: list[Paired]
    equal_compute: list[AtEqualCompute]
    call: NotRequired[dict[str, str | int | float | bool | None]]


def read_facts(directory: Path) -> Any:
    """comparison.json, of the shape `Facts`. Raises InputError where it is missing, damaged or of another version."""
    return read_json(directory / "comparison.json", Facts, "comparison", AGAIN, schema=SCHEMA)
