"""One path has one writer, whatever starts at the same time; the other gets one line."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from janoscope.errors import InputError
from janoscope.recording import Recorder, open_recording
from janoscope.recording.writing.destination import Claim

RACE = Path(__file__).with_name("racing_writers.py")


def race(folder: Path, rounds: int, *more: str) -> dict[str, int]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(RACE), str(folder), str(rounds), "3", *more]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    print(ran.stdout, ran.stderr)
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("rounds", [40, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_of_two_processes_on_one_path_one_records_and_one_is_refused(tmp_path, rounds):
    counts = race(tmp_path, rounds)
    assert (counts["neither"], counts["other endings"], counts.get("unsound", 0)) == (0, 0, 0)
    assert counts["recorded"] >= rounds
    assert counts["recorded"] + counts["refused"] == 2 * rounds


@pytest.mark.slow  # whether a race shows itself is chance, so many rounds
@pytest.mark.timeout(3600)
def test_control_without_the_lock_two_writers_spoil_each_other(tmp_path):
    counts = race(tmp_path, 200, "unlocked")
    assert counts["neither"] + counts["other endings"] + counts.get("unsound", 0) > 0


def open_recorder(path, grid, **options):
    return Recorder(path, grid=grid, prediction_type="flow", **options)


def record_steps(recorder, put_whole_step, steps=2):
    for step in range(steps):
        put_whole_step(recorder, step)
        recorder.commit(timestep=step, alpha=0.5, sigma=0.5)
    recorder.flush()


def test_of_two_recorders_in_one_process_the_later_is_refused_until_the_first_has_ended(tmp_path, grid, put_whole_step):
    path, refusal = tmp_path / "run.h5", r"run\.h5 is being written by another recorder; wait for it or choose another name\."
    with open_recorder(path, grid) as first:
        with pytest.raises(InputError, match=refusal):  # before a step
            open_recorder(path, grid)
        record_steps(first, put_whole_step)
        assert [entry.name for entry in tmp_path.iterdir()] == ["run.partial.h5"]
        for force in (False, True):
            with pytest.raises(InputError, match=refusal):
                open_recorder(path, grid, force=force)
        with open_recorder(tmp_path / "other.h5", grid) as other:
            record_steps(other, put_whole_step)
    with open_recording(path) as recording:
        assert (recording.steps, recording.verify()) == (2, [])
    with pytest.raises(InputError, match="exists and is kept"):
        open_recorder(path, grid)
    with open_recorder(path, grid, force=True) as again:
        record_steps(again, put_whole_step, 3)
    with open_recording(path) as recording:
        assert recording.steps == 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other.h5", "run.h5"]


def test_a_recorder_that_recorded_nothing_leaves_no_lock(tmp_path, grid):
    with pytest.warns(RuntimeWarning, match="no step was committed"), open_recorder(tmp_path / "run.h5", grid):
        assert [entry.name for entry in tmp_path.iterdir()] == [".run.lock"]
    assert list(tmp_path.iterdir()) == []


def test_what_dead_writers_left_is_cleared_and_nothing_else(tmp_path, grid, put_whole_step):
    left = [".run.lock", ".run.making.h5", ".run.0123456789abcdef.making.h5"]
    others = [".run.1.making.h5", ".run.a.0123456789abcdef.making.h5", ".walk.making.h5", "xrun.making.h5"]
    for name in left + others:
        (tmp_path / name).write_bytes(b"half")
    with open_recorder(tmp_path / "run.h5", grid) as recorder:
        record_steps(recorder, put_whole_step)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*others, "run.h5"])


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path, grid):
    victim = tmp_path / "victim"
    victim.write_text("somebody's")
    (tmp_path / ".run.lock").symlink_to(victim)
    with pytest.raises(InputError, match=r"\.run\.lock: Too many levels of symbolic links; run\.h5 needs it as a lock"):
        open_recorder(tmp_path / "run.h5", grid)
    assert victim.read_text() == "somebody's"


def test_a_lock_that_its_owner_takes_away_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """Between opening and locking the file the owner ended and removed it: a lock on it would keep nobody out."""
    path, flock, owner = tmp_path / "run.h5", fcntl.flock, []
    owner.append(Claim(path, False))

    def late(handle, operation):
        if owner:
            owner.pop().release()
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    claim = Claim(path, False)
    monkeypatch.undo()
    with pytest.raises(InputError, match="another recorder"):
        Claim(path, False)
    claim.release()
    claim.release()
    Claim(path, False).release()


def test_a_filesystem_without_locks_keeps_the_names_apart_and_no_recording_takes_another_s_name(
    tmp_path, grid, put_whole_step, monkeypatch
):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    path = tmp_path / "run.h5"
    first, second = open_recorder(path, grid), open_recorder(path, grid)
    assert first._claim.making_path() != second._claim.making_path()
    record_steps(first, put_whole_step)
    record_steps(second, put_whole_step, 3)
    with pytest.warns(RuntimeWarning, match="was replaced by another recorder; this recording is lost"):
        first.close()
    second.close()
    with open_recording(path) as recording:
        assert (recording.steps, recording.verify()) == (3, [])
        np.testing.assert_array_equal(recording.timestep, [0, 1, 2])


def test_a_reader_keeps_no_recorder_out(tmp_path, grid, put_whole_step, write_recording):
    with open_recorder(tmp_path / "run.h5", grid, planned_steps=9) as recorder:
        record_steps(recorder, put_whole_step)
        recorder.close("interrupted")
    with open_recording(recorder.partial_path, partial=True), open_recorder(tmp_path / "run.h5", grid) as again:
        assert again.notice.startswith("run.partial.h5 is left from a recording that did not finish")
        record_steps(again, put_whole_step)
    assert (tmp_path / "run.h5").exists()
