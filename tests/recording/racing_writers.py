"""Run as a process by test_recording_two_writers: two forked processes a round open one path within 3 ms. No torch.

Usage: racing_writers.py FOLDER ROUNDS SEED [unlocked]; prints JSON counts. "unlocked" takes the lock away, the control.
"""

import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from janoscope.errors import InputError, JanoscopeError
from janoscope.grid import TokenGrid
from janoscope.recording import Recorder, open_recording
from janoscope.recording.writing import destination

GRID = TokenGrid(4, (1, 16, 16), (1, 1, 1))
STEPS = 3


def record(path: Path, writer: int, force: bool) -> int:
    """0 recorded, 3 refused."""
    maps = np.full((GRID.count, 4), writer, np.float32)
    run = {"run": {"prompt": f"writer {writer}"}}
    try:
        recorder = Recorder(path, grid=GRID, prediction_type="flow", planned_steps=STEPS, provenance=run, force=force)
    except InputError as error:
        refused = "is being written by another recorder" in str(error) or "exists and is kept" in str(error)
        return 3 if refused else 4
    with recorder:
        for step in range(STEPS):
            recorder.put("sample", maps)
            recorder.put("model_output", maps)
            recorder.commit(timestep=step, alpha=0.5, sigma=0.5)
    return 5 if recorder.failure else 0


def child(path: Path, writer: int, delay_s: float, force: bool) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 9
    try:
        time.sleep(delay_s)
        code = record(path, writer, force)
    finally:
        os._exit(code)


def fault(path: Path) -> str | None:
    """What is wrong with what two writers left."""
    if left := [entry.name for entry in path.parent.iterdir() if entry != path]:
        return f"left {left}"
    try:
        with open_recording(path) as recording:
            writer = int(recording.map("sample", 0)[0, 0])
            values = {float(value) for name in recording.signals for value in np.unique(recording.read(name))}
            if values != {writer} or recording.provenance["run"]["prompt"] != f"writer {writer}" or recording.steps != STEPS:
                return "mixed"
            return "verify" if recording.verify() else None
    except JanoscopeError as error:
        return f"unsound: {error}"


def main(folder: Path, rounds: int, seed: int, locked: bool) -> None:
    dice, counts = random.Random(seed), Counter()
    if not locked:
        destination.fcntl.flock = lambda *_: None
        destination.secrets.token_hex = lambda _: "00" * 8  # as it was: one hidden name for all
        destination._remove_left_over = lambda _: None
    for turn in range(rounds):
        path = folder / f"{turn}" / "run.h5"
        path.parent.mkdir()
        pids = [child(path, writer, dice.uniform(0, 0.003), bool(turn % 2)) for writer in (0, 1)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        counts["recorded"] += codes.count(0)
        counts["refused"] += codes.count(3)
        counts["neither"] += 0 not in codes
        counts["other endings"] += len(set(codes) - {0, 3})
        if found := fault(path):
            counts["unsound"] += 1
            print(turn, codes, found, file=sys.stderr)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "unlocked" not in sys.argv)
