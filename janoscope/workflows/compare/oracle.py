"""A full run's velocities, kept in memory, for the oracle."""

import numpy as np

from ...analysis import measure_convergence
from ...capture import Watch
from ...capture.describe import describe_scheduler
from ...capture.layout import grid_of_call, to_tokens
from ...capture.noise_level import noise_levels, predicted_quantity
from ...capture.watch import NetworkCall, SchedulerStep
from ...conversion import NoisePath, to_flow_velocity, to_x0
from ...grid import TokenGrid
from ...pipeline.call import PipelineCall
from ...pipeline.generate import generate
from ...pipeline.model import Model


class _Trajectory:
    """Listens to one generation: x_t and guided prediction of every step, (token, channel) float32 of the first item."""

    def __init__(self, model: Model):
        self._model, self.samples, self.outputs = model, list[np.ndarray](), list[np.ndarray]()
        self._grid: TokenGrid | None = None
        self._call: NetworkCall | None = None

    def generation_begins(self) -> None:
        self.samples.clear()
        self.outputs.clear()

    def call_ends(self, call: NetworkCall) -> None:
        self._call = call

    def step_begins(self, step: SchedulerStep) -> None:
        assert self._call is not None
        probe = self._model.probe
        if self._grid is None:
            config = getattr(self._model.pipe, self._call.component).config
            self._grid = grid_of_call(probe, config, self._call.arguments, step.sample)
        for kept, latent, signal in ((self.samples, step.sample, "sample"), (self.outputs, step.model_output, "model_output")):
            kept.append(to_tokens(latent, probe.tokens.layout, self._grid, signal)[0].float().cpu().numpy().copy())


def reuse_error_of(model: Model, call: PipelineCall) -> np.ndarray:
    """(token,): the reuse error of each token, measured on a full run made for this."""
    trajectory = _Trajectory(model)
    with Watch(model.pipe, model.probe.tap.components, trajectory):
        generate(model, call)
    scheduler = model.pipe.scheduler
    kind = predicted_quantity(scheduler, model.probe.output.prediction)
    final = describe_scheduler(scheduler)["final"]
    timestep, alpha, sigma = (np.array(column) for column in noise_levels(scheduler))
    path = NoisePath(timestep, alpha, sigma, (final[0], final[1]))
    steps = range(len(trajectory.outputs))
    pairs = list(zip(trajectory.outputs, trajectory.samples, strict=True))
    velocities = [np.asarray(to_flow_velocity(*pairs[i], prediction=kind, point=path.at(i))) for i in steps]
    estimates = [np.asarray(to_x0(*pairs[i], prediction=kind, point=path.at(i))) for i in steps]
    return np.asarray(measure_convergence(velocities, estimates).reuse_error)
