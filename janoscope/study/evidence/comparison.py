"""Comparison reports: the subject's methods on its prompts and seeds, as `janoscope compare` measures them."""

from ...errors import InputError
from ..compare import compare
from ..comparison import save_comparison
from .task import Made, Task


def make(task: Task) -> Made:
    """comparison.json, comparison.txt and the first call's pictures in the task's folder."""
    if not task.subject.methods:
        raise InputError(f"{task.recipe.slug}: subject {task.subject.name} lists no [[subject.method]].")
    methods = [method.spec for method in task.subject.methods]
    found = compare(task.model, task.calls, methods, on_run=lambda done, total, label: task.on_step(done, total))
    save_comparison(found, task.folder)
    return {"dtype": found.dtype}
