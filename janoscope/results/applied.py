"""What `apply` leaves beside its image: apply.json, as the report reads it."""

from pathlib import Path
from typing import Literal, TypedDict

from .files import read_json


class Step(TypedDict, total=False):
    """One step of the accelerated run."""

    kind: str
    tokens: float
    flops: float
    full_flops: float
    forced: bool


class SummaryFacts(TypedDict, total=False):
    """What was computed, step by step."""

    steps: list[Step]


class AppliedFacts(TypedDict, total=False):
    """apply.json: numbers of one accelerated generation; whatever is not there is not shown."""

    schema: str
    compute: float | None
    token_fraction: float | None
    speedup: float | None
    psnr: float | Literal["inf"] | None
    ssim: float | None
    identical: bool | None
    cache_bytes: float | None
    account: SummaryFacts | None
    output: str | None
    reference: str | None


def read_applied(path: Path) -> AppliedFacts | None:
    """apply.json beside an analysis; None where there is none. Raises InputError for another file of that name."""
    if not path.is_file():
        return None
    return read_json(path, AppliedFacts, "run summary", "Run `janoscope apply` again, or move it away.", finite=False)
