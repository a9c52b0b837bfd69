"""Alpha and sigma of every step, from the constructor or from each commit, and the other small values of a step."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import InputError
from .recording_file import StepRow


class NoiseSchedule:
    """x = alpha x0 + sigma eps for the recorded sample: one value a step."""

    def __init__(self, alpha: Sequence[float] | np.ndarray | None, sigma: Sequence[float] | np.ndarray | None) -> None:
        self._planned: dict[str, np.ndarray] = {}
        for name, values in (("alpha", alpha), ("sigma", sigma)):
            if values is None:
                continue
            self._planned[name] = np.asarray(values, np.float64)
            if self._planned[name].ndim != 1:
                raise InputError(f"{name} has shape {self._planned[name].shape}; pass one value a step.")

    @property
    def length(self) -> int | None:
        """Steps that have values."""
        return max((len(values) for values in self._planned.values()), default=None)

    def at(self, name: str, step: int, value: float | None) -> float:
        """The value to record; a NaN only where `value` is one, an infinity never."""
        planned = self._planned.get(name)
        if value is None and planned is not None and step < len(planned):
            value = float(planned[step])
        if value is None:
            extent = "not given" if planned is None else f"given for {len(planned)} steps"
            raise InputError(f"{name} of step {step} is {extent}; pass {name}= to commit, or one value a step to Recorder.")
        if math.isinf(float(value)):
            raise InputError(f"{name} of step {step} is {value}; x = alpha x0 + sigma eps needs finite numbers.")
        return float(value)

    def row(
        self,
        step: int,
        branches: Sequence[str],
        *,
        timestep: float,
        alpha: float | None,
        sigma: float | None,
        time_s: Mapping[str, float],
        peak_bytes: int | None,
    ) -> StepRow:
        """The small values of one step. Raises InputError for a branch, timestep, alpha or sigma that cannot be recorded."""
        if unknown := set(time_s) - set(branches):
            raise InputError(f"time_s names {', '.join(sorted(unknown))}; legal: {', '.join(branches)}.")
        if not math.isfinite(float(timestep)):
            raise InputError(f"timestep of step {step} is {timestep}; pass the scheduler's timestep.")
        seconds = np.array([float(time_s.get(branch, math.nan)) for branch in branches])
        peak = -1 if peak_bytes is None else int(peak_bytes)
        return StepRow(float(timestep), self.at("alpha", step, alpha), self.at("sigma", step, sigma), seconds, peak)
