"""What the executor refuses, each with a sentence: better no result than a wrong one."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import ExecutionError
from ..grid import TokenGrid
from ..plan import Policy
from ..probe import ProbeSheet


def refuse_policy(policy: Policy) -> None:
    """Refuse fields of a policy that this executor would have to ignore."""
    if policy.map not in ("jano",):
        raise ExecutionError(f"map = {policy.map!r} cannot be made in mid-generation; use map = \"jano\", or a plan made by `janoscope analyze`.")
    if policy.output != "hold" or policy.cache.forecast:
        raise ExecutionError("forecasting outputs or keys and values is not supported; use output = \"hold\" and cache.forecast = false.")
    if policy.cache.strategy != "kv":
        raise ExecutionError(f"cache.strategy = {policy.cache.strategy!r} is not supported; use \"kv\".")
    if policy.warmup < 1:
        raise ExecutionError("warmup = 0 leaves nothing to make a map from; use warmup of at least 2, or a plan.")


def refuse_config(sheet: ProbeSheet, config: Mapping[str, Any]) -> None:
    """Refuse a variant of the family whose tokens do not run through the blocks as the sheet says."""
    assert sheet.execution is not None
    for key in sheet.execution.refuse_config:
        if config.get(key):
            raise ExecutionError(f"{sheet.title} with {key} = {config[key]!r} in its config cannot be accelerated; run without the executor.")


def refuse_call(sheet: ProbeSheet, arguments: Mapping[str, Any]) -> None:
    """Refuse a network call whose extra inputs do not follow skipped tokens."""
    assert sheet.execution is not None
    for name in sheet.execution.refuse:
        if arguments.get(name) is not None:
            raise ExecutionError(f"{sheet.title} was called with {name}, which skipped tokens cannot follow; run without the executor.")
    timestep = arguments.get(sheet.tap.timestep)
    if timestep is not None and getattr(timestep, "ndim", 0) > 1:
        raise ExecutionError("the pipeline gives every token its own timestep, which skipped tokens cannot follow; run without the executor.")


def refuse_channels(sheet: ProbeSheet, grid: TokenGrid, sample: torch.Tensor) -> None:
    """Refuse a pipeline that appends a picture's channels to the network's input (image to video)."""
    channels = sample.shape[-1] // math.prod(grid.patch) if sample.ndim == 3 else sample.shape[2 if sheet.tokens.layout == "BFCHW" else 1]
    if channels != grid.channels:
        raise ExecutionError(
            f"the network takes {grid.channels} channels but the sampler steps {channels}: pictures as extra input cannot be accelerated; "
            "run without the executor."
        )
