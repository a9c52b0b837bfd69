"""Reads a live pipeline and a policy or plan; gives the accelerated pipeline and an account of what was computed.

Right of `plan`, whose selector it asks; knows neither HDF5 nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .executor import Executor
    from .step_executor import StepExecutor, executor_for
    from .step_skipper import StepSkipper
    from .summary import RunSummary, StepSummary

# loaded when asked for: what needs no torch, as an analysis, does not wait for it
_HOMES = {
    "Executor": "executor",
    "RunSummary": "summary",
    "StepSummary": "summary",
    "StepExecutor": "step_executor",
    "StepSkipper": "step_skipper",
    "executor_for": "step_executor",
}

__all__ = ["Executor", "RunSummary", "StepExecutor", "StepSkipper", "StepSummary", "executor_for"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
