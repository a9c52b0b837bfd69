"""The report on memory: made from nothing, drawn from its results, and the committed page is what they give."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from janoscope.errors import InputError
from janoscope.evidence.kinds import memory as made
from janoscope.evidence.page import Figures
from janoscope.evidence.recipe import read_recipe

REPORT = Path(__file__).parents[3] / "reports" / "table2-memory"


def test_remade_results_are_the_committed_ones(tmp_path):
    """Predictions come from configs, so they are the same everywhere; the bundled models are measured elsewhere."""
    recipe = read_recipe(REPORT)
    wan = [line for line in recipe.settings["published"] if "1.3B" in line["model"]]
    made.make(replace(recipe, settings={**recipe.settings, "published": wan, "measured": []}), tmp_path, True, lambda *_: None)
    again = json.loads((tmp_path / made.RESULTS).read_text())
    committed = json.loads((REPORT / made.RESULTS).read_text())
    assert again["published"] == [row for row in committed["published"] if "1.3B" in row["model"]]
    assert made.files(recipe) == [made.RESULTS]


def test_a_bundled_model_holds_what_was_predicted():
    row = next(made.measured_rows("demo", 6))  # of fewer steps none is partial, and nothing is stored
    assert row["predicted_bytes"] == row["measured_bytes"] > 0
    assert row["predicted_weight_bytes"] == row["measured_weight_bytes"]


def test_the_page_shows_table_2_and_what_fits():
    section = made.draw(read_recipe(REPORT), Figures(REPORT))
    text = "\n".join(section.blocks)
    assert (
        "| Wan2.1-T2V-14B-Diffusers | 65.02 -> 269.02 | 45.75 -> 161.11 | 61.26 | 204.00 | 230.71 float32 | 0.88 | 115.36 |"
        in text
    )
    assert '**Wan2.1-T2V-14B-Diffusers on one device of 80 GiB**: `cache = { strategy = "offload"' in text
    assert "Nothing was measured on a GPU" in text
    page = (REPORT / "report.md").read_text()
    assert all(block in page for block in section.blocks)
    assert section.result in page


def test_results_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match="again with --remake"):
        made.draw(replace(read_recipe(REPORT), directory=tmp_path), Figures(tmp_path))
    with pytest.raises(InputError, match="no bundled model"):
        made._is_installed("black-forest-labs/FLUX.1-dev")
