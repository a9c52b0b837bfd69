"""RunView: one item of a recording as velocities and x0 estimates, read and converted a step at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...analysis import Complexity
from ...conversion import NoisePath, is_flow, to_flow_velocity, to_x0
from ...conversion.noise_path import Derivative
from ...errors import InputError
from ...plan import Policy
from ...plan.importance import importance_scores, warmup_scores
from ...recording import Recording

Convert = Callable[[np.ndarray, np.ndarray], np.ndarray]

BAND = 4096  # tokens converted at a time: their float64 copies stay in a core's cache, twice as fast as the whole map


@dataclass(frozen=True)
class StepView:
    """One step, (token, channel) float32 each. Values that are not finite read 0; `masked` (token,) says which tokens had any.

    sample: x_t. output: the guided prediction as recorded. nonfinite: values masked in velocity and x0, the larger of the two.
    """

    sample: np.ndarray
    output: np.ndarray
    velocity: np.ndarray
    x0: np.ndarray
    masked: np.ndarray
    nonfinite: int


class RunView:
    """One item of an open recording. `derivative`: how alpha and sigma change, see `NoisePath.at`."""

    def __init__(self, recording: Recording, item: int = 0, derivative: Derivative = "backward"):
        self.recording, self.item, self.derivative = recording, item, derivative
        final = recording.provenance["scheduler"]["final"]
        end = (float(final[0]), float(final[1])) if isinstance(final, list) else (1.0, 0.0)
        self.path = NoisePath(recording.timestep, recording.alpha, recording.sigma, end if recording.complete else None)
        self.prediction = recording.prediction_type

    @property
    def raw_is_velocity(self) -> bool:
        """Whether the network predicts the flow velocity itself, so that nothing is converted."""
        return is_flow(self.prediction)

    @property
    def steps(self) -> int:
        return self.recording.steps

    def step(self, step: int) -> StepView:
        """Everything of one step; its two maps are read once."""
        output, sample = (self.recording.map(signal, step, self.item) for signal in ("model_output", "sample"))
        velocity, x0 = self._velocity(output, sample, step), self._x0(output, sample, step)
        masked = np.zeros(len(output), dtype=bool)
        counts = []
        for values in (velocity, x0, output, sample):
            if not np.isfinite(np.vdot(values, values)):  # one pass; its overflow only costs a closer look
                bad = ~np.isfinite(values)
                masked |= bad.any(axis=-1)
                counts.append(int(np.count_nonzero(bad)))
                values[bad] = 0
        return StepView(sample, output, velocity, x0, masked, max(counts, default=0))

    def last_x0(self) -> np.ndarray:
        """The x0 estimate of the last recorded step."""
        return self.step(self.steps - 1).x0

    def curve(self, token: int) -> tuple[np.ndarray, np.ndarray]:
        """One token's raw output and flow velocity at every step, (step, channel) each; NaN where a value is not finite."""
        output, sample = (self.recording.curve(signal, token, self.item) for signal in ("model_output", "sample"))
        point = self.path.at(slice(None), self.derivative)
        with np.errstate(invalid="ignore", over="ignore"):
            velocity = np.asarray(to_flow_velocity(output, sample, prediction=self.prediction, point=point))
        raw, flow = (np.where(np.isfinite(values), values, np.float32(np.nan)) for values in (output, velocity))
        return raw, flow

    def complexity(self, policy: Policy) -> Complexity:
        """The JANO map of the warm-up, made as the executor makes it."""
        return warmup_scores(policy, *self._warmup(policy), path=self.path, prediction=self.prediction)

    def importance(self, policy: Policy, seed: int | None) -> np.ndarray:
        """Scores by the policy's map, made as the executor makes them."""
        samples, outputs = self._warmup(policy)
        return importance_scores(
            policy, samples, outputs, path=self.path, prediction=self.prediction, grid=self.recording.grid, seed=seed
        )

    def _warmup(self, policy: Policy) -> tuple[list[np.ndarray], list[np.ndarray]]:
        steps = slice(policy.warmup)
        samples, outputs = (list(self.recording.latents(s, self.item, steps=steps)) for s in ("sample", "model_output"))
        return samples, outputs

    def _velocity(self, output: np.ndarray, sample: np.ndarray, step: int) -> np.ndarray:
        if self.raw_is_velocity:
            return output
        point = self.path.at(step, self.derivative)
        return self._converted(lambda y, x: to_flow_velocity(y, x, prediction=self.prediction, point=point), output, sample, step)

    def _x0(self, output: np.ndarray, sample: np.ndarray, step: int) -> np.ndarray:
        point = self.path.at(step, self.derivative)
        return self._converted(lambda y, x: to_x0(y, x, prediction=self.prediction, point=point), output, sample, step)

    def _converted(self, convert: Convert, output: np.ndarray, sample: np.ndarray, step: int) -> np.ndarray:
        try:
            return _in_bands(convert, output, sample)
        except InputError as error:
            raise InputError(f"step {step} of {self.recording.path.name}: {error}") from error


def _in_bands(convert: Convert, output: np.ndarray, sample: np.ndarray) -> np.ndarray:
    converted = np.empty_like(output)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(output), BAND):
            band = slice(start, start + BAND)
            converted[band] = convert(output[band], sample[band])
    return converted
