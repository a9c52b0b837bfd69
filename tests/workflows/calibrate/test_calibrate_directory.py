"""What `calibrate --force` removes: the files that its recipe.json lists, and nothing else that lies in a directory."""

import json
import shutil
from pathlib import Path

import pytest

from janoscope.errors import InputError
from janoscope.results import writing
from janoscope.workflows.calibrate.directory import claim, lacks_its_page, open_directory
from janoscope.workflows.calibrate.target import Target

ASKED = {"load": {"name": "demo"}, "call": {"steps": 12}}
OTHER = {"load": {"name": "demo"}, "call": {"steps": 9}}
MINE = ("notes.txt", "policy-mine.toml", "recordings/mine.h5", "figures/mine.svg", "tracks/mine.npz", "policies/policy.toml")
THEIRS = ("calibration.json", "report.html", "runs.jsonl", "policy.toml", "figures/front.svg", "recordings/0123456789abcdef.h5")


def put(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)


def there(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def calibrated(tmp_path):
    """A directory with a finished calibration, and files of the user's own between its files."""
    directory = tmp_path / "c"
    assert open_directory(directory, ASKED, force=False) is False
    claim(directory, ["policy.toml", "recordings/0123456789abcdef.h5"])
    put(directory, *THEIRS, *MINE)
    return directory


def test_the_same_calibration_keeps_its_runs_and_replaces_its_results(calibrated):
    assert open_directory(calibrated, ASKED, force=True) is True
    assert there(calibrated) == {*MINE, "recipe.json", "runs.jsonl", "figures/front.svg", "recordings/0123456789abcdef.h5"}


def test_another_calibration_removes_what_the_first_listed_and_nothing_else(calibrated):
    with pytest.raises(InputError, match="holds a finished calibration"):
        open_directory(calibrated, OTHER, force=False)
    assert there(calibrated) == {*MINE, *THEIRS, "recipe.json"}
    assert open_directory(calibrated, OTHER, force=True) is False
    assert there(calibrated) == {*MINE, "recipe.json"}


@pytest.mark.parametrize(
    "name", ["report.html", "runs.jsonl", "policy.toml", "policy-0.45.toml", "calibration.json", "recipe.json"]
)
@pytest.mark.parametrize("force", [False, True])
def test_a_file_of_somebody_else_is_never_replaced(tmp_path, name, force):
    put(tmp_path, name)
    if name == "recipe.json":
        (tmp_path / name).write_text('{"flour": "500 g"}')
    before = (tmp_path / name).read_text()
    with pytest.raises(InputError, match=r"move it away|not empty and holds no calibration"):
        open_directory(tmp_path, ASKED, force=force)
    assert (tmp_path / name).read_text() == before
    assert there(tmp_path) == {name}


def test_a_directory_of_other_things_is_used_with_force_and_they_stay(tmp_path):
    put(tmp_path, *MINE)
    with pytest.raises(InputError, match="not empty and holds no calibration"):
        open_directory(tmp_path, ASKED, force=False)
    assert open_directory(tmp_path, ASKED, force=True) is False
    assert there(tmp_path) == {*MINE, "recipe.json"}


def test_a_list_that_points_outside_is_refused(calibrated, tmp_path):
    put(tmp_path, "precious.txt")
    recipe = json.loads((calibrated / "recipe.json").read_text())
    for name in ("../precious.txt", str(tmp_path / "precious.txt")):
        (calibrated / "recipe.json").write_text(json.dumps(recipe | {"files": [name]}))
        with pytest.raises(InputError, match="lies outside of its directory"):
            open_directory(calibrated, OTHER, force=True)
    assert (tmp_path / "precious.txt").exists()


def test_a_calibration_of_before_goes_on_and_another_does_not_take_its_place(calibrated):
    (calibrated / "recipe.json").write_text(json.dumps(ASKED))
    with pytest.raises(InputError, match="by an earlier version, which kept no list"):
        open_directory(calibrated, OTHER, force=True)
    assert there(calibrated) == {*MINE, *THEIRS, "recipe.json"}
    assert open_directory(calibrated, ASKED, force=True) is True
    assert {*MINE, "runs.jsonl", "recordings/0123456789abcdef.h5"} <= there(calibrated)
    assert not {"report.html", "calibration.json", "policy.toml"} & there(calibrated)


class Killed(BaseException):
    """In the place of a SIGKILL."""


def test_a_kill_at_any_change_leaves_a_directory_that_goes_on(calibrated, monkeypatch, tmp_path):
    """At every removal, write and rename of a forced rerun; then the plain command goes on, and nothing of the user's is lost."""
    for asked in (ASKED, OTHER):
        stops = 0
        while True:
            directory = tmp_path / f"copy-{len(asked['call'])}-{asked['call']['steps']}-{stops}"
            shutil.copytree(calibrated, directory)
            left = stops

            def stop(*_):
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1

            with monkeypatch.context() as patch:
                patch.setattr(writing, "point", stop)
                try:
                    open_directory(directory, asked, force=True)
                except Killed:
                    pass
                else:
                    break
            assert not ((directory / "report.html").exists() and not (directory / "calibration.json").exists())
            open_directory(directory, asked, force=True)
            assert set(MINE) <= there(directory)
            stops += 1
        assert stops > 5


def test_a_page_that_a_stop_left_out_is_known(calibrated):
    source = Path(__file__).parents[3] / "reports" / "calibrate-demo" / "steps-50" / "calibration.json"
    shutil.copy(source, calibrated)
    found = json.loads(source.read_text())["target"]
    target = Target(found["kind"], found["value"])
    assert not lacks_its_page(calibrated, target)
    (calibrated / "report.html").unlink()
    assert lacks_its_page(calibrated, target)
    assert not lacks_its_page(calibrated, Target("compute", found["value"] + 0.1))
