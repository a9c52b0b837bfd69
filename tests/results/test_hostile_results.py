"""Mutants of what commands leave: read, resumed from, aggregated and drawn, or refused in one line."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hostile
import numpy as np
import pytest
from PIL import Image
from report_results import make_results

from janoscope.errors import InputError
from janoscope.report import render_aggregate, render_analysis
from janoscope.report.aggregate import aggregate_tables, read_aggregate
from janoscope.report.analysis.tables import analysis_tables
from janoscope.report.analysis.view import read_view
from janoscope.report.calibration import key_figures, read_calibration, render_calibration
from janoscope.report.comparison.document import equal_compute_table, method_table, paired_table
from janoscope.report.comparison.figures import caption, fronts_of, read_comparison, render_comparison
from janoscope.results.comparison import Comparison, ComparisonFiles, Row, Run, load_comparison
from janoscope.workflows.analyze.aggregate import aggregate, describe_aggregate

REPORTS = Path(__file__).parents[2] / "reports"
FEW, MANY, PAGES = 200, 3000, 20


def comparison() -> Comparison:
    def run(prompt: str, psnr: float | None) -> Run:
        return Run(prompt, 0, 1.0, 1.0, 0.5, 1.5, psnr, 0.9, None, None, 2**20, None, psnr is None)

    rows = [("full", {}, (None, None)), ("uniform:k=2", {"k": "2"}, (30.0, 31.0)), ("uniform:k=3", {"k": "3"}, (25.0, 26.0))]
    made = tuple(
        Row(label, label.partition(":")[0], options, [run("a cat", psnr[0]), run("a dog", psnr[1])])
        for label, options, psnr in rows
    )
    images = {row.label: np.full((1, 16, 16, 3), 40 * at, np.uint8) for at, row in enumerate(made)}
    return Comparison("demo", "cpu", "float32", 12, made, {"lpips": "not asked for"}, images, call={"height": 64})


def use_analysis(path: Path) -> None:
    results = read_view(path.parent)
    analysis_tables(results)
    results.caption()


def use_comparison(path: Path) -> None:
    facts = read_comparison(path.parent)
    fronts_of(facts)
    caption(facts)
    for table in (method_table, paired_table, equal_compute_table):
        table(facts)
    known = load_comparison(path.parent)
    str(known)
    json.dumps(known.to_json())


def use_calibration(path: Path) -> None:
    key_figures(read_calibration(path.parent))


def use_aggregate(path: Path) -> None:
    aggregate_tables(read_aggregate(path.parent)[0])


def of_analysis(path: Path) -> None:
    facts, _ = aggregate([path.parent])
    describe_aggregate(json.loads(json.dumps(facts)))


@dataclass(frozen=True)
class Kind:
    """make: the directory with good files. file: which of them is changed. use: without a drawing. draw: its page."""

    make: Callable[[Path], Path]
    file: str
    mutants: Callable[..., Iterator[bytes]]
    use: Callable[[Path], None]
    draw: Callable[[Path], object]


def make_analysis(folder: Path) -> Path:
    return make_results(folder).directory


def make_aggregable(folder: Path) -> Path:
    source = next(REPORTS.glob("fig1-latte/demo-latte/*/analysis.json"))
    shutil.copytree(source.parent, folder / "run")
    return folder / "run"


def make_comparison(folder: Path) -> Path:
    ComparisonFiles(folder).save(comparison())
    return folder


def make_calibration(folder: Path) -> Path:
    shutil.copy(REPORTS / "calibrate-demo" / "steps-50" / "calibration.json", folder)
    return folder


def make_aggregate(folder: Path) -> Path:
    for file in (REPORTS / "fig1-latte" / "demo-latte").glob("aggregate.*"):
        shutil.copy(file, folder)
    return folder


KINDS = {
    "analysis.json": Kind(make_analysis, "analysis.json", hostile.of_json, use_analysis, render_analysis),
    "analysis.npz": Kind(make_analysis, "analysis.npz", hostile.of_arrays, use_analysis, render_analysis),
    "plan.json": Kind(make_analysis, "plan.json", hostile.of_json, use_analysis, render_analysis),
    "analysis.json, aggregated": Kind(make_aggregable, "analysis.json", hostile.of_json, of_analysis, lambda directory: None),
    "analysis.npz, aggregated": Kind(make_aggregable, "analysis.npz", hostile.of_arrays, of_analysis, lambda directory: None),
    "comparison.json": Kind(make_comparison, "comparison.json", hostile.of_json, use_comparison, render_comparison),
    "comparison's image": Kind(make_comparison, "pictures/01-uniform_k=2.png", hostile.of_bytes, None, render_comparison),
    "calibration.json": Kind(make_calibration, "calibration.json", hostile.of_json, use_calibration, render_calibration),
    "aggregate.json": Kind(make_aggregate, "aggregate.json", hostile.of_json, use_aggregate, render_aggregate),
}


def tried(name: str, folder: Path, count: int, draw: bool = False) -> tuple[int, int]:
    kind = KINDS[name]
    directory = kind.make(folder)
    path = directory / kind.file
    use = kind.use or (lambda path: load_comparison(directory))
    mutants = kind.mutants(path.read_bytes(), count, seed=1 if draw else 0)
    return hostile.read_all(mutants, path, (lambda path: kind.draw(directory)) if draw else use)


@pytest.mark.parametrize("name", KINDS)
def test_a_mutant_is_read_or_refused_in_one_line(tmp_path, name):
    taken, refused = tried(name, tmp_path, FEW)
    assert taken + refused == FEW
    assert taken > 5, "everything was refused: the good file is not read either"
    assert refused > 5 or name == "comparison's image"


@pytest.mark.parametrize("name", [name for name in KINDS if "aggregated" not in name])
def test_a_mutant_is_drawn_or_refused_in_one_line(tmp_path, name):
    assert sum(tried(name, tmp_path, PAGES, draw=True)) == PAGES


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_thousands_of_mutants_are_read_or_refused_in_one_line(tmp_path, name):
    assert sum(tried(name, tmp_path, MANY)) == MANY


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_hundreds_of_mutants_are_drawn_or_refused_in_one_line(tmp_path, name):
    assert sum(tried(name, tmp_path, 300, draw=True)) == 300


def test_an_image_that_claims_too_many_pixels_is_left_out_and_made_again(tmp_path):
    directory = make_comparison(tmp_path)
    Image.new("L", (30_000, 30_000)).save(directory / "pictures" / "01-uniform_k=2.png")
    with pytest.warns(RuntimeWarning, match=r"uniform_k=2\.png cannot be read as an image: .* It is made again"):
        known = load_comparison(directory)
    assert list(known.pictures) == ["full", "uniform:k=3"]
    assert [len(row.runs) for row in known.rows] == [2, 2, 2], "no run is lost"


def test_what_was_saved_is_loaded_again(tmp_path):
    made = comparison()
    known = load_comparison(make_comparison(tmp_path))
    assert known.to_json() == made.to_json()
    assert all(np.array_equal(known.pictures[label], made.pictures[label]) for label in made.pictures)


def test_an_image_is_written_once_and_only_while_it_is_the_same_comparison(tmp_path):
    files, image = ComparisonFiles(tmp_path), tmp_path / "pictures" / "00-full.png"
    files.save(comparison())
    before = image.stat().st_mtime_ns, image.stat().st_ino
    files.save(comparison())
    ComparisonFiles(tmp_path, load_comparison(tmp_path)).save(comparison())
    assert (image.stat().st_mtime_ns, image.stat().st_ino) == before
    ComparisonFiles(tmp_path).save(comparison())
    assert (image.stat().st_mtime_ns, image.stat().st_ino) != before


def test_a_new_comparison_removes_what_the_earlier_one_listed_and_nothing_else(tmp_path):
    make_comparison(tmp_path)
    for name in ("notes.txt", "policy-mine.toml", "pictures/holiday.png", "figures/mine.svg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "report.html").write_text("of the earlier comparison")
    other = comparison()
    del other.pictures["uniform:k=3"]
    ComparisonFiles(tmp_path).save(other)
    there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    mine = {"notes.txt", "policy-mine.toml", "pictures/holiday.png", "figures/mine.svg"}
    assert there == mine | {"comparison.json", "comparison.txt", "pictures/00-full.png", "pictures/01-uniform_k=2.png"}


def test_a_large_comparison_is_saved_by_one_walk_over_its_runs(tmp_path, monkeypatch):
    """Each estimate is made once for the runs there are, whatever asks for it: JSON, table, and a save without new runs."""
    calls = []
    from janoscope.results import comparison as module

    real = module.estimate
    monkeypatch.setattr(module, "estimate", lambda values, **weighed: calls.append(1) or real(values, **weighed))
    made, files = comparison(), ComparisonFiles(tmp_path)
    files.save(made)
    measures = len(calls)
    files.save(made)
    assert len(calls) == measures
    assert measures == sum(bool(row.values(m)) for row in made.rows for m in module.MEASURES)


def change_id(path: Path, value: str | None) -> None:
    data = json.loads(path.read_text())
    data.pop("id", None)
    path.write_text(json.dumps(data if value is None else data | {"id": value}))


@pytest.mark.parametrize("other", ["plan.json", "analysis.json"])
@pytest.mark.parametrize("value", [None, "another"])
def test_files_of_two_analyses_are_refused(tmp_path, other, value):
    directory = make_analysis(tmp_path)
    read_view(directory)  # control: without an id, as version 0.1.0 wrote them
    arrays = dict(np.load(directory / "analysis.npz"))
    np.savez(directory / "analysis.npz", **arrays, id=np.array("one"))
    for name in ("plan.json", "analysis.json"):
        change_id(directory / name, "one")
    read_view(directory)  # control: all of one analysis
    change_id(directory / other, value)
    with pytest.raises(InputError, match="holds files of two analyses"):
        read_view(directory)
