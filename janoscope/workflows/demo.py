"""The whole flow on the bundled image model, as `janoscope demo` runs it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ..pipeline.call import CallOptions, make_call
from ..pipeline.model import load_model
from ..results.writing import refuse_existing
from .analyze.recording import Analysis, analyze_to_directory
from .apply.session import Applied, apply_model, save_applied
from .record.session import Recorded, record_model

PROMPT = "a large red apple on grass, blue sky"
SEED = 3
OnStep = Callable[[int, int], None]
Progress = Callable[[str], AbstractContextManager[OnStep | None]]


@dataclass(frozen=True)
class Demonstration:
    """What the demo left behind; all files lie in `directory`."""

    directory: Path
    recorded: Recorded
    analysis: Analysis
    applied: Applied


def demonstrate(directory: Path, progress: Progress, *, model: str = "demo", force: bool = False) -> Demonstration:
    """Record, analyse and apply with the model's default call and policy.

    Writes run.h5, run.png, analysis.json, analysis.npz, plan.json and the accelerated picture into `directory`.
    progress: gives a context with a step callback for each stage's name.
    """
    refuse_existing(directory / "run.h5", force)
    directory.mkdir(parents=True, exist_ok=True)
    loaded = load_model(model)
    call = make_call(loaded, CallOptions(PROMPT, seed=SEED))
    with progress("record") as on_step:
        recorded = record_model(loaded, call, directory / "run.h5", force=force, on_step=on_step)
    with progress("analyze") as on_step:
        analysis = analyze_to_directory(recorded.path, directory, on_step=on_step)
    with progress("apply") as on_step:
        applied = apply_model(loaded, call, plan=analysis.plan, reference=True, on_step=on_step)
    save_applied(applied, directory / "apply.png")
    return Demonstration(directory, recorded, analysis, applied)
