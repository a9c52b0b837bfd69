"""janoscope: the oscilloscope of diffusion transformers.

Every public name is loaded when it is first used, so that `import janoscope` costs no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Analysis": "workflows.analyze.recording",
    "AnalysisOptions": "workflows.analyze.recording",
    "ApplyHandle": "workflows.apply.session",
    "Comparison": "results.comparison",
    "Executor": "execution",
    "JanoscopeError": "errors",
    "Pair": "parallel.pair",
    "Plan": "plan",
    "Policy": "plan",
    "Probe": "probe",
    "RecordHandle": "workflows.record.session",
    "Recorder": "recording",
    "Recording": "recording",
    "RunSummary": "execution",
    "StepSkipper": "execution.step_skipper",
    "TokenGrid": "grid",
    "analyze": "workflows.analyze.recording",
    "aggregate": "workflows.analyze.aggregate",
    "apply": "workflows.apply.session",
    "calibrate": "workflows.calibrate.stages",
    "compare": "workflows.compare.contest",
    "make_plan": "plan",
    "open_recording": "recording",
    "record": "workflows.record.session",
    "to_flow_velocity": "conversion",
}
# names of 0.1.0, kept so that old programs run
_OLD_NAMES = {"Account": "RunSummary"}
# The bundled models' model_index.json names their VAEs as classes of `janoscope`; diffusers resolves such names on a package that
# is imported already, and asks the same package for the base class by which it knows how to load them.
_DIFFUSERS_COMPONENTS = {"PixelShuffleVAE": "demo.vae", "ClipShuffleVAE": "demo.vae", "ModelMixin": "demo.vae"}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    name = _OLD_NAMES.get(name, name)
    module = _PUBLIC.get(name) or _DIFFUSERS_COMPONENTS.get(name)
    if module is None:
        raise AttributeError(f"module 'janoscope' has no attribute {name!r}")
    return getattr(import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
