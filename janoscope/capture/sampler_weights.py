"""How much each step's output moves the final latent, read off the sampler itself.

A sampler without noise is linear in the outputs that it is handed: x_final = A x_T + sum_n w_n output_n, with numbers w_n that do
not depend on the data; multistep solvers (UniPC, DPM-Solver++) included. A copy of the scheduler is run on a vector of scalars,
one impulse a step, and w is what remains at the end. No formula per scheduler.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ..errors import FORECAST_INSTEAD, ExecutionError
from .noise_level import first_step
from .protocols import Scheduler

_LINEAR = 1e-3  # relative: schedulers work in float32


def sampler_weights(scheduler: Scheduler, arguments: Mapping[str, object] | None = None) -> np.ndarray:
    """Weights of a scheduler whose timesteps are set and which has not stepped yet.

    Args:
        scheduler: a diffusers scheduler; it is copied, not touched.
        arguments: what else the pipeline hands to `step` (eta, s_noise ...), by name.

    Returns:
        float64 (step,): change of the latent after the last step for one unit of each step's output.

    Raises:
        ExecutionError: the sampler adds noise, or is not linear in the outputs (thresholding, clipping).
    """
    steps = len(scheduler.timesteps) - first_step(scheduler)
    name = type(scheduler).__name__
    run = _Replica(scheduler, arguments or {}, steps)
    weights = run(torch.zeros(steps), torch.eye(steps)) - run(torch.zeros(steps), torch.zeros(steps, steps))
    mixed = torch.linspace(1.0, 3.0, steps)  # not small: a clip at 1 would show
    seeds = (0, 0) if name in _NOISE_APART else (0, 1)
    once, again = (run(torch.full((1,), 5.0), mixed[:, None], seed) for seed in seeds)
    start = run(torch.full((1,), 5.0), torch.zeros(steps, 1))
    if not torch.equal(once, again):
        raise ExecutionError(f"{name} adds noise at its steps, so a skipped step cannot be corrected; {FORECAST_INSTEAD}.")
    expected = start + (weights * mixed).sum()
    scale = expected.abs() + (weights.abs() * mixed).sum() + start.abs()
    if not torch.isfinite(once).all() or ((once - expected).abs() > _LINEAR * scale).any():
        raise ExecutionError(
            f"{name} is not linear in the outputs (thresholding or clipping), which a correction needs; {FORECAST_INSTEAD}."
        )
    return weights.double().numpy()


def recorded_weights(scheduler: Scheduler, steps: int) -> list[float] | None:
    """The weights of the last `steps` steps, as a recording keeps them; None where the sampler has none."""
    try:
        return [float(weight) for weight in sampler_weights(scheduler)[-steps:]]
    except (
        ExecutionError,
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
    ):  # a sampler of the user's own may take no scalars
        return None


# its noise comes from the call's generator and is scaled without regard to the outputs: with the same seed the full run has the
# same
_NOISE_APART = ("CogVideoXDPMScheduler",)


class _Replica:
    """Runs a copy of a scheduler from its first step to its last on vectors of scalars."""

    def __init__(self, scheduler: Scheduler, arguments: Mapping[str, object], steps: int):
        self._scheduler, self._steps = scheduler, steps
        parameters = inspect.signature(type(scheduler).step).parameters
        self._extra = {name: value for name, value in arguments.items() if name in parameters and name not in _OWN}
        self._draws = "generator" in parameters
        self._old_original = "old_pred_original_sample" in parameters  # CogVideoX's DPM solver

    def __call__(self, sample: torch.Tensor, outputs: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """sample: (scalar,). outputs: (step, scalar). seed: of noise, should there be any. Gives the final sample, (scalar,)."""
        scheduler = copy.deepcopy(self._scheduler)
        vars(scheduler)["is_scale_input_called"] = True  # Karras-space samplers warn without a network in between
        if hasattr(scheduler, "timesteps"):
            scheduler.timesteps = scheduler.timesteps.cpu()
        timesteps = scheduler.timesteps[len(scheduler.timesteps) - self._steps :]
        shape = (1, 1, 1, -1)  # a sampler may look at the number of axes
        sample, step = sample.reshape(shape).expand(shape[:3] + outputs.shape[1:]).clone(), _stepper(scheduler)
        before: torch.Tensor | None = None
        extra = self._extra | ({"generator": torch.Generator().manual_seed(seed)} if self._draws else {})
        for index, timestep in enumerate(timesteps):
            given = {"model_output": outputs[index].reshape(shape), "timestep": timestep, "sample": sample, **extra}
            if self._old_original:
                back = timesteps[index - 1] if index else None
                given |= {"old_pred_original_sample": before, "timestep_back": back}
            result = step(**given, return_dict=False)
            sample, before = result[0], result[1] if self._old_original else None
        return sample.reshape(-1)


_OWN = ("self", "model_output", "timestep", "sample", "return_dict", "generator", "old_pred_original_sample", "timestep_back")


def _stepper(scheduler: Scheduler) -> Callable[..., Any]:
    """The class's own step: an instance may carry a patch of ours."""
    scheduler.__dict__.pop("step", None)
    return lambda **given: type(scheduler).step(scheduler, **given)
