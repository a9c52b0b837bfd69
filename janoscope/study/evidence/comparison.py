"""Comparison reports: the subject's methods on its prompts and seeds, as `janoscope compare` measures them."""

from ...errors import InputError
from ...metrics import Lpips, load_lpips
from ..compare import compare
from ..comparison import save_comparison
from .task import Made, Task


def make(task: Task) -> Made:
    """comparison.json, comparison.txt and the first call's pictures in the task's folder."""
    if not task.subject.methods:
        raise InputError(f"{task.recipe.slug}: subject {task.subject.name} lists no [[subject.method]].")
    methods = [method.spec for method in task.subject.methods]
    found = compare(task.model, task.calls, methods, lpips=_lpips(), on_run=lambda done, total, label: task.on_step(done, total))
    save_comparison(found, task.folder)
    return {"dtype": found.dtype}


def _lpips() -> Lpips | str:
    """The measure, which the published tables hold, or why it cannot be had here."""
    try:
        return load_lpips()
    except InputError as error:
        return str(error)
