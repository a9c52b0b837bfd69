"""Recordings that are not a tidy picture run: cut short, batched, narrow, damaged, of another loop; and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from recorded_runs import CLIP, PICTURE, record_run

from janoscope.errors import InputError, RecordingError
from janoscope.grid import TokenGrid
from janoscope.plan import Policy, TokenLevel, highest, token_ranks
from janoscope.plan.importance import importance_scores
from janoscope.workflows.analyze.recording import AnalysisOptions, analyze, analyze_to_directory

TABLE = {
    "name": "test",
    "warmup": 4,
    "cooldown": 2,
    "tile": [1, 4, 4],
    "quantiles": {"static": 0.4, "moderate": 0.7},
    "intervals": {"static": 4, "moderate": 2},
}
POLICY = Policy.from_table(TABLE, "test")


def test_a_run_that_was_cut_short_is_refused_or_analysed_as_far_as_it_goes(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run.h5", steps=19, kept=13)
    with pytest.raises(RecordingError, match=r"stopped at step 13 of 19.*--partial"):
        analyze(run.path, policy=POLICY)
    found = analyze(run.path, policy=POLICY, partial=True)
    assert found.arrays["x0_distance"].shape == (13, PICTURE.count)
    np.testing.assert_allclose(
        found.arrays["x0_distance"], np.sqrt(np.mean((run.x0[0][:13] - run.x0[0][12]) ** 2, axis=-1)), atol=1e-5
    )
    assert (len(found.plan.step_kind), found.results["run"]["steps"], found.results["run"]["complete"]) == (19, 13, False)
    assert "ends after 13 of 19 steps" in found.notes[0]
    whole = analyze(record_run(tmp_path / "whole.h5", steps=19).path, policy=POLICY)
    assert whole.plan.token_level == found.plan.token_level
    assert whole.notes == []


@pytest.mark.parametrize("prediction", ["flow", "epsilon", "v_prediction", "sample"])
def test_a_partial_run_of_any_prediction_has_finite_arrays(tmp_path: Path, prediction: str) -> None:
    run = record_run(tmp_path / "run.h5", prediction=prediction, steps=19, kept=9)
    found = analyze(run.path, policy=POLICY, partial=True)
    for name in ("x0_distance", "reuse_error", "complexity_enhanced", "point_velocity", "flow_velocity_change"):
        assert np.isfinite(found.arrays[name]).all(), name


def test_one_latent_channel_is_analysed_without_ras_and_the_report_is_drawn(tmp_path: Path) -> None:
    from janoscope.report import render_analysis

    grid = TokenGrid(1, (1, 16, 16), (1, 2, 2))
    path = record_run(tmp_path / "run.h5", grid=grid).path
    found = analyze_to_directory(path, tmp_path / "out", policy=POLICY)
    assert found.notes == ["the latent has one channel, so RAS importance, a spread over channels, was not measured."]
    assert not [name for name in found.arrays if name.startswith("ras")]
    assert found.results["ras_predicts"] == []
    assert {row["map"] for row in found.results["map_predicts"]} >= {"jano", "x0-gradient", "velocity-change"}
    page = render_analysis(tmp_path / "out").read_text(encoding="utf-8")
    assert "Convergence step" in page
    assert "RAS importance map" not in page
    two = analyze(record_run(tmp_path / "two.h5", grid=TokenGrid(2, (1, 16, 16), (1, 2, 2))).path, policy=POLICY)
    assert {"ras_importance", "ras_steps", "ras_importance_steps"} <= set(two.arrays), "control: two channels have it"
    assert two.notes == []
    with pytest.raises(InputError, match=r"run\.h5 has one latent channel, .* ask for no RAS steps"):
        analyze(path, policy=POLICY, options=AnalysisOptions(ras_steps=(3,)))
    with pytest.raises(
        InputError, match=r"RAS importance is a spread over latent channels, .* the grid has 1. Choose another map"
    ):
        analyze(path, policy=Policy.from_table({**TABLE, "map": "ras"}, "test"))


def test_items_stay_apart_but_share_a_plan(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run.h5", items=2)
    first, second = (analyze(run.path, policy=POLICY, options=AnalysisOptions(item=item)) for item in (0, 1))
    for item, found in enumerate((first, second)):
        alone = record_run(tmp_path / f"alone{item}.h5", seed=item)
        expected = analyze(alone.path, policy=POLICY)
        for name in ("complexity_enhanced", "convergence_step", "reuse_error", "ras_importance", "raw_change"):
            np.testing.assert_array_equal(found.arrays[name], expected.arrays[name], err_msg=name)
        assert f"those of item {item}, the plan covers all items" in found.notes[0]
        assert (found.results["item"], found.results["items"]) == (item, 2)
    assert not np.array_equal(first.arrays["reuse_error"], second.arrays["reuse_error"])
    assert first.plan == second.plan
    ranks = [token_ranks(found.complexity.enhanced, POLICY, PICTURE) for found in (first, second)]
    np.testing.assert_array_equal(first.plan.ranks, highest(ranks))
    assert (first.plan.ranks != ranks[0]).any()
    with pytest.raises(InputError, match="has no item 2; legal: 0 to 1"):
        analyze(run.path, policy=POLICY, options=AnalysisOptions(item=2))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_narrow_recordings_agree_with_wide_ones(tmp_path: Path, dtype: str, tolerance: float) -> None:
    wide = analyze(record_run(tmp_path / "wide.h5", grid=CLIP).path, policy=POLICY)
    narrow = analyze(record_run(tmp_path / "narrow.h5", grid=CLIP, dtype=dtype).path, policy=POLICY)
    assert narrow.results["run"]["stored_dtype"] == dtype
    for name in ("x0_distance", "reuse_error", "complexity_combined", "flow_velocity_change"):
        np.testing.assert_allclose(narrow.arrays[name], wide.arrays[name], atol=tolerance * 4, err_msg=name)
        assert not np.array_equal(narrow.arrays[name], wide.arrays[name]), name


def test_values_that_are_not_finite_are_masked_counted_and_left_out(tmp_path: Path) -> None:
    clean = analyze(record_run(tmp_path / "clean.h5").path, policy=POLICY)
    broken = ((2, 7), (11, 7), (20, 90))
    found = analyze(record_run(tmp_path / "broken.h5", broken=broken).path, policy=POLICY)
    assert np.flatnonzero(found.arrays["masked_tokens"]).tolist() == [7, 90]
    assert found.results["convergence"]["nonfinite"] == 3
    assert found.results["convergence"]["masked_tokens"] == 2
    assert found.results["complexity"]["nonfinite"] == 1
    assert found.results["nonfinite"]["model_output"] == 3
    assert "2 tokens hold values that are not finite (3 in all)" in found.notes[0]
    whole = found.results["convergence"]["whole_run"]
    assert whole["tokens"] == PICTURE.count - 2
    kept = ~found.arrays["masked_tokens"]
    assert whole["reuse_error_median"] == pytest.approx(np.median(clean.arrays["reuse_error"][kept]))
    for name, values in found.arrays.items():
        assert np.isfinite(values).all(), name
    assert clean.results["convergence"]["masked_tokens"] == 0


def test_a_broken_token_at_a_point_leaves_a_gap_in_its_curve(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run.h5", broken=((2, 7),))
    found = analyze(run.path, policy=POLICY, points=["A=0,0,7", "B=0,0,8"])
    assert np.isnan(found.arrays["point_raw"]).nonzero()[0].tolist() == [0]
    assert np.isnan(found.arrays["point_raw"]).nonzero()[1].tolist() == [2]


def test_a_users_own_loop_gets_a_policy_that_suits_its_grid(tmp_path: Path) -> None:
    picture = analyze(record_run(tmp_path / "picture.h5", steps=50).path)
    assert picture.plan.policy.name == "generic"
    assert (picture.plan.policy.warmup, picture.plan.policy.cooldown, picture.plan.policy.tile) == (7, 2, (1, 8, 8))
    clip = analyze(record_run(tmp_path / "clip.h5", grid=CLIP).path)
    assert (clip.plan.policy.tile, clip.plan.policy.temporal_weight) == ((2, 8, 8), 0.6)
    assert clip.complexity.temporal.any()
    assert clip.plan.predicted.cache_bytes is None
    assert clip.apply_arguments == ()


@pytest.mark.parametrize("name", ["x0-gradient", "velocity-change", "ras", "random", "oracle"])
def test_a_policys_map_makes_its_plan(tmp_path: Path, name: str) -> None:
    run = record_run(tmp_path / "run.h5", provenance={"run": {"seed": 5, "prompt": "p"}, "model": {"id": "m"}})
    policy = Policy.from_table(TABLE | {"map": name}, "test")
    found, jano = analyze(run.path, policy=policy), analyze(run.path, policy=POLICY)
    if name == "oracle":
        scores = found.arrays["reuse_error"]
    else:
        latents = (list(run.grid.unpack(v[0].astype(np.float32))) for v in (run.sample, run.output))
        scores = importance_scores(policy, *latents, path=run.noise_path, prediction="flow", grid=run.grid, seed=5)
    np.testing.assert_array_equal(found.plan.ranks, token_ranks(scores, policy, run.grid))
    assert (found.plan.ranks != jano.plan.ranks).any()
    assert found.results["complexity"]["map"] == name
    np.testing.assert_array_equal(found.arrays["complexity_enhanced"], jano.arrays["complexity_enhanced"])


def test_the_oracle_computes_what_costs_most_to_hold(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run.h5")
    oracle, random = (analyze(run.path, policy=Policy.from_table(TABLE | {"map": name}, "test")) for name in ("oracle", "random"))
    cost = oracle.arrays["reuse_error"]
    active, static = (oracle.plan.ranks == level.rank for level in (TokenLevel.ACTIVE, TokenLevel.STATIC))
    assert cost[active].min() >= cost[static].max()
    active = random.plan.ranks == TokenLevel.ACTIVE.rank
    assert cost[active].min() < cost[~active].max()
    batch = record_run(tmp_path / "batch.h5", items=2)
    with pytest.raises(InputError, match=r"oracle.*2 items; record one prompt at a time"):
        analyze(batch.path, policy=oracle.plan.policy)


def test_a_level_without_tokens_leaves_its_numbers_undefined_and_says_so(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run.h5")
    table = {key: value for key, value in TABLE.items() if key != "quantiles"} | {"thresholds": {"static": -1, "moderate": -1}}
    found = analyze_to_directory(run.path, tmp_path / "out", policy=Policy.from_table(table, "all active"))
    assert found.notes == ["no token is static under this policy, so the separation of active from static tokens is not defined."]
    facts = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert facts["separation"]["converted"] == {"auroc": None, "interval": [None, None]}
    assert facts["convergence"]["by_level"]["static"]["reuse_error_median"] is None
    assert facts["convergence"]["by_level"]["active"]["tokens"] == PICTURE.count
    assert np.isnan(found.arrays["curve_x0_distance_quantiles"][0]).all()


def test_epsilon_at_alpha_zero_is_refused_by_name(tmp_path: Path) -> None:
    from janoscope.recording import Recorder

    path = tmp_path / "zero-snr.h5"
    rng = np.random.default_rng(0)
    shape = (PICTURE.count, PICTURE.token_channels)
    with Recorder(path, grid=PICTURE, prediction_type="epsilon", planned_steps=6) as recorder:
        for alpha in np.linspace(0, 0.9, 6):
            recorder.put("sample", rng.standard_normal(shape, dtype=np.float32))
            recorder.put("model_output", rng.standard_normal(shape, dtype=np.float32))
            recorder.commit(timestep=1000 * (1 - alpha), alpha=alpha, sigma=np.sqrt(1 - alpha**2))
    with pytest.raises(InputError, match=r"step 0 of zero-snr\.h5.*alpha is 0.*says nothing about x0"):
        analyze(path, policy=POLICY)


def test_every_fault_of_a_policy_file_stands_in_one_message(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run.h5")
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "bad"\nwarmup = -1\ntile = [1, 0]\nmap = "magic"\ncolour = 3\nintervals = { static = 4 }\n')
    with pytest.raises(InputError) as caught:
        analyze(run.path, policy=bad)
    faults = (
        "bad.toml",
        "warmup = -1",
        "tile = [1, 0]",
        "map = 'magic'",
        "colour",
        "lacks 'cooldown'",
        "intervals lacks 'moderate'",
    )
    for fault in (*faults, "exactly one of 'thresholds' and 'quantiles'"):
        assert fault in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"cannot be read.*no model family"):
        analyze(run.path, policy="jano/flux-1/1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": Policy.from_table(TABLE | {"warmup": 99}, "long")}, "holds 23 steps, fewer than the warm-up of 99"),
        ({"policy": Policy.from_table(TABLE | {"warmup": 0}, "none")}, "warm-up 0, so it makes no map"),
        ({"policy": Policy.from_table(TABLE | {"tile": [2, 4, 4]}, "clip")}, "spans 2 frames but the latent has one"),
        ({"points": ["A=0,11,0"]}, r"token \(0, 11, 0\) lies outside the grid of \(1, 11, 13\)"),
        ({"points": ["A=1,2"]}, "NAME=frame,row,col is needed"),
        ({"points": ["A=0,1,2", "A=0,1,3"]}, "A is given twice"),
        ({"reduction": "median"}, "legal: mean, rms, channel:K with K from 0 to 11"),
        ({"reduction": "channel:12"}, "K from 0 to 11"),
        ({"options": AnalysisOptions(derivative="sideways")}, "choose one of backward, tangent, closed-form"),
        ({"options": AnalysisOptions(ras_steps=(3, 23))}, "no step 23 for the RAS importance; legal: 0 to 22"),
        ({"options": AnalysisOptions(hold_steps=0)}, "hold_steps 0 must be at least 1"),
        ({"options": AnalysisOptions(tolerance=0)}, "tolerance 0 must be above 0"),
    ],
)
def test_refuses_in_one_line(tmp_path: Path, changes: dict, message: str) -> None:
    run = record_run(tmp_path / "run.h5")
    with pytest.raises(InputError, match=message) as caught:
        analyze(run.path, **({"policy": POLICY} | changes))
    assert "\n" not in str(caught.value)
