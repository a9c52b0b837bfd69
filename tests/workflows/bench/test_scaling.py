"""Scaling: arithmetic that can be followed by hand, measurements that run, and a docs page that is their output."""

import json
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from janoscope.workflows.bench.cluster_cost import (
    Assumptions,
    Measured,
    describe_scaling,
    generation_flops,
    recording_bytes,
    scale_to,
)
from janoscope.workflows.bench.scale import SMALL, bench_scale

ROOT = Path(__file__).parents[3]
WAN_14B, TOKENS, STEPS = Assumptions().model, 75600, 50
MEASURED = Measured(
    1000,
    merge_cpu_s=2.0,
    write_cpu_s_a_gb=1.0,
    read_cpu_s_a_gb=1.0,
    reduce_cpu_s_a_gb=40.0,
    sort_cpu_s_a_million_tokens=0.1,
    score_cpu_s=1e-4,
    maps=105,
)


def test_sizes_and_flops_are_those_that_can_be_counted_by_hand():
    # 64 values a token: x_t in float32, and three branches in bfloat16
    assert recording_bytes(WAN_14B) == STEPS * TOKENS * 64 * (4 + 3 * 2)
    width, feed, text = 5120, 13824, 512
    self_attention = TOKENS * (8 * width**2 + 4 * width * feed) + 4 * TOKENS**2 * width
    cross = TOKENS * (4 * width**2 + 4 * text * width) + 4 * text * width**2
    assert generation_flops(WAN_14B) == pytest.approx(2 * STEPS * 40 * (self_attention + cross))


def test_eight_times_the_gpus_take_an_eighth_of_the_time_at_the_same_cost_while_gpus_are_the_bound():
    small, large = (scale_to(gpus, Assumptions(), MEASURED) for gpus in (8, 64))
    by_name = {stage.name: (stage, other) for stage, other in zip(small.stages, large.stages, strict=True)}
    for name in ("record", "validate"):
        one, other = by_name[name]
        assert one.bound == other.bound == "GPUs"
        assert one.wall_s == pytest.approx(8 * other.wall_s)
        assert one.gpu_s == other.gpu_s
    assert small.bottleneck.name == "validate"
    assert small.usd == pytest.approx(2.5 * sum(stage.gpu_s for stage in small.stages) / 3600)
    merge, _ = by_name["merge"]
    assert merge.wall_s == 2.0
    reduce, less = by_name["reduce"]  # 400 recordings of 2.4192 GB, 64 cores; then 512, faster than 2 GB/s
    assert (reduce.bound, less.bound) == ("cores", "the file system")
    assert reduce.wall_s == pytest.approx(400 * 2.4192 * 40 / 64)
    assert less.wall_s == pytest.approx(400 * 2.4192 / 2)
    search, same = by_name["search"]
    assert search.wall_s == same.wall_s == pytest.approx(400 * (105 * 0.0756 * 0.1 + 3000 * 1e-4))


def test_a_slow_file_system_becomes_the_bound():
    slow = replace(Assumptions(), shared_gb_s=0.005)
    assert {scale.stages[0].bound for scale in (scale_to(8, slow, MEASURED), scale_to(64, slow, MEASURED))} == {"the file system"}
    assert scale_to(64, slow, MEASURED).stages[0].wall_s == scale_to(8, slow, MEASURED).stages[0].wall_s


def test_the_bench_measures_and_prints(janoscope, tmp_path):
    result = bench_scale(4, SMALL, steps=12, repeats=1, scratch=tmp_path, say=lambda text: None)
    measured = Measured.from_json(result)
    assert measured.manifests == 4
    assert min(astuple(measured)) > 0
    assert list(tmp_path.iterdir()) == []
    said = janoscope("bench", "scale", "--small", "-q", "--gpus", 16, "-o", tmp_path / "out")
    assert said.code == 0
    assert "| 16 |" in said.out
    assert json.loads((tmp_path / "out" / "scale.json").read_text())["manifests"] == 10


def test_the_page_is_what_the_committed_measurements_give():
    measured = Measured.from_json(json.loads((ROOT / "reports" / "performance" / "scale.json").read_text()))
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert describe_scaling(measured) in page
    assert describe_scaling(replace(measured, reduce_cpu_s_a_gb=900.0)) not in page
