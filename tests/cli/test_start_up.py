"""Which heavy libraries a command loads: those that it works with, as each costs up to seconds. Modules are read, no clock."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from janoscope.grid import TokenGrid
from janoscope.plan import Fingerprint, Policy, make_plan
from janoscope.recording import Recorder

HEAVY = {"torch", "numpy", "scipy", "h5py", "matplotlib", "diffusers", "transformers", "skimage", "PIL", "optuna", "pyarrow"}
ALLOWED = {
    ("--version",): set(),
    ("--help",): set(),
    ("record", "--help"): set(),
    ("analyze", "--help"): set(),
    ("plan", "show", "plan.json"): {"numpy"},
    ("analyze", "run.h5", "-q", "-f", "--policy", "p.toml"): {"numpy", "h5py", "scipy", "matplotlib", "PIL"},
    ("inspect", "run.h5"): {"numpy", "h5py"},
    ("verify", "run.h5"): {"numpy", "h5py"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A plan and a recording."""
    place, grid = tmp_path_factory.mktemp("start"), TokenGrid(2, (1, 4, 4), (1, 1, 1))
    table = {"name": "p", "warmup": 2, "cooldown": 1, "tile": [1, 2, 2], "quantiles": {"static": 0.3, "moderate": 0.6}}
    policy = Policy.from_table(table | {"intervals": {"static": 4, "moderate": 2}}, "test")
    print_ = Fingerprint("demo", {"class": "T", "sha256": "ab"}, grid, 8, {"class": "S"}, {"scale": 1.0}, "a cat", 0)
    (place / "plan.json").write_text(make_plan(policy, np.arange(4.0).reshape(1, 2, 2), print_).to_text())
    (place / "p.toml").write_text(
        'name = "p"\nwarmup = 2\ncooldown = 1\ntile = [1, 2, 2]\n[quantiles]\nstatic = 0.3\nmoderate = 0.6\n'
        "[intervals]\nstatic = 4\nmoderate = 2\n"
    )
    values = np.random.default_rng(0).standard_normal((4, 16, 2)).astype(np.float32)
    with Recorder(place / "run.h5", grid=grid, prediction_type="flow", planned_steps=4) as recorder:
        for step in range(4):
            recorder.put("sample", values[step])
            recorder.put("model_output", values[step])
            recorder.commit(timestep=1000 - 250 * step, alpha=step / 4, sigma=1 - step / 4)
    return place


def loaded(folder, words, before=""):
    program = f"""
import atexit, json, sys
{before}
atexit.register(lambda: print(json.dumps(sorted({HEAVY!r} & set(sys.modules)))))
sys.argv = ["janoscope", *{list(words)!r}]
from janoscope.cli import main
main()
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("words", ALLOWED, ids=" ".join)
def test_a_command_loads_no_library_that_it_does_not_work_with(words, folder):
    assert loaded(folder, words) - ALLOWED[words] == set()


def test_control_a_library_that_is_loaded_is_seen(folder):
    assert loaded(folder, ("--version",), before="import scipy") >= {"scipy"}
