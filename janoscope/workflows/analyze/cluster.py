"""Analyze over a Ray cluster: one task a recording; all nodes see the recordings and the directories."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...parallel.tasks import Outcome, fan_out
from .recording import Analysis, analyze_to_directory

Task = tuple[Path, Path]  # recording, directory of its analysis


def analyze_over_ray(tasks: Sequence[Task], address: str, **options: Any) -> Iterator[Outcome[Task, Analysis]]:
    """`analyze_to_directory` of every task, as they finish. options: those of `analyze`.

    The analyses come back without `arrays`, which lie in analysis.npz. A recording that cannot be analysed and a lost worker cost
    their own task. Raises InputError where the cluster cannot be reached.
    """
    yield from fan_out(tasks, partial(_analyzing_worker, options), ray=address)


def _analyzing_worker(options: dict[str, Any]) -> Callable[[Task], Analysis]:
    def work(task: Task) -> Analysis:
        return replace(analyze_to_directory(*task, **options), arrays={})

    return work
