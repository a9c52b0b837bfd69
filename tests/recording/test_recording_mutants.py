"""Whatever the structure of a file says: an answer or one line, in bounded time and memory.

The mutants run in a process of their own, so that a crash inside HDF5 is a failed test and not the end of the run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_recording_flips import make

MUTATE = Path(__file__).with_name("mutated_structure.py")


@pytest.mark.parametrize("mutants", [150, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(4 * 3600)])])
def test_a_mutated_structure_gives_an_answer_or_one_line_in_bounded_memory(tmp_path, mutants):
    pytest.importorskip("h5netcdf", reason="the extra janoscope[xarray] is not installed")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        str(MUTATE),
        str(tmp_path),
        str(mutants),
        "7",
        str(make(tmp_path / "run.h5", store_dtype="bfloat16")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout)
    assert counts["peak_mib"] < 512
    assert {name: counts.get(name, 0) for name in ("crash", "hang", "two lines")} == {"crash": 0, "hang": 0, "two lines": 0}, (
        done.stderr
    )
    assert counts["refused"] + counts["verify"] + counts["sound"] == mutants
    assert min(counts["refused"], counts["verify"], counts["sound"]) > 0, "control: all three kinds of mutants came"
