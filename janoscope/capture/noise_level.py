"""alpha and sigma of a scheduler's sample: x = alpha x0 + sigma eps."""

from typing import Any

import torch

from ..errors import InputError


def first_step(scheduler: Any) -> int:
    """Where a generation starts in the scheduler's tables: later than 0 when it starts from a picture."""
    return int(getattr(scheduler, "begin_index", None) or 0)


def step_index(scheduler: Any, timestep: float) -> int:
    """Position of `timestep` in the scheduler's tables. Schedulers know it themselves only after their first step."""
    for name in ("step_index", "begin_index"):
        index = getattr(scheduler, name, None)
        if index is not None:
            return int(index)
    matches = (scheduler.timesteps.double() - timestep).abs() < 1e-4
    if not bool(matches.any()):
        raise InputError(f"timestep {timestep} is not in the scheduler's table; the pipeline steps outside its own schedule.")
    return int(matches.nonzero()[0])


def noise_level(scheduler: Any, timestep: float) -> tuple[float, float]:
    """(alpha, sigma) of the sample that this scheduler steps at `timestep`; call before its step.

    Raises InputError for a scheduler that has neither sigmas nor alphas_cumprod.
    """
    return noise_level_at(scheduler, step_index(scheduler, timestep) if _has_sigmas(scheduler) else 0, timestep)


def noise_level_at(scheduler: Any, index: int, timestep: float) -> tuple[float, float]:
    """As `noise_level`, at a position of the scheduler's table.

    Flow matching: alpha = 1 - sigma. DPM-Solver and UniPC say it themselves. Euler-like solvers in Karras' space: alpha = 1.
    Those without sigmas: sqrt(alphas_cumprod[timestep]).
    """
    if not _has_sigmas(scheduler):
        alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
        if alphas_cumprod is None:
            raise InputError(f"{type(scheduler).__name__} has neither sigmas nor alphas_cumprod; feed a Recorder from your own loop.")
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
    named = type(scheduler).__name__.startswith("FlowMatch")
    return named or bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def _has_sigmas(scheduler: Any) -> bool:
    return getattr(scheduler, "sigmas", None) is not None
