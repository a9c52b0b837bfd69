"""docs/concepts.md is the one list of quantities, docs/analysis.md the one of options: nothing is missing, nothing made up."""

import re
from pathlib import Path

import pytest
from recorded_runs import record_run

from janoscope.cli.analyze import analyze as command
from janoscope.workflows.analyze.recording import Analysis, analyze
from janoscope.workflows.analyze.summary import QUANTILES

DOCS = Path(__file__).parents[3] / "docs"
CONCEPTS, PAGE = ((DOCS / name).read_text(encoding="utf-8") for name in ("concepts.md", "analysis.md"))
SHARED = {"--force", "--quiet", "--output", "--probe"}  # the same everywhere, described with the command line


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyze(record_run(tmp_path_factory.mktemp("run") / "run.h5").path)


def test_every_array_is_listed_with_its_axes(analysis: Analysis) -> None:
    listed = set(re.findall(r"`([a-z0-9_]+)`", CONCEPTS))
    assert set(analysis.arrays) - listed == set()
    sizes = {
        "step": 23,
        "step - 1": 22,
        "token": 143,
        "ras step": 7,
        "steps reused - 1": 7,
        "point": 4,
        "group": 4,
        "quantile": 5,
    }
    for name, axes in re.findall(r"^\| `([a-z0-9_]+)` \| \(([^)]*)\) \|", CONCEPTS, re.M):
        expected = tuple(
            size for axis in axes.split(", ") for size in (analysis.complexity.grid if axis == "tile map" else (sizes[axis],))
        )
        assert analysis.arrays[name].shape == expected, name
    for name in re.findall(r"^\| `([a-z0-9_]+)` \| tile map \|", CONCEPTS, re.M):
        assert analysis.arrays[name].shape == analysis.complexity.grid, name


def test_every_option_is_listed_and_exists() -> None:
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    listed = set(re.findall(r"`?(--[a-z][a-z-]+)", PAGE.split("## Options")[1].split("## Several")[0]))
    assert options - SHARED == listed - SHARED


def test_every_estimate_and_default_is_stated(analysis: Analysis) -> None:
    for section in ("map_predicts", "ras_predicts", "separation"):
        assert f"`{section}`" in CONCEPTS
        assert section in analysis.results
    assert ", ".join(map(str, QUANTILES)) in CONCEPTS
    assert analysis.results["convergence"]["tolerance"] == 0.1
    assert analysis.results["convergence"]["hold_steps"] == 7
