"""Render: report.md and figures of a folder of reports/ from the results that lie in it."""

from pathlib import Path

import matplotlib

from ..errors import InputError
from ..report.drawing.style import styled
from ..results.writing import write_text
from .kinds import KINDS, SubjectKind
from .page import QUICK, Figures, SubjectResults, how_made
from .provenance import FILE, read_provenance
from .recipe import Recipe, read_recipe


def render_report(directory: Path) -> list[Path]:
    """Write report.md and figures/ of a report's folder; gives their paths, report.md first.

    The same results give the same report.md byte for byte. Raises InputError where recipe or results are missing or broken.
    """
    recipe = read_recipe(directory)
    kind = KINDS.get(recipe.kind)
    if kind is None:
        raise InputError(f"{directory}: no kind {recipe.kind!r}; legal: {', '.join(KINDS)}.")
    figures = Figures(directory)
    results = subject_results(recipe)
    if isinstance(kind, SubjectKind) and not results:
        raise InputError(f"{directory} holds no results; make them with `janoscope report {directory} --remake`.")
    with styled():
        matplotlib.rcParams["savefig.facecolor"] = "white"  # a page may be dark, the ink is not
        if isinstance(kind, SubjectKind):
            sentences, blocks = _subjects(kind, recipe, results, figures)
        else:
            section = kind.draw(recipe, figures)
            quick = [QUICK] if read_provenance(directory).get("quick") else []
            sentences, blocks = [section.result], [*quick, *section.blocks]
    head = [f"# {recipe.title}", recipe.claim, *(f"**Found.** {sentence}" for sentence in sentences if sentence)]
    about = [recipe.about] if recipe.about else []
    source = [f"Source of the claim: {recipe.source}."] if recipe.source else []
    text = "\n\n".join([*head, *about, *blocks, *how_made(recipe, results), *source]) + "\n"
    path = directory / "report.md"
    write_text(path, text)
    return [path, *figures.written]


def subject_results(recipe: Recipe) -> list[SubjectResults]:
    """Folders with a made.json, and those of subjects that a command has filled; in the recipe's order, then by name."""
    order = [subject.name for subject in recipe.subjects]
    remade = {path.parent for path in recipe.directory.glob(f"*/{FILE}") if not path.parent.name.startswith(".")}
    folders = list(remade | {path for name in order if (path := recipe.directory / name).is_dir()})
    folders.sort(key=lambda folder: (order.index(folder.name) if folder.name in order else len(order), folder.name))
    by_name = {subject.name: subject for subject in recipe.subjects}
    provenances = [(folder, read_provenance(folder)) for folder in folders]
    return [SubjectResults(folder, facts, by_name.get(facts.get("subject", folder.name))) for folder, facts in provenances]


def _subjects(kind: SubjectKind, recipe: Recipe, results: list[SubjectResults], figures: Figures) -> tuple[list[str], list[str]]:
    """(a sentence a subject that has one, all blocks)."""
    sentences, blocks = [], list[str]()
    for one in results:
        section = kind.draw(recipe, one, figures)
        about = one.subject.about if one.subject else ""
        blocks += [f"## {one.name}", *([about] if about else []), *section.blocks]
        if section.result:
            sentences.append(f"On {one.name}: {section.result}")
    return sentences, blocks
