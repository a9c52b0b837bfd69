"""What janoscope takes of diffusers' objects: the few attributes that every pipeline and scheduler has.

diffusers carries no types, so these stand in signatures where a `DiffusionPipeline` or one of its schedulers is meant.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Scheduler(Protocol):
    """A diffusers scheduler: a table of timesteps, and `step` from one sample to the next."""

    config: Mapping[str, object]
    timesteps: "torch.Tensor"

    def set_timesteps(self, *args: object, **kwargs: object) -> None: ...

    def step(self, *args: object, **kwargs: object) -> object: ...


class Pipeline(Protocol):
    """A diffusers pipeline: called to generate, steps its scheduler. Its networks are found by name, as the probe says."""

    scheduler: Scheduler

    def __call__(self, *args: Any, **kwargs: Any) -> object: ...  # Any: every signature fits
