import json
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from PIL import Image
from report_results import CLIP, PICTURE, RAS_STEPS, add_applied, make_results

from janoscope.plan import StepKind
from janoscope.report import render_analysis, render_hero
from janoscope.report.drawing.error_scale import error_map, reduced
from janoscope.results.analysis import ARRAYS

HOSTILE = '<script>alert("x")</script> & $\\frac$ {{ 7*7 }} <img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """Tags with attributes, text by table, ids."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.tables, self._table, self._row, self._cell = [], [], {}, None, None, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "table":
            self._table = self.tables.setdefault(attrs["id"], [])
        elif tag == "tr":
            self._row = []
            self._table.append(self._row)
        elif tag in ("td", "th"):
            self._cell = True
            self._row.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        if self._cell:
            self._row[-1] += data.strip()

    def attributes(self, *names):
        return [attrs[name] for _, attrs in self.tags for name in names if attrs.get(name)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def text(made):
    return render_analysis(made.directory).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_page_asks_nothing_of_the_network(text, page):
    assert not re.findall(r"\w+://", text)  # not even a namespace
    assert not [tag for tag, _ in page.tags if tag in ("iframe", "object", "embed", "base", "form")]
    assert not re.findall(r"@import|url\((?!#)", text)
    for target in page.attributes("src", "href", "xlink:href", "srcset"):
        assert target.startswith(("data:", "#")), target


def test_every_image_lies_in_the_file_and_is_said_in_words(page):
    images = [attrs for tag, attrs in page.tags if tag == "image"]
    assert len(images) >= 15
    assert all(attrs["href"].startswith("data:image/png;base64,") for attrs in images)
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(drawings) == 16
    assert all(attrs["role"] == "img" and attrs["aria-labelledby"] in page.ids for attrs in drawings)


def test_ids_are_unique_and_every_reference_has_one(text, page):
    assert len(page.ids) == len(set(page.ids))
    wanted = set(re.findall(r"url\(#([^)]+)\)", text)) | {t[1:] for t in page.attributes("href") if t.startswith("#")}
    assert wanted <= set(page.ids)
    assert any("clip" in text[text.index(name) - 40 : text.index(name)] for name in wanted)  # there are such references


def test_page_is_small_and_carries_every_figure_as_a_file(made, text):
    assert len(text.encode()) < 3e6
    files = sorted(path.stem for path in (made.directory / "figures").iterdir())
    assert len(files) == 16
    assert "picture" in files
    assert "x0_strip" in files


def test_tables_hold_every_row_of_the_results(made, page):
    assert [row[:4] for row in page.tables["table-levels"][1:]] == [
        [level, str(found["tokens"]), f"{found['tokens'] / 77:.1%}", str(computed)]
        for (level, found), computed in zip(made.facts["convergence"]["by_level"].items(), _steps_computed(made), strict=True)
    ]
    assert page.tables["table-map-predicts"][0][:3] == ["map", "warm-up", "convergence step"]
    assert spearman(page.tables["table-map-predicts"]) == {
        (found["map"], found["warmup"], found["target"]): f"{found['spearman']:.2f}" for found in made.facts["map_predicts"]
    }
    assert "table-map-predicts-other" not in page.tables  # the analysis tried no other warm-up
    assert [row[0] for row in page.tables["table-points"][1:]] == ["A", "B", "C", "D"]
    assert [int(row[2]) for row in page.tables["table-kinds"][1:]] == [
        count for kind in StepKind if (count := made.plan.step_kind.count(kind))
    ]
    for rows in page.tables.values():
        assert {len(row) for row in rows} == {len(rows[0])}


def spearman(table):
    """{(map, warm-up, target): text} of a table with four columns a target."""
    targets = [head.replace(" ", "_") for head in table[0][2::4]]
    return {(row[0], int(row[1]), target): row[2 + 4 * at] for row in table[1:] for at, target in enumerate(targets)}


def test_other_warm_ups_stand_in_a_table_of_their_own(tmp_path):
    made = make_results(tmp_path)
    facts = json.loads((made.directory / "analysis.json").read_text())
    other = [row | {"warmup": 6, "spearman": 0.125} for row in facts["map_predicts"] if row["target"] == "reuse_error"]
    facts["map_predicts"] += other
    (made.directory / "analysis.json").write_text(json.dumps(facts))
    page = Page(render_analysis(made.directory).read_text(encoding="utf-8"))
    assert spearman(page.tables["table-map-predicts-other"]) == {(name, 6, "reuse_error"): "0.12" for name in ("jano", "ras")}
    assert {warmup for _, warmup, _ in spearman(page.tables["table-map-predicts"])} == {4}


def _steps_computed(made):
    return [sum(kind.least_rank <= rank for kind in made.plan.step_kind) for rank in (1, 2, 3)]


def test_summary_says_what_the_plan_promises(made, text):
    predicted = made.plan.predicted
    assert f"<b>{predicted.compute:.1%}</b><span>predicted FLOPs</span>" in text
    assert f"<b>{1 / predicted.compute:.2f}×</b><span>FLOP ratio</span><small>no wall time was measured</small>" in text
    assert "speedup" not in text.partition("<main>")[2].partition('id="definitions"')[0]
    for level in ("static", "moderate", "active"):
        assert f"{level} <b>{made.plan.token_level.count(level)}</b>" in text


def test_once_applied_the_summary_says_what_was_measured_with_the_prediction_beside_it(tmp_path):
    made = make_results(tmp_path)
    add_applied(made)
    summary = summary_of(render_analysis(made.directory))
    predicted = made.plan.predicted
    assert (
        f"<b>50.0%</b><span>FLOPs, counted</span><small>of the full run&#39;s; predicted {predicted.compute:.1%}</small>"
        in summary
    )
    told = f"wall time, one pair of runs; FLOP ratio {predicted.flop_ratio:.2f}×"
    assert f"<b>1.75×</b><span>speedup, measured</span><small>{told}</small>" in summary
    assert "<b>27.2 dB</b><span>PSNR</span><small>against the full run; SSIM 0.9123</small>" in summary
    assert "<b>3.0 MiB</b><span>cache</span>" in summary
    assert "predicted FLOPs" not in summary


def test_a_run_without_a_measured_time_has_no_speedup_and_identical_pictures_are_called_so(tmp_path):
    made = make_results(tmp_path)
    applied = add_applied(made) | {"speedup": None, "psnr": None, "identical": True}
    (made.directory / "apply.json").write_text(json.dumps(applied))
    summary = summary_of(render_analysis(made.directory))
    assert "speedup" not in summary
    assert "<span>FLOP ratio</span><small>predicted; no wall time was measured</small>" in summary
    assert "<b>identical</b><span>PSNR</span>" in summary


def summary_of(page):
    return page.read_text(encoding="utf-8").partition('<section id="summary"')[2].partition("</section>")[0]


@pytest.mark.parametrize("level", ["separates", "weak", "none"])
def test_the_verdict_is_the_first_line_of_the_page(tmp_path, level):
    made = make_results(tmp_path)
    facts = json.loads((made.directory / "analysis.json").read_text()) | {"notes": ["a note"]}
    facts["verdict"] = {"level": level, "sentence": "The map <i>"}
    (made.directory / "analysis.json").write_text(json.dumps(facts))
    main = render_analysis(made.directory).read_text(encoding="utf-8").partition("<main>")[2]
    assert main.lstrip().startswith(f'<p class="verdict {level}">The map &lt;i&gt;</p>')


def test_a_verdict_of_another_version_is_left_out(tmp_path):
    made = make_results(tmp_path)
    facts = json.loads((made.directory / "analysis.json").read_text())
    facts["verdict"] = {"level": "splendid", "sentence": "x"}
    (made.directory / "analysis.json").write_text(json.dumps(facts))
    assert 'class="verdict' not in render_analysis(made.directory).read_text(encoding="utf-8")


def test_agreement_stands_with_its_interval(made, page):
    row = next(row for row in made.facts["map_predicts"] if (row["map"], row["target"]) == ("jano", "convergence_step"))
    low, high = row["agreement_interval"]
    shown = next(cells for cells in page.tables["table-map-predicts"] if cells[0] == "jano")
    assert shown[4:6] == [f"{row['agreement']:.0%}", f"{low:.0%} to {high:.0%}"]
    assert low < row["agreement"] < high


def test_ras_over_the_run_stands_beside_the_jano_map_with_its_numbers(made, text, page):
    found = {row["step"]: row for row in made.facts["ras_predicts"] if row["target"] == "reuse_error"}
    rows = {int(row[0]): row for row in page.tables["table-ras-predicts"][1:]}
    assert list(rows) == list(RAS_STEPS)
    for step, row in rows.items():
        assert row[5] == f"{found[step]['spearman']:.2f}"
    worst, best = (pick(found.values(), key=lambda row: row["spearman"]) for pick in (min, max))
    assert f"RAS between {worst['spearman']:.2f} [" in text
    assert f"(step {best['step']})" in text


def test_notes_of_the_analysis_are_warnings(tmp_path):
    made = make_results(tmp_path)
    facts = json.loads((made.directory / "analysis.json").read_text())
    facts["notes"] = ["the recording ends after 9 of 13 steps <b>"]
    (made.directory / "analysis.json").write_text(json.dumps(facts))
    text = render_analysis(made.directory).read_text(encoding="utf-8")
    assert '<p class="warning" role="note">The recording ends after 9 of 13 steps &lt;b&gt;</p>' in text


def test_an_analysis_without_the_later_arrays_is_still_drawn(tmp_path):
    made = make_results(tmp_path)
    facts = json.loads((made.directory / "analysis.json").read_text())
    for name in ("ras_predicts", "notes", "curves", "shown_frames"):
        del facts[name]
    (made.directory / "analysis.json").write_text(json.dumps(facts))
    np.savez(made.directory / "analysis.npz", **{name: made.arrays[name] for name in ARRAYS})
    page = Page(render_analysis(made.directory).read_text(encoding="utf-8"))
    assert "figure-x0_distance" in page.ids
    assert "figure-ras_steps" not in page.ids
    assert "table-ras-predicts" not in page.tables


def test_hostile_words_stay_words(tmp_path):
    made = make_results(tmp_path, prompt=HOSTILE)
    facts = json.loads((made.directory / "analysis.json").read_text())
    facts["run"]["model"] = '"><script>alert(2)</script> $x$'
    facts["run"]["negative_prompt"] = "half a pair \ud800"
    facts["versions"] = {"</style><script>": "<b>"}
    (made.directory / "analysis.json").write_text(json.dumps(facts))
    text = render_analysis(made.directory).read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1  # our own
    assert "img" not in [tag for tag, _ in page.tags]
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; $\\frac$ {{ 7*7 }}" in text
    render_hero(made.directory, tmp_path / "hero.png")


def test_page_without_picture_says_so_and_shows_the_maps(tmp_path):
    made = make_results(tmp_path)
    made.recording.with_suffix(".png").unlink()
    text = render_analysis(made.directory).read_text(encoding="utf-8")
    assert "No decoded image is available" in text
    assert 'id="figure-levels"' in text
    assert 'id="figure-picture"' not in text
    assert 'id="figure-x0_strip"' not in text


def test_page_without_recording_says_so(tmp_path):
    made = make_results(tmp_path)
    made.recording.unlink()
    text = render_analysis(made.directory).read_text(encoding="utf-8")
    assert "The recording is not available" in text
    assert 'id="figure-picture"' in text


def test_values_that_are_not_defined_are_dashes_and_bad_values_a_warning(tmp_path):
    made = make_results(tmp_path)
    facts = json.loads((made.directory / "analysis.json").read_text())
    facts["separation"] = {
        "raw": {"auroc": None, "interval": None},
        "converted": {"auroc": float("nan"), "interval": [None, None]},
    }
    facts["map_predicts"] = []
    facts["nonfinite"] = {"model_output": 3, "sample": 0}
    (made.directory / "analysis.json").write_text(json.dumps(facts))
    arrays = made.arrays | {"x0_distance": np.full_like(made.arrays["x0_distance"], np.nan)}
    np.savez(made.directory / "analysis.npz", **arrays)
    text = render_analysis(made.directory).read_text(encoding="utf-8")
    page = Page(text)
    assert [row[1:] for row in page.tables["table-separation"][1:]] == [["–", "–"], ["–", "–"]]
    assert page.tables["table-map-predicts"][1:] == [["nothing was measured"]]
    assert "AUROC not defined" in text
    assert "3 non-finite values in model output" in text
    assert "values in sample" not in text


def test_applied_run_stands_beside_the_full_one(tmp_path):
    made = make_results(tmp_path)
    before = render_analysis(made.directory).read_text(encoding="utf-8")
    assert 'id="applied"' not in before
    applied = add_applied(made)
    text = render_analysis(made.directory).read_text(encoding="utf-8")
    page = Page(text)
    for shown in ("27.25 dB", "0.9123", "1.75×", "3.0 MiB"):
        assert f"<b>{shown}</b>" in text
    assert {"figure-reference", "figure-applied", "figure-error"} <= set(page.ids)
    rows = page.tables["table-summary"][1:]
    assert sum(int(row[1]) for row in rows) == len(applied["account"]["steps"])
    assert len(page.ids) == len(set(page.ids))


def test_error_map_is_the_mean_difference():
    reference = np.full((1, 2, 3, 3), 200, np.uint8)
    output = reference.copy()
    output[0, 1, 2] = (203, 194, 200)
    np.testing.assert_array_equal(error_map(reference, output), [[[0, 0, 0], [0, 0, 3]]])


def test_a_large_error_map_is_reduced_by_area_means():
    values = np.zeros((1, 832, 416))
    values[0, :2, :2] = 8.0
    shown = reduced(values)
    assert shown.shape == (1, 416, 208)
    assert (shown[0, 0, 0], shown.sum()) == (8.0, 8.0)
    np.testing.assert_array_equal(reduced(values[:, :5, :7]), values[:, :5, :7])


def test_apply_without_a_reference_shows_its_own_picture(tmp_path):
    made = make_results(tmp_path)
    applied = add_applied(made)
    del applied["reference"], applied["psnr"], applied["ssim"]
    (made.directory / "apply.json").write_text(json.dumps(applied))
    page = Page(render_analysis(made.directory).read_text(encoding="utf-8"))
    assert "figure-applied" in page.ids
    assert not {"figure-reference", "figure-error"} & set(page.ids)


def test_rendering_leaves_no_trace_in_matplotlib(made):
    before = dict(matplotlib.rcParams)
    render_analysis(made.directory)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("grid", [PICTURE, CLIP], ids=["picture", "clip"])
def test_rendering_again_gives_the_same_bytes(tmp_path, grid):
    made = make_results(tmp_path, grid=grid)
    first = render_analysis(made.directory).read_bytes()
    assert render_analysis(made.directory, recording=made.recording).read_bytes() == first


@pytest.mark.parametrize("grid", [PICTURE, CLIP], ids=["picture", "clip"])
def test_hero_is_one_opaque_probe(tmp_path, grid):
    made = make_results(tmp_path, grid=grid)
    path = render_hero(made.directory, tmp_path / "hero.png")
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGBA"))
    assert pixels.shape[1] == 1760
    assert (pixels[..., 3] == 255).all()
    assert (pixels[:3] == 255).all()  # a clear edge: nothing is cut off
    assert (pixels[:, :3] == 255).all()
    assert (pixels[:, -3:] == 255).all()


def test_a_figure_of_an_earlier_rendering_goes_and_files_of_others_stay(tmp_path):
    made = make_results(tmp_path)
    add_applied(made)
    render_analysis(made.directory)
    figures = made.directory / "figures"
    (figures / "mine.svg").write_text("<svg><desc>a drawing of my own</desc></svg>")
    (figures / "notes.txt").write_text("janoscope")
    assert (figures / "applied.svg").is_file()
    (made.directory / "apply.json").unlink()
    render_analysis(made.directory)
    left = {path.name for path in figures.iterdir()}
    assert not {"applied.svg", "reference.svg", "error.svg"} & left
    assert {"mine.svg", "notes.txt", "levels.svg"} <= left
