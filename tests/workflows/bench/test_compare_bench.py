"""The executor's bench on the smallest size: that its figures are of what they say, not how fast this machine is."""

import json
import time

import pytest
import torch
from click.testing import CliRunner

from janoscope.cli.bench import bench_execute as command
from janoscope.errors import InputError
from janoscope.workflows.bench import execute as bench_module
from janoscope.workflows.bench.execute import SIZES, ExecuteBench, ShareTiming, bench_execute


@pytest.fixture(scope="module")
def bench():
    return bench_execute("tiny", repeats=1)


def test_flops_of_partial_calls_follow_the_formula_of_a_block(bench):
    """Two blocks of width 256: q (24 D^2 + 4 S D) with q computed tokens and text, S all; the rest is small."""
    width, text, tokens, layers = 256, 32, 256, 2
    for share in bench.shares:
        assert share.tokens == round(share.share * tokens)
        blocks = [layers * q * (24 * width**2 + 4 * (tokens + text) * width) for q in (tokens + text, share.tokens + text)]
        assert share.flops - bench.plain_flops == pytest.approx(blocks[1] - blocks[0], rel=0.03)


def test_the_cache_holds_keys_and_values_of_every_token_once(bench):
    assert bench.cache_bytes == 2 * 2 * (256 + 32) * 256 * 4


def test_efficiency_is_speedup_over_what_the_flops_promise_and_misses_are_told():
    share = ShareTiming(0.5, 128, 0.5, 100, speedup=1.8, flop_speedup=2.0)
    assert share.efficiency == 0.9
    size = SIZES["tiny"]
    slow = ExecuteBench(size, "cpu", 1, torch.__version__, 1, 1.0, 200, 1.05, (share,), 0, None)
    assert len(slow.faults) == 2
    good = ExecuteBench(size, "cpu", 1, torch.__version__, 1, 1.0, 200, 1.0, (), 0, None)
    assert good.faults == []


def test_the_command_writes_its_figures(tmp_path):
    result = CliRunner().invoke(
        command, ["--size", "tiny", "--repeats", "1", "-o", str(tmp_path), "--json"], catch_exceptions=False
    )
    assert result.exit_code == 0
    data = json.loads((tmp_path / "execute-tiny.json").read_text())
    assert data["schema"] == "janoscope-bench-execute/1"
    assert [share["share"] for share in data["shares"]] == [0.25, 0.5, 0.75]
    assert data["clock"] == "wall"
    with pytest.raises(InputError, match="legal: tiny, flux-like"):
        bench_execute("huge")


def test_processor_time_leaves_out_what_others_took(monkeypatch):
    """Clocks of our own, so that no machine is too slow for it: each call costs the process 1 s and others 4 s more."""
    assert {"wall": time.perf_counter, "cpu": time.process_time} == bench_module.CLOCKS
    honest, passed = bench_module._Bench._call, {"wall": 0.0, "cpu": 0.0}
    for name in passed:
        monkeypatch.setitem(bench_module.CLOCKS, name, lambda name=name: passed[name])

    def slow(self, mode, rows=None):
        passed["cpu"] += 1
        passed["wall"] += 5
        return honest(self, mode, rows)

    monkeypatch.setattr(bench_module._Bench, "_call", slow)
    cpu, wall = (bench_execute("tiny", shares=(0.5,), repeats=1, clock=clock, device="cpu") for clock in ("cpu", "wall"))
    assert (cpu.plain_s, wall.plain_s) == (1, 5)
    assert (cpu.clock, cpu.to_json()["clock"]) == ("cpu", "cpu")
    with pytest.raises(InputError, match="legal: wall, cpu"):
        bench_execute("tiny", clock="sun")
