"""Broken bytes anywhere: opening, verifying and reading give a JanoscopeError or an answer, nothing else.

The tries run in a process of their own, so that a crash inside HDF5 is a failed test and not the end of the run.
"""

import os
import subprocess
import sys

PROGRAM = """
import faulthandler, pathlib, random, sys, warnings
import numpy as np
from janoscope.errors import JanoscopeError
from janoscope.recording import open_recording
faulthandler.enable()
warnings.simplefilter("ignore")
good = pathlib.Path(sys.argv[1]).read_bytes()
target = pathlib.Path(sys.argv[2])
seed, tries = int(sys.argv[3]), int(sys.argv[4])
dice = random.Random(seed)
opened = refused = 0

def mutate():
    data = bytearray(good)
    kind = dice.randrange(4)
    if kind == 0:
        return bytes(data[: dice.randrange(len(data))])
    if kind == 1:
        at = dice.randrange(len(data))
        data[at : at + 8] = dice.randbytes(8)
        return bytes(data)
    for _ in range(dice.randint(1, 6)):  # mostly where the structure lies
        at = dice.randrange(min(len(data), 30000) if kind == 2 else len(data))
        data[at] ^= 1 << dice.randrange(8)
    return bytes(data)

for at_try in range(tries):
    (target).write_bytes(mutate())
    try:
        with open_recording(target, partial=True) as recording:
            recording.verify()
            repr(recording)
            for name in recording.signals:
                recording.read(name)
                recording.curve(name, 0)
        opened += 1
    except JanoscopeError as error:
        assert "\\n" not in str(error), error
        refused += 1
    except BaseException:
        print("seed", seed, "try", at_try, flush=True)
        raise
print(tries, opened, refused)
"""


def test_broken_bytes_never_give_more_than_one_line(sample_file, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(sample_file), str(tmp_path / "broken.h5"), "20260101", "400"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    tries, opened, refused = map(int, done.stdout.split())
    assert tries == 400
    assert opened > 0, "nothing survived: the file is refused for another reason"
    assert refused > 0, "nothing was refused: the bytes were not broken"
