"""The queue is bounded in bytes, whatever the disk does."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from janoscope.recording.byte_queue import ByteQueue


def test_a_full_queue_blocks_until_bytes_are_released():
    queue: ByteQueue[str] = ByteQueue(100)
    queue.reserve(60)
    queue.send("first", gathered=True)
    entered = threading.Event()

    def second() -> None:
        queue.reserve(60)
        entered.set()

    threading.Thread(target=second, daemon=True).start()
    assert not entered.wait(0.1)
    assert queue.take() == ("first", 60)
    assert not entered.wait(0.1), "taken is not yet written"
    queue.release(60)
    assert entered.wait(2)
    assert queue.peak == 60


def test_a_step_larger_than_the_queue_is_admitted_alone():
    queue: ByteQueue[str] = ByteQueue(100)
    for _ in range(5):
        queue.reserve(60)
    queue.send("large", gathered=True)
    assert queue.take() == ("large", 300)


def test_forgotten_bytes_do_not_count():
    queue: ByteQueue[str] = ByteQueue(100)
    queue.reserve(90)
    queue.forget_gathered()
    queue.send("message")
    assert queue.take() == ("message", 0)
    queue.reserve(90)
    assert queue.peak == 90


PROGRAM = """
import sys, time
import numpy as np
from janoscope.grid import TokenGrid
from janoscope.recording import Recorder
from janoscope.recording.transaction import RecordingFile
original = RecordingFile.write_map
def slow(self, *arguments):
    time.sleep(0.02)
    original(self, *arguments)
RecordingFile.write_map = slow
grid = TokenGrid(64, (1, 128, 128), (1, 1, 1))  # 4 MiB a map
latent = np.ones((64, 1, 128, 128), np.float32)
steps = 24
def peak():  # not ru_maxrss, which a process inherits from the larger one that started it
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
base = peak()
with Recorder(sys.argv[1], grid=grid, prediction_type="flow", queue_bytes=int(sys.argv[2]), planned_steps=steps) as recorder:
    for step in range(steps):
        recorder.put("sample", latent)
        recorder.put("model_output", latent)
        recorder.commit(timestep=step, alpha=1, sigma=0)
print(recorder.queue_peak_bytes, (peak() - base) * 1024, recorder.steps_done)
"""


def run_slow(path, queue_bytes: int) -> tuple[int, int, int]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(queue_bytes)], capture_output=True, text=True, timeout=60, env=environment
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
    assert held > 100 * mib
    assert grown > 100 * mib


def test_a_reused_buffer_does_not_change_what_waits(tmp_path, grid, monkeypatch):
    from janoscope.recording import Recorder, open_recording
    from janoscope.recording.transaction import RecordingFile

    original = RecordingFile.write_map
    monkeypatch.setattr(RecordingFile, "write_map", lambda self, *rest: (time.sleep(0.01), original(self, *rest))[1])
    buffer = np.zeros((10, 12), np.float32)
    with Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow") as recorder:
        for step in range(5):
            buffer[:] = step
            recorder.put("sample", buffer)
            recorder.put("model_output", buffer)
            recorder.commit(timestep=step, alpha=1, sigma=0)
        buffer[:] = -1
    with open_recording(tmp_path / "run.h5") as recording:
        np.testing.assert_array_equal(recording.read("sample")[:, 0, 0], [0, 1, 2, 3, 4])
