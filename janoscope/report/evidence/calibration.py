"""A calibration: what was found, what to expect of it, the front and the ground around it, and the policy itself."""

from ...study.recipe import Recipe
from ..calibration import calibration_figures, caption, key_figures, read_calibration
from .page import Figures, Section, Shown, table


def draw(recipe: Recipe, shown: Shown, figures: Figures) -> Section:
    """Key figures, the calibration's own drawings, and policy.toml as it lies in the folder."""
    facts = read_calibration(shown.folder)
    key = key_figures(facts)
    blocks = [f"{caption(facts)}.", table(("", "", ""), key)] if key else [f"{caption(facts)}. No policy was found."]
    blocks += [figures.svg(drawing, f"{shown.name}-{drawing.name}") for drawing in calibration_figures(facts)]
    policy = shown.folder / "policy.toml"
    if policy.is_file():
        blocks.append(f"```toml\n{policy.read_text(encoding='utf-8').strip()}\n```")
    return Section("; ".join(f"{words} {value} ({unit})" for words, value, unit in key) + "." * bool(key), blocks)
