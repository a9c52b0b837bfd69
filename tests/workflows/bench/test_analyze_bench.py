"""`janoscope bench analyze`: what it measures is what it says, on a hundredth of the work; the committed figures are its own."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from janoscope.analysis.tiles import cut, tile_rows
from janoscope.cli.bench import bench_analyze as command
from janoscope.workflows.bench.analyze import LIMITS, SMALL_MAP, SMALL_RUN, _gram_input, _peak, bench_analyze, describe_bench

COMMITTED = Path(__file__).parents[3] / "reports" / "performance"


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    scratch = tmp_path_factory.mktemp("scratch")
    found = bench_analyze(SMALL_MAP, SMALL_RUN, scratch)
    assert list(scratch.iterdir()) == []  # two gigabytes are not left behind
    return found


def test_figures_are_the_ratios_of_what_was_measured(result: dict) -> None:
    figures = result["figures"]
    assert figures["map_time_ratio"] == pytest.approx(result["map"]["seconds"] / result["map"]["gram_seconds"])
    assert figures["run_time_ratio"] == pytest.approx(result["analysis_s"] / np.mean(result["passes_s"]))
    assert result["recording_bytes"] > 4 * 2 * 10 * 7 * 9 * 8 * 64  # sample, guided, two branches; bfloat16; 10 steps
    assert set(figures) == set(LIMITS) == set(result["within"])
    assert result["within"] == {name: figures[name] <= LIMITS[name] for name in figures}


def test_the_table_tells_a_figure_over_its_limit(result: dict) -> None:
    over = result | {"within": result["within"] | {"map_time_ratio": False}}
    line = next(line for line in describe_bench(over).splitlines() if line.startswith("| complexity map, time"))
    assert line.endswith("| 3 | **no** |")
    within = result | {"within": dict.fromkeys(result["within"], True)}
    assert "**no**" not in describe_bench(within)


def test_the_gram_products_are_of_the_maps_own_vectors() -> None:
    signals = np.random.default_rng(0).standard_normal((3, 5, 4, 6, 12), dtype=np.float32)
    tile = (2, 3, 4)
    expected = np.concatenate([cut(np, signals, row, tile) for row in tile_rows((4, 6, 12), tile, 3)], axis=1)
    np.testing.assert_array_equal(_gram_input(signals, tile), expected)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak can be reset on Linux only")
def test_peak_sees_what_was_given_back_and_nothing_from_before() -> None:
    before = np.ones(8 << 20)
    del before  # 64 MiB, given back before the measurement
    _, small = _peak(lambda: np.ones(1000).sum())
    # over 32 MiB, above which malloc always maps anew: a smaller array may lie in pages that the process had already
    _, large = _peak(lambda: np.ones(16 << 20).sum())
    assert small < 8 << 20
    assert 120 << 20 < large < 144 << 20


def test_command_writes_its_report(result: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "janoscope.workflows.bench.analyze.bench_analyze", lambda *_: result | {"within": dict.fromkeys(LIMITS, False)}
    )
    with pytest.raises(SystemExit) as ended:
        command.main(["-o", str(tmp_path), "-q", "--strict"], standalone_mode=False)
    assert ended.value.code == 1
    with pytest.raises(SystemExit) as ended:
        command.main(["-o", str(tmp_path), "-q"], standalone_mode=False)
    assert ended.value.code == 0
    assert describe_bench(json.loads((tmp_path / "analyze.json").read_text())) in (tmp_path / "analyze.md").read_text()


def test_committed_figures_render_to_the_committed_table() -> None:
    stored = json.loads((COMMITTED / "analyze.json").read_text())
    assert (COMMITTED / "analyze.md").read_text() == f"# Performance of the analysis\n\n{describe_bench(stored)}\n"
    assert stored["run_case"]["steps"] == 50
    assert stored["limits"] == LIMITS
