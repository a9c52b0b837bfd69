"""alpha and sigma of a scheduler's sample: x = alpha x0 + sigma eps."""

import copy

import torch

from ..errors import InputError
from .protocols import Pipeline, Scheduler

_TABLES = ("timesteps", "sigmas", "alphas_cumprod")


def first_step(scheduler: Scheduler, timestep: float | None = None, to_come: int | None = None) -> int:
    """Where a generation starts in the scheduler's tables: later than 0 when it starts from a picture.

    timestep: of the first step; schedulers without a begin_index (DDIM) show their start in nothing else. to_come: how many steps
    the pipeline says it will make, which decides where the table holds the timestep twice (PNDM).
    """
    index = getattr(scheduler, "begin_index", None)
    if index is not None:
        return int(index)
    found = [] if timestep is None else _positions(scheduler, timestep)
    if len(found) > 1:
        by_count = [position for position in found if position + (to_come or 0) == len(scheduler.timesteps)]
        return by_count[0] if by_count else _own_position(scheduler, float(timestep or 0), found)
    return found[0] if found else 0


def steps_to_come(pipe: Pipeline, scheduler: Scheduler, timestep: float) -> int:
    """How many steps a generation makes whose first is at `timestep`: to the end of the table, or as many as the pipeline says.

    Pipelines keep that number as `num_timesteps`; fewer than the table holds where one stops midway (`denoising_end` of SDXL).
    """
    announced = announced_steps(pipe)
    remaining = len(scheduler.timesteps) - first_step(scheduler, timestep, announced)
    # a second order scheduler makes two steps of one, and not every pipeline counts both
    stops_early = announced is not None and announced < remaining and getattr(scheduler, "order", 1) == 1
    return announced if announced is not None and stops_early else remaining


def announced_steps(pipe: Pipeline) -> int | None:
    """`num_timesteps` of a pipeline that keeps it: the length of the table that its loop runs over."""
    number = getattr(pipe, "num_timesteps", None)
    return number if isinstance(number, int) and number > 0 else None


def on_host(scheduler: Scheduler) -> Scheduler:
    """A stand-in with the same facts whose tables lie in host memory: reading one value must not make an accelerator wait."""
    tables = copy.copy(scheduler)
    for name in _TABLES:
        table = getattr(scheduler, name, None)
        if isinstance(table, torch.Tensor):
            setattr(tables, name, table.cpu())
    return tables


def _positions(scheduler: Scheduler, timestep: float) -> list[int]:
    """Every place of a timestep in the table; PNDM and second order schedulers hold most of theirs twice."""
    matches = (scheduler.timesteps.double() - timestep).abs() < 1e-4
    return [int(position) for position in matches.nonzero()[:, 0]]


def _own_position(scheduler: Scheduler, timestep: float, found: list[int]) -> int:
    """Of several places the one where the scheduler itself begins: it has a rule of its own, which is not the first match.

    PNDM has none: the last place, as a recording may grow longer than planned but not end before.
    """
    rule = getattr(scheduler, "index_for_timestep", None)
    return found[-1] if rule is None else int(rule(torch.tensor(timestep, dtype=scheduler.timesteps.dtype)))


def step_index(scheduler: Scheduler, timestep: float) -> int:
    """Position of `timestep` in the scheduler's tables. Schedulers know it themselves only after their first step."""
    for name in ("step_index", "begin_index"):
        index = getattr(scheduler, name, None)
        if index is not None:
            return int(index)
    found = _positions(scheduler, timestep)
    if not found:
        raise InputError(f"timestep {timestep} is not in the scheduler's table; the pipeline steps outside its own schedule.")
    return found[0] if len(found) == 1 else _own_position(scheduler, timestep, found)


def noise_level(scheduler: Scheduler, timestep: float, tables: Scheduler | None = None) -> tuple[float, float]:
    """(alpha, sigma) of the sample that this scheduler steps at `timestep`; call before its step.

    tables: `on_host(scheduler)`, to read the values from. Raises InputError for a scheduler without sigmas and alphas_cumprod.
    """
    return noise_level_at(tables or scheduler, step_index(scheduler, timestep) if _has_sigmas(scheduler) else 0, timestep)


def noise_level_at(scheduler: Scheduler, index: int, timestep: float) -> tuple[float, float]:
    """As `noise_level`, at a position of the scheduler's table.

    Flow matching: alpha = 1 - sigma, and the other way round with `invert_sigmas` (Mochi), where the scheduler's sigma runs from
    0, noise, to 1. DPM-Solver and UniPC say it themselves. Euler-like solvers in Karras' space: alpha = 1.
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
    sigma = float(_sigmas(scheduler)[index].double())
    split = getattr(scheduler, "_sigma_to_alpha_sigma_t", None)
    if split is not None:
        alpha_t, sigma_t = split(torch.tensor(sigma, dtype=torch.float64))
        return float(alpha_t), float(sigma_t)
    if not predicts_flow(scheduler):
        return 1.0, sigma
    return (sigma, 1 - sigma) if runs_inverted(scheduler) else (1 - sigma, sigma)


def noise_levels(scheduler: Scheduler) -> tuple[list[float], list[float], list[float]]:
    """(timestep, alpha, sigma) of every step to come, once `set_timesteps` has run."""
    begin = first_step(scheduler)
    timesteps = [float(t) for t in scheduler.timesteps[begin:]]
    levels = [noise_level_at(scheduler, begin + i, t) for i, t in enumerate(timesteps)]
    return timesteps, [alpha for alpha, _ in levels], [sigma for _, sigma in levels]


def final_noise_level(scheduler: Scheduler, end: int | None = None) -> tuple[float, float]:
    """(alpha, sigma) after the last step: (1, 0), except DDIM-like schedulers that stop at alphas_cumprod[0].

    end: the place in the tables that the run does not reach, where it stops before they do.
    """
    if end is not None and end < len(scheduler.timesteps):
        return noise_level_at(scheduler, end, float(scheduler.timesteps[end]))
    final = getattr(scheduler, "final_alpha_cumprod", None)
    return (1.0, 0.0) if final is None else (float(final) ** 0.5, (1 - float(final)) ** 0.5)


def predicted_quantity(scheduler: Scheduler, named: str) -> str:
    """What a prediction handed to this scheduler means. named: [output] prediction of the probe.

    `flow` (eps - x0) is `inverted_flow` (x0 - eps) where the scheduler's sigma runs from noise to data.
    """
    kind = prediction_type(scheduler) if named == "scheduler" else named
    return "inverted_flow" if kind == "flow" and runs_inverted(scheduler) else kind


def prediction_type(scheduler: Scheduler) -> str:
    """`flow`, `epsilon`, `v_prediction` or `sample`, as the scheduler understands the network's output."""
    if predicts_flow(scheduler):
        return "flow"
    return str(scheduler.config.get("prediction_type", "epsilon"))


def runs_inverted(scheduler: Scheduler) -> bool:
    """Whether a flow matching scheduler's own sigma grows from noise to data, as Mochi's does."""
    return bool(scheduler.config.get("invert_sigmas")) and predicts_flow(scheduler)


def refuse_inversion(scheduler: Scheduler, first: int) -> None:
    """Raise InputError for a scheduler that goes from data to noise: its run is no generation.

    first: where the run begins in the scheduler's tables.
    """
    ends = [
        noise_level_at(scheduler, index, float(scheduler.timesteps[index])) for index in (first, len(scheduler.timesteps) - 1)
    ]
    (alpha, sigma), (last_alpha, last_sigma) = ends
    if sigma * last_alpha < last_sigma * alpha:
        raise InputError(
            f"{type(scheduler).__name__} goes from sigma {sigma:.4g} to {last_sigma:.4g}, from data to noise: an inversion, not "
            "a generation. Record the generation that follows it."
        )


def predicts_flow(scheduler: Scheduler) -> bool:
    config = scheduler.config
    # only flow matching has scale_noise; the ancestral sampler of LTX has neither that nor a telling config
    named = hasattr(scheduler, "scale_noise") or type(scheduler).__name__ == "LTXEulerAncestralRFScheduler"
    return named or bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def _sigmas(scheduler: Scheduler) -> torch.Tensor:
    """Its table of sigmas, of a scheduler that has one."""
    sigmas = getattr(scheduler, "sigmas", None)
    assert isinstance(sigmas, torch.Tensor)
    return sigmas


def _has_sigmas(scheduler: Scheduler) -> bool:
    return getattr(scheduler, "sigmas", None) is not None
