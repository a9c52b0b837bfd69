"""Calibration reports: a policy found on the subject's prompts, as `calibrate` finds it, and its promise put to the test."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..calibrate import Effort, calibrate
from ..calibrate_choice import Target
from ..call import CallOptions
from ..compare import calls_of, compare
from ..comparison import Comparison, save_comparison
from ..prompts import read_prompts
from .task import Made, Task

EFFORT = ("max_runs", "candidates", "trials")
POLICY = "policy.toml"


def make(task: Task) -> Made:
    """calibration.json and the policies; the recordings and runs behind them are not kept.

    The recipe's `target` is a table of one entry, as { compute = 0.5 }; `max_runs`, `candidates` and `trials` bound the effort.
    With `new_prompts`, a file of prompts, and `new_seeds` the policy and the subject's methods run on these as well, once the
    policy stands: comparison.json.
    """
    target = task.recipe.settings.get("target", {})
    if len(target) != 1:
        raise InputError(
            f"{task.recipe.slug}: target is {target!r}; one of compute, speedup, psnr is needed, as {{ compute = 0.5 }}."
        )
    settings = {**task.recipe.settings, **task.subject.settings}
    kind, value = next(iter(target.items()))
    bounds: dict[str, Any] = {name: int(settings[name]) for name in EFFORT if name in settings}
    effort = Effort(seed=task.subject.seeds[0], **bounds)
    options = CallOptions(prompt=task.subject.prompts[0], seed=task.subject.seeds[0], **task.subject.call)
    told: dict[str, Any] = {"load": task.load, "call": options, "effort": effort}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "calibration"
        calibrate(task.load["name"], folder, Target(kind, float(value)), prompts=task.subject.prompts, **told)
        for file in (folder / "calibration.json", *sorted(folder.glob("policy*.toml"))):
            shutil.copyfile(file, task.folder / file.name)
    new = settings.get("new_prompts")
    if new is None or not (task.folder / POLICY).is_file():
        return {}
    prompts = [prompt.text for prompt in read_prompts(task.recipe.directory / new)]
    return _test(task, options, prompts, settings.get("new_seeds", [0]))


def _test(task: Task, options: CallOptions, prompts: list[str], seeds: list[int]) -> Made:
    """The policy and the other methods on prompts that the calibration has not seen."""
    own = f"policy:file={task.folder / POLICY}"
    calls = calls_of(task.model, options, prompts, seeds)
    methods = [own, *(method.spec for method in task.subject.methods)]
    found = compare(task.model, calls, methods, on_run=lambda done, total, label: task.on_step(done, total))
    save_comparison(_named(found, own, f"policy:file={POLICY}"), task.folder)
    return {"dtype": found.dtype, "new_prompts": prompts, "new_seeds": seeds}


def _named(found: Comparison, label: str, name: str) -> Comparison:
    """A row that was named after a folder of the moment gets the name that it has in the report's."""
    renamed = replace(found.row(label), label=name, options={**found.row(label).options, "file": POLICY})
    rows = [renamed if row.label == label else row for row in found.rows]
    pictures = {name if known == label else known: frames for known, frames in found.pictures.items()}
    return replace(found, rows=tuple(rows), pictures=pictures)
