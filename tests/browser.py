"""The browser that looks at pages, and what happens where there is none."""

import json
import os
import re
import shutil
import subprocess

import pytest

REQUIRED = "JANOSCOPE_REQUIRE_BROWSER"  # set by .ci/run: there a skip would be a hole in the net
BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=5000",
)  # fmt: skip
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium (Debian: chromium) to look at the page")

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


def check_present(browser: str | None) -> None:
    """Raise where a browser is missing that must not be."""
    if browser is None and os.environ.get(REQUIRED):
        raise RuntimeError(f"{REQUIRED} is set and no chromium is installed: tests of pages would be skipped")


check_present(BROWSER)


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
