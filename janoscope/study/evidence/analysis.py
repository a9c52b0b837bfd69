"""Analysis reports: every call recorded and analysed; the aggregate is kept, and the first analyses whole."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..aggregate import write_aggregate
from ..analyze import analyze_to_directory
from ..call import PipelineCall
from ..generate import save_frames
from ..prompts import Prompt
from ..record import record_model
from ..sets import sha256_of
from .task import Made, Task

KEPT = 1


def make(task: Task) -> Made:
    """aggregate.json and aggregate.npz over all calls, and the first `keep` (of the recipe; 1) analyses with their pictures."""
    keep = int(task.recipe.settings.get("keep", KEPT))
    policy, points = task.policy(), tuple(task.subject.settings.get("points", ()))
    directories: list[Path] = []

    def analyse(recording: Path, picture: Any) -> None:
        directory = task.folder / recording.stem
        analyze_to_directory(recording, directory, policy=policy, points=points)
        if picture is not None:
            save_frames(picture, directory / f"{recording.stem}.png")  # what the report's figures look for
        directories.append(directory)

    recordings = record_each(task, analyse)
    write_aggregate(directories, task.folder)
    for directory in directories[keep:]:
        shutil.rmtree(directory)
    return {"policy": policy.name, "kept": [directory.name for directory in directories[:keep]], "recordings": recordings}


def record_each(task: Task, use: Callable[[Path, Any], None]) -> list[dict[str, Any]]:
    """Record the task's calls one after another and let `use` have each; gives what is noted of recordings that are not kept."""
    noted = []
    for index, call in enumerate(task.calls):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{_stem(index, call)}.h5"
            recorded = record_model(task.model, call, path, keep_output=False)
            use(recorded.path, recorded.generated.frames)
            told = {"prompt": call.prompt, "seed": call.seed, "steps": recorded.steps}
            noted.append(told | {"bytes": path.stat().st_size, "sha256": sha256_of(path)})
        task.on_step(index + 1, len(task.calls))
    return noted


def _stem(index: int, call: PipelineCall) -> str:
    return Prompt(index, call.prompt).stem
