"""What the first network call of a generation shows, read once and complete."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..capture.describe import config_of, describe_scheduler, describe_transformer, dtype_name
from ..capture.layout import grid_of_call, text_tokens
from ..capture.noise_level import announced_steps, first_step
from ..capture.protocols import Pipeline
from ..grid import TokenGrid
from ..plan import Fingerprint
from ..plan.fingerprint import Identity, fingerprint_of
from ..probe import Probe
from .refusal import refuse_sequence
from .refused_configs import refuse_config


@dataclass(frozen=True)
class GenerationFacts:
    """Of one generation under the executor.

    steps: scheduler steps to come. left_out: steps at the front of the scheduler's tables that a start from a video leaves out,
    where the scheduler knows of none (CogVideoX with DDIM). config, dtype: of the network, `float32` or `bfloat16`. text_tokens:
    length of the text. batch: rows of the network's input, of all guidance branches that share a call.
    """

    grid: TokenGrid
    steps: int
    left_out: int
    fingerprint: Fingerprint
    config: Mapping[str, object]
    dtype: str
    text_tokens: int
    batch: int

    @classmethod
    def of_call(
        cls, pipe: Pipeline, probe: Probe, module: torch.nn.Module, arguments: Mapping[str, object], identity: Identity
    ) -> "GenerationFacts":
        """Read a network's first call, once the scheduler's timesteps are set.

        Raises:
            ExecutionError: the variant or its input cannot be accelerated.
            InputError: the call does not name the tokens of its input.
        """
        scheduler, sample, config = pipe.scheduler, arguments[probe.tap.input], config_of(module)
        assert isinstance(sample, torch.Tensor), "the probe names the network's latent input"
        refuse_config(probe, config)
        grid = grid_of_call(probe, config, arguments, sample, first_picture=True)
        refuse_sequence(probe, grid, sample)
        left_out = first_step(scheduler, _timestep(arguments), announced_steps(pipe)) - first_step(scheduler)
        steps = len(scheduler.timesteps) - first_step(scheduler) - left_out
        described = describe_transformer(module), describe_scheduler(scheduler)
        fingerprint = fingerprint_of(*described, grid, steps, identity)
        dtype, batch = dtype_name(module), sample.shape[0]
        return cls(grid, steps, left_out, fingerprint, config, dtype, text_tokens(arguments), batch)


def _timestep(arguments: Mapping[str, object]) -> float | None:
    """The first call's timestep, None where the network is given another number: fractions lie in 0..1."""
    timestep = arguments.get("timestep")
    if not isinstance(timestep, torch.Tensor | int | float):
        return None
    value = float(timestep.max() if isinstance(timestep, torch.Tensor) else timestep)
    return value if value > 1 else None
