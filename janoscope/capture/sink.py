"""What a Capture tells and where it pushes arrays: the only thing that a store of recordings has to fit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..grid import TokenGrid
from .attachments import Attachment


@dataclass(frozen=True)
class TapSize:
    """What a tap gives a step: `tokens` x `channels` in `dtype`, on `steps` of the generation's steps.

    Strides are those with which the module's own tokens and channels were thinned out.
    """

    tokens: int
    channels: int
    dtype: str
    steps: int
    token_stride: int = 1
    channel_stride: int = 1


@dataclass(frozen=True)
class Generation:
    """What is known when the first step is complete. `branches` begins with `guided`; steps: scheduler steps to come in all.

    dtype: what the network computes in. signals: dtype of every signal, which may be wider.
    text_tokens: length of the text that the network was given. attachments: what else is on each network, by component.
    boundary: where a second network takes over, as a share of the training timesteps; None for one network.
    """

    grid: TokenGrid
    prediction_type: str
    branches: tuple[str, ...]
    items: int
    steps: int
    transformer: Mapping[str, object]
    scheduler: Mapping[str, Any]
    device: str
    dtype: str
    text_tokens: int
    signals: Mapping[str, str] = field(default_factory=dict)
    taps: Mapping[str, TapSize] = field(default_factory=dict)
    attachments: Mapping[str, tuple[Attachment, ...]] = field(default_factory=dict)
    boundary: float | None = None


@dataclass(frozen=True)
class StepFacts:
    """Scalars of one step. time_s: network seconds by branch; a branch of a batched call is absent from it.

    absent: branches without a call of their own. skipped: bool (token,), tokens that an executor did not compute.
    """

    timestep: float
    alpha: float
    sigma: float
    time_s: Mapping[str, float]
    peak_bytes: int | None
    absent: tuple[str, ...] = ()
    skipped: np.ndarray | None = None


class Sink(Protocol):
    """Where arrays go. `put` must copy what it keeps; dtype is NumPy's name, or `bfloat16` for its bits in uint16."""

    def begin(self, generation: Generation) -> None: ...

    def put(self, signal: str, values: np.ndarray, *, item: int, branch: str, dtype: str) -> None: ...

    def commit(self, facts: StepFacts) -> None: ...

    def end(self, error: BaseException | None) -> None: ...
