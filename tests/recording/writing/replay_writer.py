"""Run as a process by the crash tests: replays arrays into a recording, printing every step that was acknowledged. No torch.

With "stay" it waits after its last step, before it closes, to be killed.
"""

import resource
import signal
import sys
import warnings
from pathlib import Path

import numpy as np

from janoscope.grid import TokenGrid
from janoscope.recording import Recorder

GRID = TokenGrid(channels=3, cells=(1, 20, 14), patch=(1, 2, 2))  # 70 tokens of 12 channels
BRANCHES = ("guided", "cond", "uncond")


def array(signal_name: str, step: int, branch: str) -> np.ndarray:
    rng = np.random.default_rng([len(signal_name), step, BRANCHES.index(branch)])
    return rng.standard_normal((GRID.count, GRID.token_channels), dtype=np.float32)


def main(path: str, steps: int, limit: int, default_signal: bool, stay: bool) -> None:
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if default_signal:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        alpha = np.linspace(0, 1, steps)
        recorder = Recorder(
            Path(path), grid=GRID, prediction_type="flow", branches=BRANCHES, alpha=alpha, sigma=1 - alpha, planned_steps=steps
        )
        with recorder:
            for step in range(steps):
                recorder.put("sample", array("sample", step, "guided"))
                for branch in BRANCHES:
                    recorder.put("model_output", array("model_output", step, branch), branch=branch)
                recorder.commit(timestep=step)
                recorder.flush()
                print(recorder.steps_done, flush=True)
            if stay:
                signal.pause()
    print(f"generation done: steps={recorder.steps_done} failure={recorder.failure} warnings={len(caught)}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "default", sys.argv[5] == "stay")
