"""Times of steps on this device, measured in real runs: what turns compute into wall time."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import InputError
from ...plan.schedule import StepKind


@dataclass(frozen=True)
class TimedStep:
    """compute: fraction of a full step's FLOPs. seconds: from one scheduler step to the next."""

    kind: str
    compute: float
    seconds: float


@dataclass(frozen=True)
class StepTimes:
    """Wall time of a run, in units of a full step. fixed: of a partial step, what does not shrink with its compute. refresh: more
    for storing keys and values. reuse: of a step without a network call. outside: of the run, encoders and decoder."""

    full_s: float
    fixed: float
    refresh: float
    reuse: float
    outside: float

    @classmethod
    def measured(cls, full: Sequence[TimedStep], accelerated: Sequence[TimedStep], outside_s: float) -> "StepTimes":
        """Medians, since a shared machine disturbs means. full: steps of full runs; accelerated: of runs under policies.

        Raises InputError where no step of either was timed.
        """
        if not full or not accelerated:
            raise InputError("a target speedup needs timed runs with and without a policy; raise --max-runs.")
        whole = _median([step.seconds for step in full])
        partial = [step for step in accelerated if step.kind in (StepKind.MODERATE, StepKind.ACTIVE) and 0 < step.compute < 1]
        refresh = [step.seconds for step in accelerated if step.kind == StepKind.REFRESH]
        reuse = [step.seconds for step in accelerated if step.kind == StepKind.REUSE]
        # time = fixed + (1 - fixed) compute: each step gives an estimate of `fixed`; cheap steps tell it best
        fixed = [(step.seconds / whole - step.compute) / (1 - step.compute) for step in partial if step.compute < 0.8]
        return cls(
            whole,
            float(np.clip(_median(fixed, 0.0), 0, 1)),
            max(0.0, _median(refresh, whole) / whole - 1),
            _median(reuse, 0.0) / whole,
            max(0.0, outside_s / whole),
        )

    def speedup(self, kinds: Sequence[StepKind], step_compute: np.ndarray) -> np.ndarray:
        """(run,): wall time of the full run over that of kinds (step,) with compute (run, step)."""
        partial = self.fixed + (1 - self.fixed) * step_compute
        reuse = np.array([kind is StepKind.REUSE for kind in kinds]) | (step_compute == 0)
        refresh = self.refresh * np.array([kind is StepKind.REFRESH for kind in kinds])
        time = np.where(reuse, self.reuse, partial + refresh).sum(axis=1)
        speedup: np.ndarray = (self.outside + len(kinds)) / (self.outside + time)
        return speedup

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _median(values: Sequence[float], default: float = 0.0) -> float:
    return float(np.median(values)) if len(values) else default
