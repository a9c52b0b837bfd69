"""The page in a real browser, at the width of a desk and of a phone."""

import pytest
from browser import REQUIRED, check_present, look, needs_browser
from report_results import CLIP, PICTURE, add_applied, make_results

from janoscope.report import render_aggregate, render_analysis
from janoscope.workflows.analyze.aggregate import write_aggregate

pytestmark = needs_browser
WIDTHS = (1280, 390)


@pytest.mark.parametrize("grid", [PICTURE, CLIP], ids=["picture", "clip"])
@pytest.mark.parametrize("width", WIDTHS)
def test_page_is_whole_at_every_width(tmp_path, width, grid):
    made = make_results(tmp_path, grid=grid, prompt="averylongwordwithoutanyspaces" * 12)
    add_applied(made)
    seen, console = look(render_analysis(made.directory), width, tmp_path)
    assert seen["width"] == width
    assert seen["scroll"] <= width
    assert seen["out"] == 0
    assert seen["images"] >= 15
    assert seen["missing"] == 0
    assert seen["visible"] == (19 if grid is PICTURE else 20)
    assert console == []


def test_a_click_sorts_a_table_by_number(tmp_path):
    made = make_results(tmp_path)
    seen, _ = look(render_analysis(made.directory), 1280, tmp_path)
    rising, falling = ([float(text) for text in order] for order in seen["orders"])
    assert len(rising) == 4
    assert rising == sorted(rising)
    assert falling == rising[::-1] != rising


@pytest.mark.parametrize("width", WIDTHS)
def test_page_of_several_analyses_is_whole_at_every_width(tmp_path, width):
    made = make_results(tmp_path, prompt="averylongwordwithoutanyspaces" * 12)
    write_aggregate([made.directory, made.directory], tmp_path)
    seen, console = look(render_aggregate(tmp_path), width, tmp_path)
    assert (seen["width"], seen["scroll"] <= width, seen["out"], seen["visible"]) == (width, True, 0, 3)
    assert console == []


def test_a_clip_plays_pauses_and_shows_its_levels(tmp_path):
    made = make_results(tmp_path, grid=CLIP)
    seen, console = look(render_analysis(made.directory), 1280, tmp_path)
    assert seen["played"] == [[[0], [0], "frame 0"], [[1], [1], "frame 1"], [[1], [], "frame 1"]]
    assert console == []


def test_the_look_finds_what_is_broken(tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(
        '<!doctype html><body><section style="width:2000px">wide</section><img src="data:image/png;base64,AAAA">'
        '<figure><svg></svg></figure><script>console.error("bad")</script></body>'
    )
    seen, console = look(broken, 390, tmp_path)
    assert seen["scroll"] > 390
    assert (seen["out"], seen["missing"]) == (1, 1)
    assert len(console) == 1


def test_where_a_browser_is_required_its_absence_is_an_error(monkeypatch):
    monkeypatch.delenv(REQUIRED, raising=False)
    check_present(None)
    monkeypatch.setenv(REQUIRED, "1")
    check_present("/usr/bin/chromium")
    with pytest.raises(RuntimeError, match="would be skipped"):
        check_present(None)
