"""Conversion: what a network predicted, read as flow velocity, x0 or noise.

Reads model output, the sample given to the network and the noise path (alpha, sigma) of each step; gives arrays of the same
shape. Comes after `recording`, before `analysis`; knows neither files nor models. Written against the Python array API: NumPy
arrays and torch tensors give the same numbers, on the device they lie on.

Conventions, everywhere in this package:

- x = alpha x0 + sigma eps. Time grows toward noise, so the flow velocity dx/dt = alpha' x0 + sigma' eps points to the noise,
  with the sign of eps - x0.
- The unit of time is fixed by the path (`NoisePath.time_unit`): `timestep`, the scheduler's own index (0..1000), where alpha
  and sigma come from a table; `sigma`, where sigma is the time (rectified flow, EDM). A velocity times a gap of time is a step.
- Predictions are named as diffusers names them: `epsilon`, `v_prediction`, `sample` (x0), `flow` (also `flow_prediction`),
  `inverted_flow` (x0 - eps, of schedulers with `invert_sigmas`, whose sigma runs from noise to data).
- A network output that the pipeline negates (`sign = -1` in its probe) is negated before it comes here.
"""

from .noise_path import NoisePath, PathPoint
from .velocity import PREDICTIONS, is_flow, to_epsilon, to_flow_velocity, to_prediction, to_x0

__all__ = ["PREDICTIONS", "NoisePath", "PathPoint", "is_flow", "to_epsilon", "to_flow_velocity", "to_prediction", "to_x0"]
