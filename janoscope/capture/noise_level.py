"""alpha and sigma of a scheduler's sample: x = alpha x0 + sigma eps."""

import copy
from typing import Any

import torch

from ..errors import InputError

_TABLES = ("timesteps", "sigmas", "alphas_cumprod")


def first_step(scheduler: Any, timestep: float | None = None) -> int:
    """Where a generation starts in the scheduler's tables: later than 0 when it starts from a picture.

    timestep: of the first step; schedulers without a begin_index (DDIM) show their start in nothing else.
    """
    index = getattr(scheduler, "begin_index", None)
    if index is not None:
        return int(index)
    return 0 if timestep is None else _position(scheduler, timestep) or 0


def on_host(scheduler: Any) -> Any:
    """A stand-in with the same facts whose tables lie in host memory: reading one value must not make an accelerator wait."""
    tables = copy.copy(scheduler)
    for name in _TABLES:
        table = getattr(scheduler, name, None)
        if isinstance(table, torch.Tensor):
            setattr(tables, name, table.cpu())
    return tables


def _position(scheduler: Any, timestep: float) -> int | None:
    matches = (scheduler.timesteps.double() - timestep).abs() < 1e-4
    return int(matches.nonzero()[0]) if bool(matches.any()) else None


def step_index(scheduler: Any, timestep: float) -> int:
    """Position of `timestep` in the scheduler's tables. Schedulers know it themselves only after their first step."""
    for name in ("step_index", "begin_index"):
        index = getattr(scheduler, name, None)
        if index is not None:
            return int(index)
    position = _position(scheduler, timestep)
    if position is None:
        raise InputError(f"timestep {timestep} is not in the scheduler's table; the pipeline steps outside its own schedule.")
    return position


def noise_level(scheduler: Any, timestep: float, tables: Any | None = None) -> tuple[float, float]:
    """(alpha, sigma) of the sample that this scheduler steps at `timestep`; call before its step.

    tables: `on_host(scheduler)`, to read the values from. Raises InputError for a scheduler without sigmas and alphas_cumprod.
    """
    return noise_level_at(tables or scheduler, step_index(scheduler, timestep) if _has_sigmas(scheduler) else 0, timestep)


def noise_level_at(scheduler: Any, index: int, timestep: float) -> tuple[float, float]:
    """As `noise_level`, at a position of the scheduler's table.

    Flow matching: alpha = 1 - sigma. DPM-Solver and UniPC say it themselves. Euler-like solvers in Karras' space: alpha = 1.
    Those without sigmas: sqrt(alphas_cumprod[timestep]).
    """
    if not _has_sigmas(scheduler):
        alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
        if alphas_cumprod is None:
            raise InputError(
                f"{type(scheduler).__name__} has no sigmas and no alphas_cumprod; feed a Recorder from your own loop."
            )
        alpha_bar = float(alphas_cumprod[round(timestep)].double())
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    sigma = float(scheduler.sigmas[index].double())
    split = getattr(scheduler, "_sigma_to_alpha_sigma_t", None)
    if split is not None:
        alpha_t, sigma_t = split(torch.tensor(sigma, dtype=torch.float64))
        return float(alpha_t), float(sigma_t)
    return (1 - sigma, sigma) if predicts_flow(scheduler) else (1.0, sigma)


def noise_levels(scheduler: Any) -> tuple[list[float], list[float], list[float]]:
    """(timestep, alpha, sigma) of every step to come, once `set_timesteps` has run."""
    begin = first_step(scheduler)
    timesteps = [float(t) for t in scheduler.timesteps[begin:]]
    levels = [noise_level_at(scheduler, begin + i, t) for i, t in enumerate(timesteps)]
    return timesteps, [alpha for alpha, _ in levels], [sigma for _, sigma in levels]


def final_noise_level(scheduler: Any) -> tuple[float, float]:
    """(alpha, sigma) after the last step: (1, 0), except DDIM-like schedulers that stop at alphas_cumprod[0]."""
    final = getattr(scheduler, "final_alpha_cumprod", None)
    return (1.0, 0.0) if final is None else (float(final) ** 0.5, (1 - float(final)) ** 0.5)


def prediction_type(scheduler: Any) -> str:
    """`flow`, `epsilon`, `v_prediction` or `sample`, as the scheduler understands the network's output."""
    if predicts_flow(scheduler):
        return "flow"
    name: str = scheduler.config.get("prediction_type", "epsilon")
    return name


def predicts_flow(scheduler: Any) -> bool:
    config = scheduler.config
    # only flow matching has scale_noise; the ancestral sampler of LTX has neither that nor a telling config
    named = hasattr(scheduler, "scale_noise") or type(scheduler).__name__ == "LTXEulerAncestralRFScheduler"
    return named or bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def _has_sigmas(scheduler: Any) -> bool:
    return getattr(scheduler, "sigmas", None) is not None
