"""What the executor refuses, each with a sentence: better no result than a wrong one."""

from collections.abc import Mapping
from typing import Any

from ..errors import ExecutionError
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


def refuse_call(sheet: ProbeSheet, arguments: Mapping[str, Any]) -> None:
    """Refuse a network call whose extra inputs meet the full sequence between the blocks."""
    assert sheet.execution is not None
    for name in sheet.execution.refuse:
        if arguments.get(name) is not None:
            raise ExecutionError(f"{sheet.title} was called with {name}, which is added to every token between the blocks; run without the executor.")
    timestep = arguments.get(sheet.tap.timestep)
    if timestep is not None and getattr(timestep, "ndim", 0) > 1:
        raise ExecutionError("the pipeline gives every token its own timestep, which skipped tokens cannot follow; run without the executor.")
