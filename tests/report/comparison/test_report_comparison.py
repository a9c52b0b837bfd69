"""The page of a comparison: one file that holds everything, and says what is missing."""

import base64
import io
import json
import re
import subprocess

import numpy as np
import pytest
from browser import BROWSER, FLAGS, HOST, look, needs_browser
from comparison_results import LABELS, write
from PIL import Image

from janoscope.report.comparison.figures import COLOURS, Front, draw_pareto, fronts_of, read_comparison, render_comparison
from janoscope.report.drawing.style import new_figure
from janoscope.results.comparison import Row, Run


def images_of(page):
    found = re.findall(r'<img src="data:image/\w+;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in found]


def test_the_page_stands_alone_and_says_what_is_missing(tmp_path):
    files = render_comparison(write(tmp_path, complete=False))
    assert {file.name for file in files} == {"report.html", "pareto.svg", "grid.png"}
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page), "nothing is fetched"
    for told in ("LPIPS is empty: its weights could not be loaded.", "Incomplete:", "DBCache needs the optional package"):
        assert told in page
    assert "1 of 1 images identical" in page
    assert len(images_of(page)) == 2 * len(LABELS)


def heads_of(page, table):
    part = page.partition(f'id="table-{table}"')[2].partition("</thead>")[0]
    return re.findall(r"<button[^>]*>([^<]*)</button>", part)


def test_columns_in_which_nothing_was_measured_are_left_out(tmp_path):
    """Control: one value in a column, and it is there."""
    write(tmp_path)
    render_comparison(tmp_path)
    heads = heads_of((tmp_path / "report.html").read_text(), "methods")
    assert heads[0] == "method"
    assert heads[-1] == "runs"
    assert not {"MS-SSIM", "LPIPS", "note"} & set(heads)
    facts = json.loads((tmp_path / "comparison.json").read_text())
    facts["rows"][1]["mean"]["lpips"] = 0.01
    (tmp_path / "comparison.json").write_text(json.dumps(facts))
    render_comparison(tmp_path)
    assert "LPIPS" in heads_of((tmp_path / "report.html").read_text(), "methods")


def test_a_speedup_is_the_ratio_of_the_walls_beside_it_and_says_when_it_is_noise(tmp_path):
    """The mean of the ratios 1.97 and 0.42 said 1.19 for a row that took longer than the full run.

    The page shows what comparison.json carries, which `Row` has from the runs.
    """
    write(tmp_path)
    facts = json.loads((tmp_path / "comparison.json").read_text())
    for line, walls in zip(facts["rows"], ((5.9, 2.7), (3.0, 6.4), (2.0, 1.0)), strict=False):
        compute, psnr, same = line["mean"]["compute"], line["mean"]["psnr"], line["label"] == "uniform:k=2"
        runs = [
            Run(f"prompt {at}", 0, wall, wall, compute, full / wall, psnr, 0.9, None, None, None, None, same)
            for at, (wall, full) in enumerate(zip(walls, (5.9, 2.7), strict=True))
        ]
        line |= Row(line["label"], line["method"], {}, runs).to_json() | {"front": line["front"]}
    (tmp_path / "comparison.json").write_text(json.dumps(facts))
    render_comparison(tmp_path)
    table = (tmp_path / "report.html").read_text().partition('id="table-methods"')[2].partition("</table>")[0]
    full, jano, uniform = (re.findall(r">([^<]+)</", row.replace("<wbr>", "")) for row in table.split("<tr>")[2:5])
    assert full[2] == "1.00"
    assert jano[:4] == ["times too noisy for a speedup: its interval spans 1", "0.500", "0.91", "0.42 to 1.97"]
    assert uniform[:4] == ["2 of 2 images identical", "0.600", "2.87", "2.70 to 2.95"]


@pytest.mark.parametrize(("prompts", "told"), [(1, "1 prompt stands"), (3, "3 prompts stand"), (8, "")])
def test_too_few_prompts_behind_an_interval_are_told(tmp_path, prompts, told):
    write(tmp_path)
    facts = json.loads((tmp_path / "comparison.json").read_text())
    for line in facts["rows"]:
        line["runs"] = [{**run, "prompt": f"prompt {at}"} for run in line["runs"] for at in range(prompts)]
    (tmp_path / "comparison.json").write_text(json.dumps(facts))
    render_comparison(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert ("Too few prompts" in page) is bool(told)
    assert told in page


WIDE = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify([...document.querySelectorAll(".table")].map(
  (part) => [part.scrollWidth, part.clientWidth, getComputedStyle(part.querySelector("thead th")).position])), "*"));</script>"""


@needs_browser
@pytest.mark.parametrize("medium", ["screen", "print"])
def test_no_column_is_cut_at_1280_pixels_and_on_paper(tmp_path, medium):
    """With every column filled, long notes and a long method's name."""
    write(tmp_path)
    facts = json.loads((tmp_path / "comparison.json").read_text())
    for line in facts["rows"]:
        line["mean"] |= {"ms_ssim": 0.99, "lpips": 0.01}
        line["note"] = "6 of 6 runs fell back to full steps at the end, since the cache was full"
        line["runs"] = [run | {"peak_bytes": 2**30} for run in line["runs"]]
    facts["rows"][2]["label"] = "policy:preset=demo/best-token-40,intervals=8/4/1,output=corrected"
    (tmp_path / "comparison.json").write_text(json.dumps(facts))
    render_comparison(tmp_path)
    page, width = (tmp_path / "report.html").read_text(), 1280
    if medium == "print":
        page, width = page.replace("@media print", "@media all"), 718  # A4 less margins of 10 mm, at 96 dpi
    (tmp_path / "probed.html").write_text(page.replace("</body>", WIDE + "</body>"))
    for scroll, client, position in asked(tmp_path, width):
        assert scroll <= client
        assert position == "sticky"  # the first column stays where the table scrolls, on a phone


@needs_browser
def test_the_look_for_cut_columns_finds_them_on_a_phone(tmp_path):
    render_comparison(write(tmp_path))
    (tmp_path / "probed.html").write_text((tmp_path / "report.html").read_text().replace("</body>", WIDE + "</body>"))
    assert any(scroll > client for scroll, client, _ in asked(tmp_path, 390))


def asked(folder, width):
    """What WIDE says in a frame of this width."""
    (folder / "host.html").write_text(HOST % width)
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,900", "--dump-dom"]
    ran = subprocess.run([*command, (folder / "host.html").as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(re.search(r'data-seen="([^"]*)"', ran.stdout)[1].replace("&quot;", '"'))


def test_differences_are_told_from_the_first_methods_side(tmp_path):
    render_comparison(write(tmp_path))
    page = (tmp_path / "report.html").read_text()
    table = page[page.index('id="table-paired"') :]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", table[: table.index("</table>")].replace("<wbr>", ""))
    assert cells == ["uniform:k=2", "-2.00", "-3.00 to -1.00", "1", "full", "-5.00", "-7.00 to -4.00", "1"]


def test_errors_share_one_scale(tmp_path):
    """None is black, larger ones are brighter, and above the middle one of the largest all are as bright as it gets."""
    render_comparison(write(tmp_path))
    errors = images_of((tmp_path / "report.html").read_text())[1::2]
    corner = [int(error[1, 1].astype(int).sum()) for error in errors]
    assert corner == sorted(corner)
    assert len(set(corner[:3])) == 3
    assert corner[3] == corner[4]
    assert all(error[-1, -1].sum() < 40 for error in errors)
    assert corner[-1] > 600


def test_settings_that_are_beaten_are_drawn_off_the_line(tmp_path):
    render_comparison(write(tmp_path))
    fronts = {front.name: front for front in fronts_of(read_comparison(tmp_path))}
    assert fronts["uniform"].compute.tolist() == [0.4, 0.5, 0.6]
    assert fronts["uniform"].on_front.tolist() == [True, False, True]
    _, ax = new_figure(4, 3)
    line, loose = draw_pareto([fronts["uniform"]], ax).lines[-2:]
    assert line.get_xdata().tolist() == [0.4, 0.6]
    assert loose.get_xdata().tolist() == [0.5]


def test_no_two_methods_look_alike():
    one = np.array([0.5])
    fronts = [Front(str(at), one, one, one, one, np.array([True])) for at in range(3 * len(COLOURS))]
    _, ax = new_figure(4, 3)
    looks = {(line.get_color(), line.get_marker()) for line in draw_pareto(fronts, ax).lines if line.get_linestyle() != "None"}
    assert len(looks) == len(fronts)


def test_a_clip_has_a_player_and_strips(tmp_path):
    render_comparison(write(tmp_path, frames=7))
    page = (tmp_path / "report.html").read_text()
    assert page.count('frame 7"') == 2 * len(LABELS)
    assert 'max="6"' in page
    strips = [image for image in images_of(page) if image.shape[1] == 5 * 24]
    assert len(strips) == 2 * len(LABELS)


PLAYED = """<script>
(async () => {
  const group = document.querySelector(".together"), seen = [];
  const shown = () => [...group.querySelectorAll(".stage")].map((s) => [...s.children].findIndex((i) => !i.hidden));
  const told = () => seen.push([[...new Set(shown())], group.querySelector("output").textContent]);
  told();
  const place = group.querySelector("[type=range]");
  place.value = 4; place.dispatchEvent(new Event("input")); told();
  group.querySelector(".play").click();
  await new Promise((done) => setTimeout(done, 450));
  group.querySelector(".play").click(); told();
  document.documentElement.dataset.played = JSON.stringify(seen);
})();
</script>"""


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_in_a_browser(tmp_path, width):
    seen, console = look(render_comparison(write(tmp_path, frames=7))[-1], width, tmp_path)
    assert console == []
    assert (seen["missing"], seen["out"]) == (0, 0)
    assert seen["scroll"] <= width


@needs_browser
def test_all_clips_play_together(tmp_path):
    path = render_comparison(write(tmp_path, frames=7))[-1]
    path.write_text(path.read_text().replace("</body>", PLAYED + "</body>"))
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-played="([^"]*)"', ran.stdout)
    assert found, ran.stderr[-2000:]
    first, moved, played = json.loads(found[1].replace("&quot;", '"'))
    assert first == [[0], "frame 1 of 7"]
    assert moved == [[4], "frame 5 of 7"]
    assert len(played[0]) == 1, "all show the same frame"
    assert played[0] != [4]
