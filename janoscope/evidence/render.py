"""Render: report.md and figures of a folder of reports/ from the results that lie in it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

from ..errors import InputError
from ..report.drawing.style import styled
from ..results.writing import write_text
from .kinds import analysis, calibration, comparison, gallery, maps, memory, performance
from .page import QUICK, Figures, Section, Shown, how_made
from .recipe import MADE, Recipe, read_recipe

Draw = Callable[[Recipe, Shown, Figures], Section]
# kind of report -> what draws one subject; of kinds without subjects -> what draws the whole folder
KINDS: Mapping[str, Draw] = {
    "comparison": comparison.draw,
    "analysis": analysis.draw,
    "maps": maps.draw,
    "gallery": gallery.draw,
    "calibration": calibration.draw,
}
WHOLE_KINDS: Mapping[str, Callable[[Recipe, Figures], Section]] = {"performance": performance.draw, "memory": memory.draw}


def render_report(directory: Path) -> list[Path]:
    """Write report.md and figures/ of a report's folder; gives their paths, report.md first.

    The same results give the same report.md byte for byte. Raises InputError where recipe or results are missing or broken.
    """
    recipe = read_recipe(directory)
    if recipe.kind not in (*KINDS, *WHOLE_KINDS):
        raise InputError(f"{directory}: no kind {recipe.kind!r}; legal: {', '.join((*KINDS, *WHOLE_KINDS))}.")
    figures = Figures(directory)
    shown = shown_subjects(recipe)
    if recipe.kind in KINDS and not shown:
        raise InputError(f"{directory} holds no results; make them with `janoscope report {directory} --remake`.")
    with styled():
        matplotlib.rcParams["savefig.facecolor"] = "white"  # a page may be dark, the ink is not
        if recipe.kind in WHOLE_KINDS:
            section = WHOLE_KINDS[recipe.kind](recipe, figures)
            quick = [QUICK] if read_made(directory).get("quick") else []
            found, blocks = [section.found], [*quick, *section.blocks]
        else:
            found, blocks = _subjects(recipe, shown, figures)
    head = [f"# {recipe.title}", recipe.claim, *(f"**Found.** {sentence}" for sentence in found if sentence)]
    about = [recipe.about] if recipe.about else []
    source = [f"Source of the claim: {recipe.source}."] if recipe.source else []
    text = "\n\n".join([*head, *about, *blocks, *how_made(recipe, shown), *source]) + "\n"
    path = directory / "report.md"
    write_text(path, text)
    return [path, *figures.written]


def shown_subjects(recipe: Recipe) -> list[Shown]:
    """Folders with a made.json, and those of subjects that a verb has filled; in the recipe's order, then by name."""
    order = [subject.name for subject in recipe.subjects]
    found = {path.parent for path in recipe.directory.glob(f"*/{MADE}") if not path.parent.name.startswith(".")}
    folders = list(found | {path for name in order if (path := recipe.directory / name).is_dir()})
    folders.sort(key=lambda folder: (order.index(folder.name) if folder.name in order else len(order), folder.name))
    by_name = {subject.name: subject for subject in recipe.subjects}
    made = [read_made(folder) for folder in folders]
    return [Shown(at, facts, by_name.get(facts.get("subject", at.name))) for at, facts in zip(folders, made, strict=True)]


def read_made(folder: Path) -> dict[str, Any]:
    """How a subject's results came to be; empty where a verb made them, whose own file says it."""
    path = folder / MADE
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. Make the results again with --remake.") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}, not an object. Make the results again with --remake.")
    return found


def _subjects(recipe: Recipe, shown: list[Shown], figures: Figures) -> tuple[list[str], list[str]]:
    found, blocks = [], list[str]()
    for one in shown:
        section = KINDS[recipe.kind](recipe, one, figures)
        words = one.described.about if one.described else ""
        blocks += [f"## {one.name}", *([words] if words else []), *section.blocks]
        if section.found:
            found.append(f"On {one.name}: {section.found}")
    return found, blocks
