"""What the executor refuses by the configs of network and sampler alone, so that an analysis can say it before anything runs."""

from collections.abc import Mapping
from typing import Any

from ..errors import ExecutionError
from ..plan import ONE_STEP_SAMPLERS, is_one_step
from ..probe import Probe

RUN_PLAIN = "run without the executor"


def refuse_sampler_of(scheduler: Mapping[str, Any]) -> None:
    """The same for a sampler described by its class and config."""
    if not is_one_step(scheduler):
        raise ExecutionError(
            f'output = "corrected" needs a sampler that uses each prediction once ({", ".join(ONE_STEP_SAMPLERS)}), which '
            f'{scheduler["class"]} does not: take output = "forecast", or another sampler with --scheduler.'
        )


def refuse_config(sheet: Probe, config: Mapping[str, Any]) -> None:
    """Refuse a variant of the family whose tokens do not run through the blocks as the probe says."""
    assert sheet.execution is not None
    for key in sheet.execution.refuse_config:
        if config.get(key):
            raise ExecutionError(f"{sheet.title} with {key} = {config[key]!r} in its config cannot be accelerated; {RUN_PLAIN}.")
