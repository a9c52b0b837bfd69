"""From the warm-up's latents to the scores that a policy cuts into levels; the same for a recording and in mid-generation."""

from collections.abc import Sequence
from typing import Any

from array_api_compat import array_namespace

from ..analysis.complexity import Complexity, Enhancement, jano_complexity
from ..conversion import NoisePath, to_flow_velocity
from .policy import Policy


def warmup_scores(
    policy: Policy, samples: Sequence[Any], outputs: Sequence[Any], *, path: NoisePath, prediction: str
) -> Complexity:
    """The JANO map of one item's warm-up.

    Args:
        samples, outputs: x_t and the guided prediction of steps 0..warmup-1, each (channel, frame, row, col), NumPy or torch.
        path: noise levels of the whole run. prediction: what the network predicts, `flow` or diffusers' prediction_type.

    The signals are the flow velocities of the warm-up steps, preceded by the initial noise where the policy says so (the official
    code's first generation of a process).
    """
    velocities = [
        to_flow_velocity(output, sample, prediction=prediction, point=path.at(step))
        for step, (output, sample) in enumerate(zip(outputs[: policy.warmup], samples, strict=False))
    ]
    first = [samples[0]] if policy.initial_latent else []
    xp = array_namespace(velocities[0])
    # one dtype for all: a scheduler may keep its sample in a wider one than the network predicts in
    signals = xp.stack([xp.astype(signal, velocities[0].dtype) for signal in (*first, *velocities)])
    enhance = Enhancement(policy.enhance.strength, policy.enhance.distance)
    return jano_complexity(signals, policy.tile, temporal_weight=policy.temporal_weight, padding=policy.padding, enhance=enhance)
