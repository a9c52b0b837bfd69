"""Performance: the texts that the benches left, on one page."""

from ...errors import InputError
from ...study.recipe import Recipe
from .page import Figures, Section


def draw(recipe: Recipe, figures: Figures) -> Section:
    """NAME.md of every bench in the recipe's `benches`, headings one level deeper; one that was not run is told."""
    blocks, absent = [], []
    for name in recipe.settings.get("benches", []):
        path = recipe.directory / f"{name}.md"
        if not path.is_file():
            absent.append(str(name))
            continue
        text = path.read_text(encoding="utf-8").strip()
        blocks.append("#" + text if text.startswith("# ") else f"## {name}\n\n{text}")
    if not blocks:
        raise InputError(f"{recipe.directory} holds no bench; make them with --remake.")
    return Section("", [*blocks, *([f"Not run yet: {', '.join(absent)}."] if absent else [])])
