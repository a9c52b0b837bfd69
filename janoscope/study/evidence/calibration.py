"""Calibration reports: a policy found on the subject's prompts, as `janoscope calibrate` finds it."""

import shutil
import tempfile
from pathlib import Path

from ...errors import InputError
from ..calibrate import TRIALS, Effort, calibrate
from ..calibrate_choice import Target
from ..call import CallOptions
from .task import Made, Task


def make(task: Task) -> Made:
    """calibration.json and the policies; the recordings and runs behind them are not kept.

    The recipe's `target` is a table of one entry, as { compute = 0.5 }; `max_runs` and `trials` bound the effort.
    """
    target, settings = task.recipe.settings.get("target", {}), task.subject.settings
    if len(target) != 1:
        raise InputError(
            f"{task.recipe.slug}: target is {target!r}; one of compute, speedup, psnr is needed, as {{ compute = 0.5 }}."
        )
    kind, value = next(iter(target.items()))
    most, trials = settings.get("max_runs"), int(settings.get("trials", TRIALS))
    effort = Effort(None if most is None else int(most), trials, task.subject.seeds[0])
    call = CallOptions(prompt=task.subject.prompts[0], seed=task.subject.seeds[0], **task.subject.call)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "calibration"
        calibrate(
            task.load["name"],
            folder,
            Target(kind, float(value)),
            prompts=task.subject.prompts,
            load=task.load,
            call=call,
            effort=effort,
        )
        for file in (folder / "calibration.json", *sorted(folder.glob("policy*.toml"))):
            shutil.copyfile(file, task.folder / file.name)
    return {}
