"""What `apply` leaves beside its image: apply.json, as the report reads it."""

from typing import Literal, TypedDict


class Step(TypedDict, total=False):
    """One step of the accelerated run."""

    kind: str
    tokens: float
    flops: float
    full_flops: float
    forced: bool


class RunSummary(TypedDict, total=False):
    """What was computed, step by step."""

    steps: list[Step]


class Applied(TypedDict, total=False):
    """Figures of one accelerated generation; whatever is not there is not shown."""

    schema: str
    compute: float | None
    token_fraction: float | None
    speedup: float | None
    psnr: float | Literal["inf"] | None
    ssim: float | None
    identical: bool | None
    cache_bytes: float | None
    account: RunSummary | None
    output: str | None
    reference: str | None
