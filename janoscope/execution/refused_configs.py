"""What the executor refuses by the configs of network and sampler alone, so that an analysis can say it before anything runs."""

from collections.abc import Mapping

from ..errors import FORECAST_INSTEAD, ExecutionError
from ..probe import Probe

RUN_PLAIN = "run without the executor"


def refuse_recorded_sampler(scheduler: Mapping[str, object]) -> None:
    """Refuse to correct outputs under the sampler of a recording, which keeps its weights, or None where it has none."""
    if scheduler.get("weights", ()) is None:
        raise ExecutionError(
            f"{scheduler['class']} adds noise or clips what it is handed, so a skipped output cannot be corrected; "
            f"{FORECAST_INSTEAD}."
        )


def refuse_config(probe: Probe, config: Mapping[str, object]) -> None:
    """Refuse a variant of the family whose tokens do not run through the blocks as the probe says."""
    assert probe.execution is not None
    for key in probe.execution.refuse_config:
        if config.get(key):
            raise ExecutionError(f"{probe.title} with {key} = {config[key]!r} in its config cannot be accelerated; {RUN_PLAIN}.")
