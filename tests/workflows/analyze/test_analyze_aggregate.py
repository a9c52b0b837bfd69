"""Several analyses as one: means and intervals over recordings, counted as recordings."""

import json
from pathlib import Path

import numpy as np
import pytest
from recorded_runs import CLIP, record_run

from janoscope.errors import InputError
from janoscope.plan import Policy
from janoscope.results.analysis import read_facts
from janoscope.results.statistics import estimate_of, interval_of_mean
from janoscope.workflows.analyze.aggregate import aggregate, describe_aggregate, write_aggregate
from janoscope.workflows.analyze.recording import analysis_directories, analyze_to_directory

TABLE = {
    "name": "test",
    "warmup": 4,
    "cooldown": 2,
    "tile": [1, 4, 4],
    "quantiles": {"static": 0.4, "moderate": 0.7},
    "intervals": {"static": 4, "moderate": 2},
}
POLICY = Policy.from_table(TABLE, "test")


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> list[Path]:
    folder, made = tmp_path_factory.mktemp("runs"), []
    for seed in range(5):
        run = record_run(folder / f"run{seed}.h5", seed=10 * seed, steps=15)
        analyze_to_directory(run.path, folder / f"run{seed}", policy=POLICY)
        made.append(folder / f"run{seed}")
    return made


def facts_of(directory: Path) -> dict:
    return json.loads((directory / "analysis.json").read_text())


def test_every_figure_is_the_mean_over_recordings(directories: list[Path]) -> None:
    facts, arrays = aggregate(directories)
    each = [facts_of(directory) for directory in directories]
    assert [row["recording"] for row in facts["recordings"]] == [f"run{seed}.h5" for seed in range(5)]
    for at, row in enumerate(facts["map_predicts"]):
        same = [one["map_predicts"][at] for one in each]
        assert {(one["map"], one["warmup"], one["target"]) for one in same} == {(row["map"], row["warmup"], row["target"])}
        for name, interval in (("spearman", "interval"), ("agreement", "agreement_interval")):
            values = [one[name] for one in same]
            assert row[name] == pytest.approx(np.mean(values))
            bounds = [min(values) - 1e-9, *row[interval], max(values) + 1e-9]
            assert bounds == sorted(bounds)
            assert row[interval][0] - 1e-9 <= row[name] <= row[interval][1] + 1e-9
        assert row["recordings"] == 5
    assert len(facts["ras_predicts"]) == len(each[0]["ras_predicts"])
    active = facts["convergence"]["by_level"]["active"]
    own = [one["convergence"]["by_level"]["active"] for one in each]
    assert active["tokens"] == sum(one["tokens"] for one in own)
    assert active["reuse_error_median"]["mean"] == pytest.approx(np.mean([one["reuse_error_median"] for one in own]))
    assert len(active["reuse_error_steps_median"]) == 7
    assert facts["separation"]["raw"]["auroc"] == pytest.approx(np.mean([one["separation"]["raw"]["auroc"] for one in each]))
    assert facts["predicted"]["compute"]["mean"] == pytest.approx(np.mean([one["predicted"]["compute"] for one in each]))
    medians = [np.load(directory / "analysis.npz")["curve_x0_distance_quantiles"][:, 2] for directory in directories]
    np.testing.assert_allclose(arrays["curve_x0_distance"], np.mean(medians, axis=0))
    low, high = arrays["curve_x0_distance_interval"]
    assert (low <= arrays["curve_x0_distance"]).all()
    assert (arrays["curve_x0_distance"] <= high).all()
    assert facts["notes"] == []


def test_the_interval_covers_as_it_says_and_is_not_that_of_tokens() -> None:
    """Of 200 samples of 30 recordings about 190 intervals hold the true mean; percentile bounds fall a little short."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = interval_of_mean(rng.normal(0.5, 0.2, size=30))
        inside += low <= 0.5 <= high
    assert 178 <= inside <= 198
    values = rng.normal(0.5, 0.2, size=30)
    few, as_if_tokens = interval_of_mean(values), interval_of_mean(np.repeat(values, 100))
    assert few[1] - few[0] > 5 * (as_if_tokens[1] - as_if_tokens[0])


def test_one_recording_has_no_interval_and_missing_values_are_counted_out(directories: list[Path]) -> None:
    facts, arrays = aggregate(directories[:1])
    assert facts["separation"]["raw"]["interval"] == [None, None]
    assert facts["map_predicts"][0]["interval"] == [None, None]
    assert "one case" in facts["notes"][0]
    assert not [name for name in arrays if name.endswith("_interval")]
    assert estimate_of("mean", [None, 2.0, 4.0]) | {"interval": None} == {"mean": 3.0, "interval": None, "recordings": 2}
    assert estimate_of("mean", [None]) == {"mean": None, "interval": [None, None], "recordings": 0}


def test_unlike_recordings_are_said_to_be_unlike(directories: list[Path], tmp_path: Path) -> None:
    other = record_run(tmp_path / "clip.h5", grid=CLIP, steps=19, kept=17)
    analyze_to_directory(other.path, tmp_path / "clip", policy=POLICY, partial=True)
    facts, arrays = aggregate([*directories[:2], tmp_path / "clip"])
    notes = " ".join(facts["notes"])
    for words in (
        "with 3 recordings the 95 % intervals under-cover",
        "2 numbers of steps",
        "2 token grids",
        "1 of 3 recordings were cut short",
    ):
        assert words in notes
    assert "policies" not in notes
    assert arrays == {}
    written = write_aggregate([*directories[:2], tmp_path / "clip"], tmp_path)
    stored = json.loads(written.read_text())
    assert len(stored.pop("id")) == 32
    assert stored == json.loads(json.dumps(facts))
    assert not (tmp_path / "aggregate.npz").exists()
    text = describe_aggregate(facts)
    assert "AUROC of active against static tokens, flow velocity" in text
    assert "note: 1 of 3 recordings were cut short" in text


def test_refuses_what_is_no_analysis(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no analysis to aggregate"):
        aggregate([])
    with pytest.raises(InputError, match=r"holds no analysis.json. Run `janoscope analyze` again"):
        aggregate([tmp_path])
    (tmp_path / "analysis.json").write_text('{"schema": "other/1"}')
    with pytest.raises(InputError, match="is no analysis of this version"):
        aggregate([tmp_path])


def test_a_damaged_archive_is_one_line(directories: list[Path], tmp_path: Path) -> None:
    whole = (directories[0] / "analysis.npz").read_bytes()
    (tmp_path / "analysis.json").write_text((directories[0] / "analysis.json").read_text())
    for content in (
        b"",
        whole[:100],
        whole[: len(whole) // 2],
        whole[: len(whole) // 2] + bytes(4096) + whole[len(whole) // 2 + 4096 :],
    ):
        (tmp_path / "analysis.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"analysis.npz cannot be read.*Run `janoscope analyze` again"):
            aggregate([tmp_path])
    (tmp_path / "analysis.npz").write_bytes(whole)
    assert aggregate([tmp_path])[0]["recordings"][0]["recording"] == "run0.h5"


def test_a_death_midway_leaves_no_old_analysis_beside_a_new_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = record_run(tmp_path / "run.h5", steps=15)
    directory = tmp_path / "run"
    analyze_to_directory(run.path, directory, policy=POLICY)
    assert read_facts(directory)["recording"] == "run.h5"

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("janoscope.results.analysis.write_arrays", full)
    with pytest.raises(OSError, match="no space"):
        analyze_to_directory(run.path, directory, policy=POLICY)
    assert (directory / "plan.json").exists()
    with pytest.raises(InputError, match=r"holds no analysis.json"):
        read_facts(directory)


def test_each_recording_has_a_directory_of_its_own(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "run.h5", tmp_path / "b" / "run.h5"
    assert analysis_directories([first, second], None, False) == [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert analysis_directories([first], tmp_path / "out", False) == [tmp_path / "out"]
    for pair, output in (([first, second], tmp_path / "out"), ([first, first], None)):
        with pytest.raises(InputError, match="would both be analysed into"):
            analysis_directories(pair, output, False)
