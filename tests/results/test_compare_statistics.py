"""Paired differences and equal compute, on numbers that can be checked by hand."""

import json

import numpy as np
import pytest

from janoscope.results.comparison import Comparison, Row, Run
from janoscope.results.images import LEAST_WIDTH, mosaic
from janoscope.results.statistics import at_compute, equal_compute, estimate, front_name, paired, undominated


def runs_of(values):
    return {(f"prompt {index}", 0): value for index, value in enumerate(values)}


def test_an_estimate_is_the_mean_with_an_interval_around_it():
    found = estimate(runs_of([1.0, 2.0, 3.0, 6.0]))
    assert found.value == 3.0
    assert found.low < 3.0 < found.high
    assert found.low >= 1.0
    assert found.high <= 6.0
    assert estimate(runs_of([5.0])).low is None


def test_seeds_of_one_prompt_are_resampled_together():
    """Two prompts that differ and seeds that do not: drawing seeds alone would give a far narrower interval."""
    values = {(prompt, seed): value for prompt, value in (("a", 0.0), ("b", 1.0)) for seed in range(50)}
    found = estimate(values)
    assert (found.low, found.high) == (0.0, 1.0)


def test_differences_are_taken_run_by_run():
    first, second = runs_of([10.0, 20.0, 30.0]), runs_of([9.0, 19.0, 29.0])
    found = paired(first, second)
    assert (found.value, found.low, found.high, found.runs) == (1.0, 1.0, 1.0, 3)
    assert paired(first, {}) is None


@pytest.mark.parametrize(("compute", "expected"), [(0.4, 30.0), (0.5, 35.0), (0.6, 40.0), (0.39, None), (0.61, None)])
def test_a_front_is_read_on_its_lines_and_nowhere_else(compute, expected):
    assert at_compute([(0.6, 40.0), (0.4, 30.0)], compute) == expected
    assert at_compute([(0.4, 30.0)], 0.4) is None


def test_equal_compute_is_taken_run_by_run_at_the_rows_own_compute():
    row = {("a", 0): (0.5, 36.0), ("b", 0): (0.45, 30.0), ("c", 0): (0.2, 20.0)}
    front = [dict.fromkeys(row, (0.4, 30.0)), dict.fromkeys(row, (0.6, 40.0))]
    found = equal_compute(row, front)
    assert found.runs == 2, "the third run's compute lies outside the front"
    assert found.value == pytest.approx(((36 - 35) + (30 - 32.5)) / 2)
    assert equal_compute({("c", 0): (0.2, 20.0)}, front) is None


def test_a_front_holds_what_no_setting_of_the_same_method_beats():
    assert undominated([(0.4, 30.0), (0.5, 29.0), (0.6, 40.0), (0.6, 39.0), None]) == [True, False, True, False, False]
    assert undominated([(0.5, 30.0), (0.5, 30.0)]) == [True, True], "equals do not beat each other"


def test_rows_of_one_front_differ_in_numbers_alone():
    assert front_name("uniform", {"k": "2"}) == front_name("uniform", {"k": "3"}) == "uniform"
    assert front_name("jano", {"intervals": "4/2/1"}) == "jano"
    assert front_name("uniform", {"k": "2", "output": "forecast"}) == "uniform:output=forecast"


def run(prompt, compute, psnr):
    costs = {"wall_s": 1.0, "cpu_s": 1.0, "compute": compute, "speedup": 1.5, "cache_bytes": 0, "peak_bytes": None}
    return Run(prompt=prompt, seed=0, **costs, psnr=psnr, ssim=0.9, ms_ssim=None, lpips=None)


def test_a_comparison_writes_strict_json_with_fronts_and_pairs():
    rows = (
        Row("uniform:k=2", "uniform", {"k": "2"}, [run("a", 0.6, 40.0), run("b", 0.6, 42.0)]),
        Row("uniform:k=3", "uniform", {"k": "3"}, [run("a", 0.4, 30.0), run("b", 0.4, 32.0)]),
        Row("uniform:k=9", "uniform", {"k": "9"}, [run("a", 0.5, 20.0), run("b", 0.5, 20.0)]),
        Row("jano", "jano", {}, [run("a", 0.5, 38.0), run("b", 0.5, 38.0)]),
        Row("dbcache", "dbcache", {}, [], "failed: why"),
    )
    comparison = Comparison("demo", "cpu", "float32", 8, rows, {}, {"full": np.zeros((1, 2, 2, 3), np.uint8)})
    data = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert data["rows"][3]["mean"]["psnr"] == 38.0
    assert data["rows"][3]["mean"]["efficiency"] == 0.75
    assert data["rows"][4]["mean"]["psnr"] is None
    assert [row["on_front"] for row in data["rows"]] == [True, True, False, True, False]
    [against] = [e for e in data["equal_compute"] if e["row"] == "jano"]
    assert (against["against"], against["value"], against["runs"]) == ("uniform", 2.0, 2), "k=9 is not on the front"
    pair = next(p for p in data["paired"] if (p["first"], p["second"]) == ("uniform:k=2", "jano"))
    assert pair["value"] == 3.0
    assert "failed: why" in str(comparison)


def timed(prompt, wall_s, full_s):
    told = {"prompt": prompt, "seed": 0, "cpu_s": wall_s, "compute": 0.5, "cache_bytes": 0, "peak_bytes": None}
    return Run(**told, wall_s=wall_s, speedup=full_s / wall_s, psnr=30.0, ssim=0.9, ms_ssim=None, lpips=None)


def test_a_rows_speedup_does_not_contradict_its_wall_times():
    """4.3 s of the full run against 6.0 s: the mean of the quotients 1.97 and 0.42 said 1.19."""
    row = Row("uniform", "uniform", {}, [timed("a", 2.0, 3.94), timed("b", 10.0, 4.2)])
    data = row.to_json()
    assert data["mean"]["speedup"] == pytest.approx((3.94 + 4.2) / (2.0 + 10.0))
    assert data["mean"]["speedup"] == pytest.approx((3.94 + 4.2) / 2 / data["mean"]["wall_s"])
    assert np.mean([run["speedup"] for run in data["runs"]]) > 1, "control: the mean of the quotients says faster"
    assert data["mean"]["efficiency"] == pytest.approx(0.5 * data["mean"]["speedup"])
    low, high = data["interval"]["speedup"]
    assert low == pytest.approx(0.42)
    assert high == pytest.approx(1.97)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([(2.0, 3.94), (10.0, 4.2)], "times too noisy"),
        ([(2.0, 3.0), (2.0, 4.0), (3.0, 4.0)], "faster"),
        ([(4.0, 3.0), (5.0, 4.0)], "slower"),
        ([(2.0, 3.0)], None),
    ],
)
def test_times_say_faster_or_slower_or_that_they_are_too_noisy(runs, expected):
    row = Row("uniform", "uniform", {}, [timed(str(at), *times) for at, times in enumerate(runs)])
    assert row.to_json()["times"] == expected
    comparison = Comparison("demo", "cpu", "float32", 8, (row,), {}, {})
    assert ("times too noisy" in str(comparison)) == (expected == "times too noisy")
    assert Row("full", "full", {}, row.runs).times is None


def test_clips_stand_in_rows_of_four_under_their_names():
    clips = {f"method:{at}": np.full((3, 10, 30, 3), 40 * at, np.uint8) for at in range(5)}
    whole = mosaic(clips)
    assert whole.shape[0] == 3
    assert whole.shape[1] % 2 == whole.shape[2] % 2 == 0
    rows, cols = whole.shape[1] // 2, whole.shape[2] // 4
    assert cols >= LEAST_WIDTH
    corner = whole[:, rows - 8, cols // 2 :: cols]  # near the bottom of each clip of the first row
    assert np.array_equal(corner, np.broadcast_to(40 * np.arange(4, dtype=np.uint8)[:, None], (3, 4, 3)))
    names = whole[0, :30, : 4 * cols].astype(int)
    assert (names.min(axis=(0, 2)).reshape(4, cols).min(axis=1) < 100).all(), "a name over each"
    assert (whole[0, rows : rows + 30, 2 * cols :] == 255).all(), "control: no name where there is no clip"
