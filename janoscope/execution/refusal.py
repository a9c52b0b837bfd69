"""What the executor refuses, each with a sentence: better no result than a wrong one."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..capture.identity import describe_scheduler
from ..errors import ExecutionError
from ..grid import TokenGrid
from ..plan import ONE_STEP_SAMPLERS, Cache, Policy, is_one_step
from ..probe import ProbeSheet

RUN_PLAIN = "run without the executor"


def refuse_policy(policy: Policy, planned: bool = False) -> None:
    """Refuse fields of a policy that this executor would have to ignore. planned: a plan holds the levels already."""
    if planned:
        return
    if policy.map == "oracle":
        raise ExecutionError("the oracle map is made from the full run, not in mid-generation; use `compare --method oracle`.")
    if (least := policy.least_warmup) > policy.warmup:
        raise ExecutionError(f"warmup = {policy.warmup} leaves too little to make a {policy.map} map from; the least is {least}.")


def refuse_sampler(scheduler: Any) -> None:
    """Refuse to correct forecasts under a sampler whose step is not linear in the newest prediction alone."""
    refuse_sampler_of(describe_scheduler(scheduler))


def refuse_sampler_of(scheduler: Mapping[str, Any]) -> None:
    """The same for a sampler described by its class and config."""
    if not is_one_step(scheduler):
        raise ExecutionError(
            f'output = "corrected" needs a sampler that uses each prediction once ({", ".join(ONE_STEP_SAMPLERS)}), which '
            f'{scheduler["class"]} does not: take output = "forecast", or another sampler with --scheduler.'
        )


def refuse_noise(step: Mapping[str, Any]) -> None:
    """Refuse to correct forecasts where the sampler's step is told to add noise (DDIM's eta)."""
    if step.get("eta"):
        raise ExecutionError(
            f'output = "corrected" needs a step without noise, and this run has eta = {step["eta"]}: take output = "forecast".'
        )


def refuse_cache(cache: Cache) -> None:
    """Refuse settings that a strategy would ignore; a policy read from a file has been checked already."""
    if cache.forecast and cache.strategy != "kv":
        raise ExecutionError(
            f"cache.forecast needs strategy kv: {cache.strategy} does not keep keys and values to draw lines through."
        )


def refuse_compiled(name: str, module: torch.nn.Module) -> None:
    """Refuse a network that is compiled as a whole: what is skipped changes from step to step. Compiled blocks are fine."""
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        raise ExecutionError(
            f"{name} is compiled as a whole, which cannot be accelerated; compile its blocks (compile_repeated_blocks)."
        )


def refuse_config(sheet: ProbeSheet, config: Mapping[str, Any]) -> None:
    """Refuse a variant of the family whose tokens do not run through the blocks as the sheet says."""
    assert sheet.execution is not None
    for key in sheet.execution.refuse_config:
        if config.get(key):
            raise ExecutionError(f"{sheet.title} with {key} = {config[key]!r} in its config cannot be accelerated; {RUN_PLAIN}.")


def refuse_call(sheet: ProbeSheet, arguments: Mapping[str, Any]) -> None:
    """Refuse a network call whose extra inputs do not follow skipped tokens."""
    assert sheet.execution is not None
    for name in sheet.execution.refuse:
        if arguments.get(name) is not None:
            raise ExecutionError(f"{sheet.title} was called with {name}, which skipped tokens cannot follow; {RUN_PLAIN}.")
    timestep = arguments.get(sheet.tap.timestep)
    if timestep is not None and getattr(timestep, "ndim", 0) > 1:
        raise ExecutionError(f"the pipeline gives every token its own timestep, which skipped tokens cannot follow; {RUN_PLAIN}.")


def refuse_channels(sheet: ProbeSheet, grid: TokenGrid, sample: torch.Tensor) -> None:
    """Refuse a pipeline that appends a picture's channels to the network's input (image to video)."""
    axis = 2 if sheet.tokens.layout == "BFCHW" else 1
    channels = sample.shape[-1] // math.prod(grid.patch) if sample.ndim == 3 else sample.shape[axis]
    if channels != grid.channels:
        raise ExecutionError(
            f"the network takes {grid.channels} channels but the sampler steps {channels}: pictures as extra input cannot be "
            f"accelerated; {RUN_PLAIN}."
        )


def refuse_sequence(sheet: ProbeSheet, grid: TokenGrid, given: torch.Tensor) -> None:
    """Refuse reference pictures that stand behind the picture's own tokens."""
    if sheet.tokens.layout == "packed" and given.shape[1] != grid.count:
        raise ExecutionError(
            f"the network was given {given.shape[1]} tokens for a picture of {grid.count}: reference pictures cannot be "
            f"accelerated; {RUN_PLAIN}."
        )
