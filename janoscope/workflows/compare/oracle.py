"""A full run's own reuse error, for the oracle: captured as for a recording, and kept in memory."""

import numpy as np

from ...analysis import measure_convergence
from ...capture import Capture, Generation, StepFacts
from ...conversion import NoisePath, to_flow_velocity, to_x0
from ...pipeline.call import PipelineCall
from ...pipeline.generate import generate
from ...pipeline.model import Model


class MemorySink:
    """A sink in memory: sample and guided prediction of every step, (token, channel) float32 of the first batch element."""

    def __init__(self) -> None:
        self.generation: Generation | None = None
        self.samples: list[np.ndarray] = []
        self.outputs: list[np.ndarray] = []
        self.steps: list[StepFacts] = []

    def begin(self, generation: Generation) -> None:
        self.generation = generation
        self.samples, self.outputs, self.steps = [], [], []

    def put(self, signal: str, values: np.ndarray, *, item: int, branch: str, dtype: str) -> None:
        kept = {"sample": self.samples, "model_output": self.outputs}.get(signal)
        if kept is not None and item == 0 and branch == "guided":
            kept.append(_float32(values, dtype))

    def commit(self, facts: StepFacts) -> None:
        self.steps.append(facts)

    def end(self, error: BaseException | None) -> None:
        """Nothing to close."""

    @property
    def path(self) -> NoisePath:
        """Noise levels of the steps."""
        assert self.generation is not None
        alpha, sigma = self.generation.scheduler["final"]
        levels = np.array([(step.timestep, step.alpha, step.sigma) for step in self.steps])
        return NoisePath(levels[:, 0], levels[:, 1], levels[:, 2], (alpha, sigma))


def _float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """A copy; bfloat16 comes as its bits in uint16."""
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def reuse_error_of(model: Model, call: PipelineCall) -> np.ndarray:
    """The error of reusing each token's velocity, measured on a full run made for this.

    Returns:
        (token,) float32, rms over all steps from which a velocity can be reused; see `analysis.measure_convergence`.
    """
    sink = MemorySink()
    with Capture(model.pipe, model.probe, sink):
        generate(model, call)
    assert sink.generation is not None
    kind, path = sink.generation.prediction_type, sink.path
    pairs = list(zip(sink.outputs, sink.samples, strict=True))
    velocities = [np.asarray(to_flow_velocity(*pair, prediction=kind, point=path.at(i))) for i, pair in enumerate(pairs)]
    estimates = [np.asarray(to_x0(*pair, prediction=kind, point=path.at(i))) for i, pair in enumerate(pairs)]
    return np.asarray(measure_convergence(velocities, estimates).reuse_error)
