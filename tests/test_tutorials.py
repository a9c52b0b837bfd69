"""Tutorials work as written: what stands in docs/ after <!-- tried --> is typed in order, in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_pipelines import build

import janoscope
from janoscope.cli.app import COMMANDS

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"<!-- tried -->\n```(sh|python)\n(.*?)```", re.S)
PAGES = {page.name: BLOCK.findall(page.read_text(encoding="utf-8")) for page in sorted(DOCS.glob("*.md"))}
PAGES = {name: blocks for name, blocks in PAGES.items() if blocks}
# what a reader finds in the folder at the end, beside what was told on the way
LEAVES = {
    "quick-start.md": (
        *("run.h5", "run.png", "mine.h5", "my-pipeline/model_index.json", "theirs.h5", "run/report.html", "fast.png"),
        "comparison/report.html",
    ),
    "own-sampler.md": ("own.h5", "own/report.html"),
    "calibrating.md": ("half/policy.toml", "half/report.html", "out.png", "out-full.png"),
    "comparing.md": ("comparison/comparison.json", "comparison/report.html"),
}
# one interpreter for all Python of a page, as in a notebook; a shell for each block of commands, which ends at the first failure
DRIVER = """
import json, subprocess, sys
typed, names = json.load(sys.stdin), {}
for kind, text in typed:
    if kind == "sh":
        subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True, stdin=subprocess.DEVNULL)
    else:
        exec(compile(text, "typed", "exec"), names)
"""


def type_it(blocks, folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    told = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    return subprocess.run([sys.executable, "-c", DRIVER], input=json.dumps(blocks), **told)


def test_the_tutorials_are_these():
    assert set(PAGES) == set(LEAVES)


@pytest.mark.timeout(1800)  # the machine may be busy
@pytest.mark.slow(reason="a minute and a half: every command in a process of its own, as a reader types it; .ci/run does")
@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_works_as_written(page, tmp_path):
    done = type_it(PAGES[page], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [name for name in LEAVES[page] if not (tmp_path / name).is_file()] == []
    assert "Traceback" not in done.stderr


def test_what_is_typed_goes_in_order_and_ends_at_the_first_failure(tmp_path):
    blocks = [
        ("python", "a = 1"),
        ("sh", "touch first"),
        ("python", "open('second', 'w').write(str(a))"),
        ("sh", "false; touch b"),
    ]
    assert type_it([*blocks, ("python", "open('after', 'w')")], tmp_path).returncode != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_the_quick_start_goes_all_the_way():
    typed = " ".join(text for _, text in PAGES["quick-start.md"])
    for word in ("record", "inspect", "analyze", "apply", "compare", "janoscope.record(", "janoscope.apply("):
        assert word in typed


def test_every_command_has_a_page():
    rows = re.findall(
        r"^\| (`.*?) \|.*\| \[[^]]+\]\(([a-z-]+\.md)\) \|$", (DOCS / "commands.md").read_text(encoding="utf-8"), re.M
    )
    listed = {command for cell, _ in rows for command in re.findall(r"`([a-z]+)", cell)}
    assert listed == set(COMMANDS)
    assert [page for _, page in rows if not (DOCS / page).is_file()] == []


def test_the_page_on_own_loops_skips_steps_as_it_says(capsys):
    (program,) = [text for kind, text in PAGES["own-sampler.md"] if kind == "python" and "StepSkipper" in text]
    names = {}
    exec(compile(program, "own-sampler.md", "exec"), names)
    assert capsys.readouterr().out.startswith("5 of 12 calls, rms difference 0.")
    difference = (names["fast"] - names["full"]).pow(2).mean().sqrt()
    assert 0 < difference < 0.2
    reused, _ = names["generate"](janoscope.Policy.from_table(REUSE, "test"))
    assert (reused - names["full"]).pow(2).mean().sqrt() > difference, "control: without a correction it is worse"


REUSE = {"name": "reuse", "output": "hold", "schedule": {"steps": 12, "computed": [0, 1, 3, 6, 11]}}
PYTHON = re.compile(r"```python\n(.*?)```", re.S)
# pages whose Python works on a pipeline and a recording that the reader has; in this order
EXAMPLES = ("../README.md", "recording.md", "looking.md", "analysis.md", "execution.md", "comparing.md", "calibrating.md")


def test_python_examples_of_the_pages_work_on_a_readers_pipeline(tmp_path, monkeypatch):
    """A tiny random Flux stands for it: what counts is that every name and argument is right."""
    monkeypatch.chdir(tmp_path)
    blocks = {page: PYTHON.findall((DOCS / page).read_text(encoding="utf-8")) for page in EXAMPLES}
    assert all(blocks.values())
    results = {}
    for page, texts in blocks.items():
        if any("janoscope.record(" in text for text in texts):
            Path("run.h5").unlink(missing_ok=True)  # of the page before
        pipe, _ = build("flux")
        pipe.default_sample_size = 24  # 12 x 12 tokens, for the point that analysis.md names
        names = {"pipe": pipe, "torch": torch, "prompt": "a cat", "janoscope": janoscope}
        for text in texts:
            exec(compile(text, page, "exec"), names)
        results |= names
    assert results["image"].size == (192, 192)
    assert 0 < results["run"].summary.compute <= 1
    assert 0 < results["comparison"].row("fewer-steps:steps=4").estimates()["compute"].value == 0.5
    assert results["policy"].name
