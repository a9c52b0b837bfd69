"""Tutorials work as written: what stands in docs/ after <!-- tried --> is typed in order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from janoscope.cli.app import _VERBS

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"<!-- tried -->\n```(sh|python)\n(.*?)```", re.S)
PAGES = {page.name: BLOCK.findall(page.read_text(encoding="utf-8")) for page in sorted(DOCS.glob("*.md"))}
PAGES = {name: blocks for name, blocks in PAGES.items() if blocks}
# what a reader finds in the folder at the end, beside what was told on the way
LEAVES = {"quick-start.md": ("run.h5", "run.png", "mine.h5", "run/report.html", "fast.png", "comparison/report.html")}
LEAVES["calibrating.md"] = ("half/policy.toml", "half/calibration.json", "half/report.html")


def script_of(blocks):
    """One bash script; Python blocks go on in one interpreter, as in a notebook."""
    python = "\n".join(text for kind, text in blocks if kind == "python")
    shell = "\n".join(text for kind, text in blocks if kind == "sh")
    return f"set -euo pipefail\ncat > typed.py <<'EOF'\n{python}\nEOF\n{shell}\npython typed.py\n"


def type_it(script, folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.timeout(1800)  # the machine may be busy
@pytest.mark.slow(reason="a minute: every command in a process of its own, as a reader types it; .ci/run does")
@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_works_as_written(page, tmp_path):
    done = type_it(script_of(PAGES[page]), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [name for name in LEAVES.get(page, ()) if not (tmp_path / name).is_file()] == []
    assert "Traceback" not in done.stderr


def test_a_command_that_fails_ends_the_script(tmp_path):
    assert type_it(script_of([("sh", "false"), ("sh", "touch after")]), tmp_path).returncode != 0
    assert not (tmp_path / "after").exists()


def test_the_quick_start_goes_all_the_way():
    typed = " ".join(text for _, text in PAGES["quick-start.md"])
    for word in ("record", "inspect", "analyze", "apply", "compare", "janoscope.record(", "janoscope.apply("):
        assert word in typed


def test_every_verb_has_a_page():
    rows = re.findall(r"^\| (`.*?) \|.*\| \[[^]]+\]\(([a-z-]+\.md)\) \|$", (DOCS / "verbs.md").read_text(encoding="utf-8"), re.M)
    listed = {verb for cell, _ in rows for verb in re.findall(r"`([a-z]+)", cell)}
    assert listed == set(_VERBS)
    assert [page for _, page in rows if not (DOCS / page).is_file()] == []
