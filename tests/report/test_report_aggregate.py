import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_results import make_results
from test_report_page import Page

from janoscope.errors import InputError
from janoscope.report import render_aggregate
from janoscope.report.aggregate import GROUPS, MeanCurves, draw_mean_curves
from janoscope.report.drawing.style import styled
from janoscope.workflows.analyze.aggregate import write_aggregate


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    directories = []
    for seed in (3, 4):
        (folder / str(seed)).mkdir()
        directories.append(make_results(folder / str(seed), seed=seed, prompt="<img src=x>").directory)
    write_aggregate(directories, folder)
    return folder


def test_page_holds_every_row_and_its_interval(together):
    facts = json.loads((together / "aggregate.json").read_text())
    path = render_aggregate(together)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path.name == "aggregate.html"
    rows = page.tables["table-map-predicts"][1:]
    for row, found in zip(rows, facts["map_predicts"], strict=True):
        low, high = found["interval"]
        assert row[:5] == [
            found["map"], "4", found["target"].replace("_", " "), f"{found['spearman']:.2f}", f"{low:.2f} to {high:.2f}",
        ]  # fmt: skip
        assert row[-1] == "2"
    low, high = facts["separation"]["raw"]["interval"]
    assert page.tables["table-separation"][1][1:3] == [f"{facts['separation']['raw']['auroc']:.3g}", f"{low:.3g} to {high:.3g}"]
    assert [row[0] for row in page.tables["table-levels"][1:]] == list(GROUPS)
    assert [row[2:4] for row in page.tables["table-recordings"][1:]] == [["<img src=x>", "3"], ["<img src=x>", "4"]]
    assert "img" not in [tag for tag, _ in page.tags]
    assert "95 % intervals under-cover" in text
    assert len(page.ids) == len(set(page.ids))


def test_curves_of_the_aggregate_are_figures_in_the_page_and_files(together):
    page = Page(render_aggregate(together).read_text(encoding="utf-8"))
    names = [path.stem for path in (together / "aggregate-figures").iterdir()]
    assert sorted(names) == ["curve_raw_change", "curve_velocity_change", "curve_x0_distance"]
    assert {f"figure-{name}" for name in names} <= set(page.ids)


def test_curves_are_the_means_and_their_intervals():
    values = np.arange(1.0, 13.0).reshape(4, 3)
    values[1] = np.nan  # no token of that level
    with styled():
        ax = draw_mean_curves(MeanCurves(values, np.stack([values * 0.5, values * 2]), "d", 1), Figure().add_subplot())
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert list(lines) == ["static", "active", "all"]
    np.testing.assert_array_equal(lines["active"], values[2])
    bands = [band.get_paths()[0].vertices[:, 1] for band in ax.collections]
    assert [(band.min(), band.max()) for band in bands] == [(0.5, 6.0), (3.5, 18.0)]


def test_one_recording_has_no_intervals_and_other_lengths_no_curves(tmp_path):
    made = make_results(tmp_path)
    write_aggregate([made.directory], tmp_path)
    page = Page(render_aggregate(tmp_path).read_text(encoding="utf-8"))
    assert "figure-curve_x0_distance" in page.ids
    assert page.tables["table-separation"][1][2] == "–"
    (tmp_path / "short").mkdir()
    write_aggregate([made.directory, make_results(tmp_path / "short", steps=11).directory], tmp_path)
    text = render_aggregate(tmp_path).read_text(encoding="utf-8")
    assert "No curves: the recordings differ in their number of steps." in text
    assert list((tmp_path / "aggregate-figures").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no aggregate.json"),
        ("{", "is not JSON"),
        ("[]", "is no aggregate"),
        ('{"schema": "x/2"}', "is no aggregate"),
    ],
)
def test_a_missing_or_damaged_file_is_one_sentence(tmp_path, content, message):
    if content is not None:
        (tmp_path / "aggregate.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        render_aggregate(tmp_path)
    assert "\n" not in str(caught.value)
