"""The page in a real browser, at the width of a desk and of a phone."""

import json
import re
import subprocess

import pytest
from browser import BROWSER, FLAGS, REQUIRED, check_present, needs_browser
from report_results import CLIP, PICTURE, add_applied, make_results

from janoscope.report import render_aggregate, render_analysis
from janoscope.workflows.analyze.aggregate import write_aggregate

pytestmark = needs_browser
WIDTHS = (1280, 390)

# a frame, since a window is never narrower than 500 px; --dump-dom prints the attribute in which the answer is left
HOST = """<!doctype html><body style="margin:0"><script>
addEventListener("message", (event) => { document.documentElement.dataset.seen = event.data; });
</script><iframe src="probed.html" style="border:0" width="%d" height="900"></iframe></body>"""

# what the page itself can tell
PROBE = """<script>
(async () => {
  const root = document.documentElement, images = [...document.querySelectorAll("image, img")];
  const loads = (source) => new Promise((done) => {
    const image = new Image();
    image.onload = () => done(image.naturalWidth > 0); image.onerror = () => done(false); image.src = source; });
  const loaded = await Promise.all(images.map((image) => loads(image.getAttribute("href") || image.src)));
  const visible = [...document.querySelectorAll("figure svg")].filter((svg) => svg.getBoundingClientRect().height > 20).length;
  const out = [...document.querySelectorAll("section, figure, table, h1, svg")].filter((part) => {
    const box = part.getBoundingClientRect();
    return box.right > innerWidth + 1 && !part.closest(".table, .wide .drawing"); }).length;
  const table = document.querySelector("#table-points"), button = table ? table.querySelectorAll("th button")[5] : null;
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[5].textContent);
  const orders = [];
  if (button) { for (let click = 0; click < 2; click++) { button.click(); orders.push(column()); } }
  const player = document.querySelector(".player"), played = [];
  const shown = (kind) => [...player.querySelectorAll(kind)].map((part, at) => part.hidden ? -1 : at).filter((at) => at >= 0);
  const look = () => played.push([shown(".frame"), shown(".over"), player.querySelector("output").textContent]);
  if (player) {
    look();
    player.querySelector(".play").click();
    await new Promise((done) => setTimeout(done, 180));
    player.querySelector(".play").click();
    look();
    await new Promise((done) => setTimeout(done, 400));
    player.querySelector(".levels").click();
    look();
  }
  parent.postMessage(JSON.stringify({ played, width: innerWidth, scroll: root.scrollWidth, images: images.length,
    missing: loaded.filter((ok) => !ok).length, visible, out, orders }), "*");
})();
</script>"""


def look(path, width, folder):
    """(what the page says about itself, what the console said)."""
    host = folder / "host.html"
    host.write_text(HOST % width)
    (folder / "probed.html").write_text(path.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,900", "--dump-dom"]
    ran = subprocess.run([*command, host.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-seen="([^"]*)"', ran.stdout)
    assert found, ran.stderr[-2000:]
    return json.loads(found[1].replace("&quot;", '"')), [line for line in ran.stderr.splitlines() if "CONSOLE" in line]


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
