"""`bench record` runs and judges itself; memory stays bounded at Wan size."""

import json
import os
import subprocess
import sys

import pytest

from janoscope.workflows.bench import record as bench


def test_a_small_bench_gives_every_ratio_and_its_limit(janoscope, tmp_path):
    said = janoscope("bench", "record", "--small", "--json", "-q", "-o", tmp_path / "out", "--scratch", tmp_path)
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert result == json.loads((tmp_path / "out" / "record.json").read_text())
    assert set(result["ratios"]) == set(result["limits"]) == set(result["within"]) == set(bench.LIMITS)
    assert all(isinstance(value, float) for value in result["ratios"].values())
    assert "| one token's curve against reading all |" in (tmp_path / "out" / "record.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "the scratch recordings are removed"


def test_strict_judges_by_the_limits(janoscope, tmp_path, monkeypatch):
    arguments = ("bench", "record", "--small", "--strict", "-q", "--scratch", tmp_path)
    generous = {name: (1e9 if not least else 0.0, least) for name, (_, least) in bench.LIMITS.items()}
    monkeypatch.setattr(bench, "LIMITS", generous)
    assert janoscope(*arguments).code == 0
    monkeypatch.setattr(bench, "LIMITS", generous | {"write_ratio": (1e9, True)})
    said = janoscope(*arguments)
    assert said.code == 1
    assert "missed" in said.out


def test_ratios_are_of_the_fastest_and_of_neighbours():
    assert bench._ratio([3.0, 2.0, 8.0], [2.0, 1.0, 2.0], less=1.0) == {"fastest": 1.0, "median": 1.0, "least": 0.5, "most": 3.0}


WAN = """
import sys, torch
from pathlib import Path
from janoscope.capture import Capture
from janoscope.grid import TokenGrid
from janoscope.workflows.record.sink import RecordingSink
from janoscope.workflows.bench.simulated import SimulatedPipeline, simulated_probe

def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

torch.set_num_threads(1)
pipeline = SimulatedPipeline(TokenGrid(16, (21, 60, 104), (1, 2, 2)))  # 32,760 tokens of 64 channels, float32
pipeline(2)
before = peak()
if sys.argv[1] == "record":
    with Capture(pipeline, simulated_probe(), RecordingSink(Path(sys.argv[2]), {}, force=True)):
        pipeline(int(sys.argv[3]))
else:
    pipeline(int(sys.argv[3]))
print((peak() - before) * 1024)
"""


@pytest.mark.slow  # 600 MiB to disk
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_recording_at_wan_size_adds_at_most_the_queue_and_64_mib(tmp_path):
    """A network that does not sleep gives arrays faster than a disk takes them: the queue fills. The control records nothing."""
    grown = {}
    for kind in ("record", "plain"):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WAN, kind, str(tmp_path / "run.h5"), "18"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        grown[kind] = int(done.stdout)
    mib = 1 << 20
    assert grown["record"] - grown["plain"] <= (256 + 64) * mib, f"{grown['record'] / mib:.0f} MiB"
    assert grown["record"] > 20 * mib, "control: recording is not free of memory"
