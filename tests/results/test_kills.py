"""`analyze` and `apply`, stopped at every write, rename and removal: no half result is accepted, and a rerun ends whole."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from recorded_runs import record_run

from janoscope.errors import InputError
from janoscope.report import render_analysis
from janoscope.report.analysis.view import read_view
from janoscope.results import writing
from janoscope.results.analysis import analysis_directory
from janoscope.results.images import save_frames
from janoscope.workflows.analyze.recording import analyze


class Killed(BaseException):
    """In the place of a SIGKILL, which no handler sees."""


def stopped(monkeypatch, at, work) -> bool:
    """Whether the work was stopped before its `at`-th change of a file."""
    left = at

    def stop(*_):
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1

    with monkeypatch.context() as patch:
        patch.setattr(writing, "point", stop)
        try:
            work()
        except Killed:
            return True
    return False


@pytest.fixture(scope="module")
def analyses(tmp_path_factory):
    """Two analyses of one recording by different options, and a picture beside it."""
    folder = tmp_path_factory.mktemp("kills")
    run = record_run(folder / "run.h5", steps=15)
    return run.path, analyze(run.path), analyze(run.path, points=["A=0,0,0", "B=0,1,1"])


def whole(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file() and not writing.is_leftover(path)}


@pytest.mark.parametrize("earlier", [False, True])
def test_analyze_leaves_no_half_result_and_its_rerun_ends_whole(analyses, monkeypatch, tmp_path, earlier):
    recording, first, second = analyses

    def run(directory, analysis, force):
        analysis_directory(recording, directory, force)
        analysis.save(directory, replaces=force)
        render_analysis(directory, recording=recording)

    run(tmp_path / "first", first, False)
    run(tmp_path / "second", second, False)
    old, new = whole(tmp_path / "first"), whole(tmp_path / "second")
    assert old["analysis.json"] != new["analysis.json"]
    changes = []
    with monkeypatch.context() as patch:
        patch.setattr(writing, "point", lambda what, path: changes.append((what, path.name)))
        run(tmp_path / "counted", second, False)
    for at in range(len(changes) + (2 if earlier else 0)):
        if at > 14 and at % 25:  # the figures are alike
            continue
        directory = tmp_path / f"stop-{at}"
        if earlier:
            shutil.copytree(tmp_path / "first", directory)
        if not stopped(monkeypatch, at, lambda d=directory: run(d, second, earlier)):
            continue
        left = whole(directory) if directory.exists() else {}
        if "report.html" in left:
            accepted = {name: left[name] for name in ("plan.json", "analysis.npz", "analysis.json", "report.html")}
            assert all(accepted[n] == old[n] for n in accepted) or all(accepted[n] == new[n] for n in accepted)
        try:
            read_view(directory)
        except InputError:
            pass
        else:
            assert left["analysis.json"] in (old["analysis.json"], new["analysis.json"])
        run(directory, second, force="report.html" in left or left.get("analysis.json") == old["analysis.json"])
        assert {name: whole(directory)[name] for name in new} == new


def test_an_analysis_without_its_page_is_drawn_and_another_is_not_put_in_its_place(analyses, tmp_path):
    recording, first, second = analyses
    first.save(tmp_path / "an")
    before = whole(tmp_path / "an")
    analysis_directory(recording, tmp_path / "an", force=False)
    first.save(tmp_path / "an", replaces=False)
    with pytest.raises(InputError, match="holds an analysis already"):
        second.save(tmp_path / "an", replaces=False)
    assert whole(tmp_path / "an") == before


@pytest.mark.parametrize("name", ["report.html", "analysis.json"])
@pytest.mark.parametrize("force", [False, True])
def test_a_page_or_result_of_something_else_is_not_replaced(analyses, tmp_path, name, force):
    (tmp_path / name).write_text('{"schema": "mine/1"}')
    with pytest.raises(InputError, match=f"{name} is of no analysis and would be replaced; move it away"):
        analysis_directory(analyses[0], tmp_path, force)


def test_an_image_of_apply_is_whole_or_not_there(monkeypatch, tmp_path):
    path, frames = tmp_path / "out.png", np.zeros((1, 64, 64, 3), np.uint8)
    for at in range(3):
        assert stopped(monkeypatch, at, lambda: save_frames(frames, path))
        assert not path.exists()
    assert not stopped(monkeypatch, 3, lambda: save_frames(frames, path))
    assert path.exists()
