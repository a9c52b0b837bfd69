"""From the warm-up's latents to the scores that a policy cuts into levels; the same for a recording and in mid-generation."""

from collections.abc import Callable, Sequence

import numpy as np
from array_api_compat import array_namespace

from ..analysis.arrays import as_numpy_on_cpu, to_host
from ..analysis.complexity import Complexity, Enhancement, jano_complexity
from ..analysis.importance import gradient_energy, ras_importance, velocity_change
from ..array_api import AnyArray, Array
from ..conversion import NoisePath, is_flow, to_flow_velocity, to_x0
from ..errors import InputError
from ..grid import TokenGrid
from .levels import random_scores
from .policy import Policy


def warmup_scores(
    policy: Policy, samples: Sequence[AnyArray], outputs: Sequence[AnyArray], *, path: NoisePath, prediction: str
) -> Complexity:
    """The JANO map of one item's warm-up.

    Args:
        samples, outputs: x_t and the guided prediction of steps 0..warmup-1, each (channel, frame, row, col), NumPy or torch.
        path: noise levels of the whole run. prediction: what the network predicts, `flow` or diffusers' prediction_type.

    The signals are the flow velocities of the warm-up steps, preceded by the initial noise where the policy says so (the official
    code's first generation of a process); see `initial_signal`.
    """
    velocities = [
        to_flow_velocity(output, sample, prediction=prediction, point=path.at(step))
        for step, (output, sample) in enumerate(zip(outputs[: policy.warmup], samples, strict=False))
    ]
    xp, dtype = array_namespace(velocities[0]), velocities[0].dtype
    # one dtype for all: a scheduler may keep its sample in a wider one than the network predicts in
    first = [initial_signal(xp.astype(samples[0], dtype), path, prediction)] if policy.initial_latent else []
    return complexity_of(policy, xp.stack([*first, *(xp.astype(velocity, dtype) for velocity in velocities)]))


def initial_signal(sample: Array, path: NoisePath, prediction: str) -> Array:
    """The initial noise as a signal beside velocities: the flow velocity that x_T has while x0 is still taken for 0.

    That is (sigma' / sigma) x_T, and x_T itself on a flow model, as in the official code. Elsewhere velocities are per timestep
    (about 1e-3) or samples as large as sigma (EDM, about 15): left as it is, the noise would drown every prediction.
    """
    if is_flow(prediction):
        return sample
    rate = path.at().sigma_rate
    assert isinstance(rate, np.ndarray)  # a path's own points have their rates
    signal: Array = sample * float(rate[0] / path.sigma[0])
    return signal


def complexity_of(policy: Policy, signals: AnyArray) -> Complexity:
    """The JANO map with the policy's tile, weights, padding and enhancement, of (signal, channel, frame, row, col)."""
    enhance = Enhancement(policy.enhance.strength, policy.enhance.distance)
    return jano_complexity(signals, policy.tile, temporal_weight=policy.temporal_weight, padding=policy.padding, enhance=enhance)


def importance_scores(
    policy: Policy,
    samples: Sequence[AnyArray],
    outputs: Sequence[AnyArray],
    *,
    path: NoisePath,
    prediction: str,
    grid: TokenGrid,
    seed: int | None = None,
) -> np.ndarray:
    """Scores of one item's warm-up by the policy's `map`, as `token_ranks` takes them; high asks for more computing.

    `samples` and `outputs` as in `warmup_scores`. `jano`: the enhanced map, float32 (tile frame, tile row, tile col). `random`: a
    score a tile from `seed` (None is 0). The others score tokens, float32 (token,): `x0-gradient`, detail of the last warm-up
    step's x0 estimate; `velocity-change`, the last two steps' difference; `ras`, the negated RAS importance of the last step,
    since RAS computes tokens of low spread.

    Raises `InputError` for `oracle`, which needs a finished run, and for a warm-up that is too short for the map.
    """
    if policy.warmup < policy.least_warmup:
        needed = policy.least_warmup
        raise InputError(f"map = {policy.map!r} needs a warm-up of {needed} or more, policy {policy.name} has {policy.warmup}.")
    if policy.map == "jano":
        return warmup_scores(policy, samples, outputs, path=path, prediction=prediction).enhanced
    if policy.map == "random":
        return random_scores(grid.tiles(policy.tile), seed or 0)
    makers: dict[str, Callable[[], AnyArray]] = {
        "x0-gradient": lambda: gradient_energy(convert(to_x0, last), grid),
        "velocity-change": lambda: velocity_change(*(convert(to_flow_velocity, step) for step in (last - 1, last))),
        "ras": lambda: -ras_of_step(convert(to_flow_velocity, last), grid, path, last),
    }
    if policy.map not in makers:
        raise InputError(
            f"map = {policy.map!r} knows the run's end, so no warm-up gives it; `janoscope analyze` a recording with this policy "
            "and apply its plan.json."
        )
    last = policy.warmup - 1

    def convert(to: Callable[..., AnyArray], step: int) -> AnyArray:
        # a CPU tensor is read as NumPy, so that a live run and its recording give the same bits and thus the same levels
        output, sample = as_numpy_on_cpu(outputs[step]), as_numpy_on_cpu(samples[step])
        return grid.pack(to(output, sample, prediction=prediction, point=path.at(step)))

    return to_host(makers[policy.map]()).astype(np.float32, copy=False)


def ras_of_step(velocity: Array, grid: TokenGrid, path: NoisePath, step: int) -> Array:
    """`ras_importance` of a step's velocity (token, channel) over the path's own gap; the last one leads to the final sigma."""
    final = 0.0 if path.final is None else float(path.final[1])
    following = float(path.sigma[step + 1]) if step + 1 < len(path) else final
    return ras_importance(velocity, grid, sigma=float(path.sigma[step]), sigma_next=following)
