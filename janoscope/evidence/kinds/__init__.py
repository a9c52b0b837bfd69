"""Kinds of report: one module each, `make` runs it and `draw` shows it; the table by the recipe's word."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..page import Figures, Section, SubjectResults
from ..provenance import Extra
from ..recipe import Recipe
from ..task import OnStep, Task
from . import analysis, calibration, comparison, gallery, maps, memory, performance


@dataclass(frozen=True)
class SubjectKind:
    """A report that runs models: subject by subject, each in a folder of its own."""

    make: Callable[[Task], Extra]
    draw: Callable[[Recipe, SubjectResults, Figures], Section]


@dataclass(frozen=True)
class WholeKind:
    """A report without subjects. files: what `make` will write into the folder."""

    files: Callable[[Recipe], list[str]]
    make: Callable[[Recipe, Path, bool, OnStep], None]
    draw: Callable[[Recipe, Figures], Section]


KINDS: Mapping[str, SubjectKind | WholeKind] = {
    "comparison": SubjectKind(comparison.make, comparison.draw),
    "analysis": SubjectKind(analysis.make, analysis.draw),
    "maps": SubjectKind(maps.make, maps.draw),
    "gallery": SubjectKind(gallery.make, gallery.draw),
    "calibration": SubjectKind(calibration.make, calibration.draw),
    "performance": WholeKind(performance.files, performance.make, performance.draw),
    "memory": WholeKind(memory.files, memory.make, memory.draw),
}
