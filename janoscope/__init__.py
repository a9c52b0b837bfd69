"""janoscope: the oscilloscope of diffusion transformers.

Every public name is loaded when it is first used, so that `import janoscope` costs no torch. For editors and type checkers the
same names are imported below under TYPE_CHECKING; tests/test_public_names.py holds the two equal.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .capture import Tap as Tap
    from .capture.protocols import Pipeline as Pipeline
    from .capture.protocols import Scheduler as Scheduler
    from .conversion import to_flow_velocity as to_flow_velocity
    from .errors import JanoscopeError as JanoscopeError
    from .execution import Executor as Executor
    from .execution import RunSummary as RunSummary
    from .execution import StepExecutor as StepExecutor
    from .execution.step_skipper import StepSkipper as StepSkipper
    from .grid import TokenGrid as TokenGrid
    from .parallel.pair import Pair as Pair
    from .pipeline.call import CallOptions as CallOptions
    from .pipeline.call import PipelineCall as PipelineCall
    from .pipeline.handle import Handle as Handle
    from .pipeline.model import Model as Model
    from .pipeline.model import load_model as load_model
    from .pipeline.model_options import ModelOptions as ModelOptions
    from .plan import Cache as Cache
    from .plan import Plan as Plan
    from .plan import Policy as Policy
    from .plan import StepKind as StepKind
    from .plan import StepSchedule as StepSchedule
    from .plan import TokenLevel as TokenLevel
    from .plan import make_plan as make_plan
    from .probe import Probe as Probe
    from .recording import Recorder as Recorder
    from .recording import RecorderOptions as RecorderOptions
    from .recording import Recording as Recording
    from .recording import TapAxes as TapAxes
    from .recording import open_recording as open_recording
    from .report import render_analysis as render_analysis
    from .results.analysis import AnalysisResult as AnalysisResult
    from .results.comparison import Comparison as Comparison
    from .workflows.analyze.aggregate import aggregate as aggregate
    from .workflows.analyze.recording import Analysis as Analysis
    from .workflows.analyze.recording import AnalysisOptions as AnalysisOptions
    from .workflows.analyze.recording import analyze as analyze
    from .workflows.apply.session import ApplyHandle as ApplyHandle
    from .workflows.apply.session import apply as apply
    from .workflows.calibrate.result import Calibration as Calibration
    from .workflows.calibrate.stages import calibrate as calibrate
    from .workflows.calibrate.target import Effort as Effort
    from .workflows.calibrate.target import Target as Target
    from .workflows.compare.contest import compare as compare
    from .workflows.record.session import RecordHandle as RecordHandle
    from .workflows.record.session import record as record

    Account = RunSummary
    open = open_recording

# public name -> the module below janoscope that has it
_PUBLIC = {
    "Analysis": "workflows.analyze.recording",
    "AnalysisOptions": "workflows.analyze.recording",
    "AnalysisResult": "results.analysis",
    "ApplyHandle": "workflows.apply.session",
    "Cache": "plan",
    "Calibration": "workflows.calibrate.result",
    "CallOptions": "pipeline.call",
    "Comparison": "results.comparison",
    "Effort": "workflows.calibrate.target",
    "Executor": "execution",
    "Handle": "pipeline.handle",
    "JanoscopeError": "errors",
    "Model": "pipeline.model",
    "ModelOptions": "pipeline.model_options",
    "Pair": "parallel.pair",
    "Pipeline": "capture.protocols",
    "PipelineCall": "pipeline.call",
    "Plan": "plan",
    "Policy": "plan",
    "Probe": "probe",
    "RecordHandle": "workflows.record.session",
    "Recorder": "recording",
    "RecorderOptions": "recording",
    "Recording": "recording",
    "RunSummary": "execution",
    "Scheduler": "capture.protocols",
    "StepExecutor": "execution",
    "StepKind": "plan",
    "StepSchedule": "plan",
    "StepSkipper": "execution.step_skipper",
    "Tap": "capture",
    "TapAxes": "recording",
    "Target": "workflows.calibrate.target",
    "TokenGrid": "grid",
    "TokenLevel": "plan",
    "aggregate": "workflows.analyze.aggregate",
    "analyze": "workflows.analyze.recording",
    "apply": "workflows.apply.session",
    "calibrate": "workflows.calibrate.stages",
    "compare": "workflows.compare.contest",
    "load_model": "pipeline.model",
    "make_plan": "plan",
    "open": "recording",
    "open_recording": "recording",
    "record": "workflows.record.session",
    "render_analysis": "report",
    "to_flow_velocity": "conversion",
}
# names that another object bears in its module; Account is RunSummary's name of 0.1.0
_NAMED_THERE = {"Account": "RunSummary", "open": "open_recording"}
_OLD_NAMES = {"Account": "execution"}
# The bundled models' model_index.json names their VAEs as classes of `janoscope`; diffusers resolves such names on a package that
# is imported already, and asks the same package for the base class by which it knows how to load them.
_DIFFUSERS_COMPONENTS = {"PixelShuffleVAE": "demo.vae", "ClipShuffleVAE": "demo.vae", "ModelMixin": "demo.vae"}

__all__ = [*_PUBLIC]


if not TYPE_CHECKING:  # where types are checked, a name that does not exist is an error

    def __getattr__(name: str) -> object:
        module = (_PUBLIC | _OLD_NAMES | _DIFFUSERS_COMPONENTS).get(name)
        if module is None:
            raise AttributeError(f"module 'janoscope' has no attribute {name!r}")
        return getattr(import_module(f".{module}", __name__), _NAMED_THERE.get(name, name))


def __dir__() -> list[str]:
    """The public names, and nothing that they need."""
    return sorted([*_PUBLIC, "__version__"])
