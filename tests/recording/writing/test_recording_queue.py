"""The queue is bounded in bytes, whatever the disk does."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from janoscope.recording.writing.byte_queue import ByteQueue


def test_a_full_queue_blocks_until_bytes_are_released():
    queue: ByteQueue[str] = ByteQueue(100)
    queue.reserve(60)
    queue.send("first", with_reserved=True)
    entered = threading.Event()

    def second() -> None:
        queue.reserve(60)
        entered.set()

    threading.Thread(target=second, daemon=True).start()
    assert not entered.wait(0.1)
    assert queue.take() == ("first", 60)
    assert not entered.wait(0.1), "taken is not yet written"
    queue.release(60)
    assert entered.wait(60)
    assert queue.peak == 60


def test_a_step_larger_than_the_queue_is_admitted_alone():
    queue: ByteQueue[str] = ByteQueue(100)
    for _ in range(5):
        queue.reserve(60)
    queue.send("large", with_reserved=True)
    assert queue.take() == ("large", 300)


def test_forgotten_bytes_do_not_count():
    queue: ByteQueue[str] = ByteQueue(100)
    queue.reserve(90)
    queue.forget_reserved()
    queue.send("message")
    assert queue.take() == ("message", 0)
    queue.reserve(90)
    assert queue.peak == 90


PROGRAM = """
import sys, threading
import numpy as np
from janoscope.grid import TokenGrid
from janoscope.recording import Recorder, RecorderOptions
from janoscope.recording.writing.byte_queue import ByteQueue
from janoscope.recording.writing.recording_file import RecordingFile
write, reserve = RecordingFile.write_map, ByteQueue.reserve
moves = threading.Event()  # the slowest of disks: it moves only while the queue is full, and when all is handed over
def slow(self, *arguments):
    moves.wait()
    write(self, *arguments)
def watched(self, size):
    if self._in_flight and self._reserved + self._in_flight + size > self.limit:
        moves.set()
    reserve(self, size)
    moves.clear()
RecordingFile.write_map, ByteQueue.reserve = slow, watched
grid = TokenGrid(64, (1, 128, 128), (1, 1, 1))  # 4 MiB a map
latent = np.ones((64, 1, 128, 128), np.float32)
steps = 24
def peak():  # not ru_maxrss, which a process inherits from the larger one that started it
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
base = peak()
options = RecorderOptions(queue_bytes=int(sys.argv[2]))
with Recorder(sys.argv[1], grid=grid, prediction_type="flow", options=options, planned_steps=steps) as recorder:
    for step in range(steps):
        recorder.put("sample", latent)
        recorder.put("model_output", latent)
        recorder.commit(timestep=step, alpha=1, sigma=0)
    moves.set()
print(recorder.queue_peak_bytes, (peak() - base) * 1024, recorder.steps_done)
"""


def run_slow(path, queue_bytes: int) -> tuple[int, int, int]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(queue_bytes)], capture_output=True, text=True, timeout=500, env=environment
    )
    assert done.returncode == 0, done.stderr
    held, grown, steps = map(int, done.stdout.split())
    return held, grown, steps


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_stays_bounded_when_the_disk_is_slow(tmp_path):
    """192 MiB of maps through a queue of 24 MiB; the control lets all of them wait."""
    mib = 1 << 20
    held, grown, steps = run_slow(tmp_path / "bounded.h5", 24 * mib)
    assert steps == 24
    assert held <= 24 * mib
    assert grown < 70 * mib
    held, grown, steps = run_slow(tmp_path / "unbounded.h5", 1024 * mib)
    assert steps == 24
    assert held == 192 * mib
    assert grown > 190 * mib


def test_a_reused_buffer_does_not_change_what_waits(tmp_path, grid, monkeypatch):
    from janoscope.recording import Recorder, open_recording
    from janoscope.recording.writing.recording_file import RecordingFile

    original, overwritten = RecordingFile.write_map, threading.Event()
    monkeypatch.setattr(RecordingFile, "write_map", lambda self, *rest: (overwritten.wait(), original(self, *rest))[1])
    buffer = np.zeros((10, 12), np.float32)
    with Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow") as recorder:
        for step in range(5):
            buffer[:] = step
            recorder.put("sample", buffer)
            recorder.put("model_output", buffer)
            recorder.commit(timestep=step, alpha=1, sigma=0)
        buffer[:] = -1
        overwritten.set()
    with open_recording(tmp_path / "run.h5") as recording:
        np.testing.assert_array_equal(recording.read("sample")[:, 0, 0], [0, 1, 2, 3, 4])
