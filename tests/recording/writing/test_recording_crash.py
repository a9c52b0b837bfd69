"""Kill, full disk, size limits: the file opens, acknowledged steps are bit-exact, and the generation lives."""

import errno
import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from replay_writer import BRANCHES, array

from janoscope.errors import JanoscopeError
from janoscope.grid import TokenGrid
from janoscope.recording import Recorder, open_recording
from janoscope.recording.encoding import cast, summarize
from janoscope.recording.layout import SECTIONS, SignalSpec
from janoscope.recording.writing.empty_file import Header, make_image
from janoscope.recording.writing.recording_file import RecordingFile, StepRow

WRITER = Path(__file__).with_name("replay_writer.py")
KILLS = 20


def start(path: Path, steps: int, limit: int = 0, handling: str = "ignore", end: str = "close") -> subprocess.Popen[str]:
    command = [sys.executable, str(WRITER), str(path), str(steps), str(limit), handling, end]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def check_steps(path: Path, acknowledged: int) -> int:
    """Every step that the file counts is bit-exact, and none that was acknowledged is lost."""
    with open_recording(path, partial=True) as recording:
        assert recording.steps >= acknowledged
        for step in range(recording.steps):
            np.testing.assert_array_equal(recording.map("sample", step), array("sample", step, "guided"))
            for branch in BRANCHES:
                np.testing.assert_array_equal(
                    recording.map("model_output", step, branch=branch), array("model_output", step, branch)
                )
        assert recording.verify() == []
        return recording.steps


def test_kill_9_at_any_moment_loses_no_acknowledged_step(tmp_path):
    moments = random.Random(1)
    for kill in range(KILLS):
        path = tmp_path / f"run{kill}.h5"
        writer = start(path, steps=400, end="stay")
        assert writer.stdout is not None
        partial = path.with_name(f"run{kill}.partial.h5")
        while not partial.exists() and writer.poll() is None:
            time.sleep(0.0005)
        after = moments.randrange(1, 60) if kill % 4 else 0  # every fourth at the file's first moment
        lines = [writer.stdout.readline() for _ in range(after)]
        if after:
            time.sleep(moments.uniform(0, 0.005))  # somewhere in the steps that follow
        writer.kill()
        lines += writer.stdout.read().split("\n")[:-1]
        writer.communicate()
        acknowledged = int(lines[-1]) if lines else 0
        assert acknowledged >= after
        assert partial.exists()
        assert not path.exists(), "the final name is for complete recordings"
        check_steps(partial, acknowledged)


def test_control_an_undisturbed_writer_gives_the_final_name_only(tmp_path):
    out, err = start(tmp_path / "run.h5", steps=12).communicate(timeout=500)
    assert "generation done: steps=12 failure=None warnings=0" in out, err
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]
    assert check_steps(tmp_path / "run.h5", 12) == 12


def test_a_file_being_written_can_be_read(tmp_path):
    writer = start(tmp_path / "run.h5", steps=400, end="stay")
    assert writer.stdout is not None
    try:
        for _ in range(5):
            acknowledged = int(writer.stdout.readline())
            check_steps(tmp_path / "run.partial.h5", acknowledged)
    finally:
        writer.kill()
        writer.communicate()


class WriteLog(io.BytesIO):
    """Stands for the disk and notes every write, to stop after any of them."""

    def __init__(self, image: bytes) -> None:
        super().__init__(image)
        self.log: list[tuple[int, bytes]] = []

    def write(self, data) -> int:
        self.log.append((self.tell(), bytes(data)))
        return super().write(data)

    def truncate(self, size=None) -> int:
        assert size is None or size >= len(self.getvalue()), "the file shrank while it was written"
        return super().truncate(size)


@pytest.mark.parametrize("counter_first", [False, True])
def test_every_write_may_be_the_last_one(tmp_path, counter_first):
    """Stops after every single write, and in its middle; the control acknowledges a step before its data and must be caught."""
    steps, specs = 7, (SignalSpec("model_output", 6, 2, "float32", "float32"), SignalSpec("sample", 6, 2, "float32", "float32"))
    grid = TokenGrid(2, (1, 2, 3), (1, 1, 1))
    header = Header(grid, "flow", BRANCHES, 1, steps, specs, dict.fromkeys(SECTIONS, "{}"), room=steps)
    data = np.random.default_rng(0).standard_normal((steps, 4, 6, 2)).astype(np.float32)  # (step, place, token, channel)
    make_image(header).save(tmp_path / "empty.h5")
    image = (tmp_path / "empty.h5").read_bytes()
    disk = WriteLog(image)
    file = RecordingFile(h5py.File(disk, "r+", rdcc_nbytes=0), header, Path("unused"))
    acknowledged = []
    for step in range(steps):
        file.begin_step(StepRow(1.0, 1.0, 0.0, np.zeros(3), -1))
        if counter_first:
            file.file["steps_done"][()] = step + 1
            file.file.flush()
        for place in range(4):
            spec, values = specs[1] if place == 3 else specs[0], data[step, place]
            file.write_map(spec, 0, place % 3, values)
            file.note_map(spec, 0, place % 3, summarize(values, "float32", values, "float32"))
        file.end_step()
        acknowledged.append(len(disk.log))

    faults, points = [], 0
    content = bytearray(image)
    for done, (offset, written) in enumerate(disk.log):
        for part in {len(written) // 2, len(written)}:
            content[offset : offset + part] = written[:part]
            points += 1
            with h5py.File(io.BytesIO(bytes(content)), "r") as stopped:
                count = int(stopped["steps_done"][()])
                stored = np.concatenate([stopped["model_output"][:count, 0], stopped["sample"][:count]], axis=1)
                if not np.array_equal(stored, data[:count]):
                    faults.append(done)
                if part == len(written):
                    assert count >= sum(mark <= done + 1 for mark in acknowledged), "an acknowledged step was lost"
    assert points > 100
    assert bool(faults) == counter_first, faults


def test_the_checksums_fit_after_every_single_write(tmp_path):
    """From the first step to the mark of completeness; a late field of the provenance and a changed dtype among it."""
    steps, specs = 5, (SignalSpec("model_output", 6, 2, "float32", "float16"), SignalSpec("sample", 6, 2, "float32", "float32"))
    grid = TokenGrid(2, (1, 2, 3), (1, 1, 1))
    header = Header(grid, "flow", BRANCHES, 1, None, specs, dict.fromkeys(SECTIONS, "{}"), marks_skipped=True, room=8)
    make_image(header).save(tmp_path / "empty.h5")
    content = bytearray((tmp_path / "empty.h5").read_bytes())
    disk, dice, target = WriteLog(bytes(content)), np.random.default_rng(0), tmp_path / "stopped.h5"
    file = RecordingFile(h5py.File(disk, "r+", rdcc_nbytes=0), header, Path("unused"))
    losses = {spec.name: 0.0 for spec in specs}
    for step in range(steps):
        file.begin_step(StepRow(1.0, 0.5, 0.5, np.zeros(3), -1))
        for place in (0, 1, 3) if step == 2 else range(4):  # a branch is absent at step 2
            spec, values = specs[place == 3], dice.standard_normal((6, 2), np.float32)
            data = cast(values, "float32", spec.stored)
            checked = summarize(values, "float32", data, spec.stored)
            losses[spec.name] = max(losses[spec.name], checked.storage_loss)
            file.write_map(spec, 0, place % 3, data)
            file.note_map(spec, 0, place % 3, checked)
        file.end_step()
    file.set_provenance("run", json.dumps({"prompt": "a cat"}))
    for spec in specs:
        file.set_loss(spec, losses[spec.name])
    file.trim()
    file.set_complete()
    file.close()

    endings = []
    for offset, written in disk.log:
        content.extend(bytes(max(0, offset + len(written) - len(content))))
        content[offset : offset + len(written)] = written
        target.write_bytes(content)
        with open_recording(target, partial=True) as recording:
            assert recording.verify() == []
            endings.append((recording.complete, recording.end_reason, recording.steps))
    assert [steps for _, _, steps in endings] == sorted(steps for _, _, steps in endings)
    assert list(dict.fromkeys(ending[:2] for ending in endings)) == [
        (False, "recording"),
        (True, "recording"),
        (True, "complete"),
    ]
    assert endings[-1] == (True, "complete", steps)


@pytest.mark.parametrize("handling", ["ignore", "default"])
@pytest.mark.parametrize(("limit", "kept"), [(150_000, range(3, 12)), (4_000, range(1))])
def test_a_file_size_limit_ends_the_recording_not_the_generation(tmp_path, handling, limit, kept):
    """Also where the host program left SIGXFSZ at its deadly default: the writer thread blocks it."""
    writer = start(tmp_path / "run.h5", steps=12, limit=limit, handling=handling)
    out, err = writer.communicate(timeout=500)
    assert writer.returncode == 0, err
    assert err == ""
    line = out.splitlines()[-1]
    assert "failure=[Errno 27] File too large" in line
    assert line.endswith("warnings=1")
    done = int(line.partition("steps=")[2].split()[0])
    assert done in kept
    assert not (tmp_path / "run.h5").exists()
    if done:
        assert check_steps(tmp_path / "run.partial.h5", done) == done
        with open_recording(tmp_path / "run.partial.h5", partial=True) as recording:
            assert recording.end_reason == "failed: [Errno 27] File too large"
    else:
        assert list(tmp_path.iterdir()) == []


def record_watched(path: Path, put_whole_step, steps: int, **options) -> Recorder:
    """A generation of `steps` steps that waits for each to be on file."""
    with Recorder(path, prediction_type="flow", **options) as recorder:
        for step in range(steps):
            put_whole_step(recorder, step)
            recorder.commit(timestep=step, alpha=0.5, sigma=0.5)
            recorder.flush()
    return recorder


def test_a_full_disk_disables_recording_with_one_warning(tmp_path, grid, put_whole_step, monkeypatch):
    original = RecordingFile.write_map

    def full_at_step_3(self, *arguments):
        if self.steps_done == 3:
            raise OSError(errno.ENOSPC, "buf = 0x7f, file descriptor = 3")
        original(self, *arguments)

    monkeypatch.setattr(RecordingFile, "write_map", full_at_step_3)
    with pytest.warns(RuntimeWarning) as caught:
        recorder = record_watched(tmp_path / "run.h5", put_whole_step, 8, grid=grid)
    assert [str(w.message) for w in caught] == [
        "recording of run.h5 stopped: [Errno 28] No space left on device. The generation goes on; 3 steps are kept."
    ]
    assert (recorder.steps_done, recorder.failure) == (3, "[Errno 28] No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial.h5"]
    with open_recording(tmp_path / "run.partial.h5", partial=True) as recording:
        assert (recording.steps, recording.end_reason) == (3, "failed: [Errno 28] No space left on device")
        assert recording.verify() == []


def test_a_disk_full_before_the_file_is_made_leaves_nothing(tmp_path, grid, write_recording, monkeypatch):
    def full(self, path):
        path.write_bytes(b"part")
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("janoscope.recording.writing.sparse_image.SparseImage.save", full)
    with pytest.warns(RuntimeWarning, match="No space left on device. The generation goes on; 0 steps are kept"):
        write_recording(tmp_path / "run.h5")
    assert list(tmp_path.iterdir()) == []


def test_growth_claims_its_disk_first(tmp_path, grid, put_whole_step, monkeypatch):
    """HDF5 must not be the one to find the disk full when it makes room for steps that were not foreseen."""

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.warns(RuntimeWarning, match="2 steps are kept"):
        record_watched(tmp_path / "run.h5", put_whole_step, 4, grid=grid, planned_steps=2)
    with open_recording(tmp_path / "run.partial.h5", partial=True) as recording:
        assert recording.steps == 2
        assert recording.verify() == []


def test_a_final_name_that_appears_meanwhile_is_kept(tmp_path, grid, put_whole_step):
    recorder = Recorder(tmp_path / "run.h5", grid=grid, prediction_type="x")
    put_whole_step(recorder, 0)
    recorder.commit(timestep=1, alpha=0.5, sigma=0.5)
    recorder.flush()
    (tmp_path / "run.h5").write_text("somebody's")
    with pytest.warns(RuntimeWarning, match="has appeared meanwhile"):
        recorder.close()
    assert (tmp_path / "run.h5").read_text() == "somebody's"
    with open_recording(tmp_path / "run.partial.h5", partial=True) as recording:
        assert recording.steps == 1


def test_a_recorder_nobody_closed_is_closed_at_exit(tmp_path):
    script = f"""
import numpy as np
from janoscope.grid import TokenGrid
from janoscope.recording import Recorder
recorder = Recorder({str(tmp_path / "run.h5")!r}, grid=TokenGrid(1, (1, 2, 3), (1, 1, 1)), prediction_type="flow")
for name in ("sample", "model_output"):
    recorder.put(name, np.zeros((6, 1), np.float32))
recorder.commit(timestep=1, alpha=1, sigma=0)
"""
    subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=500, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    with pytest.raises(JanoscopeError, match="the process ended without closing"):
        open_recording(tmp_path / "run.partial.h5")
