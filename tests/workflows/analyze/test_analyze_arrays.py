"""Every array and number of an analysis against its definition, computed directly from what was recorded."""

import json
from pathlib import Path

import numpy as np
import pytest
from recorded_runs import CLIP, PICTURE, Run, record_run
from scipy import stats

from janoscope.analysis import convergence_step, jano_complexity, ras_importance, tile_of_tokens, token_means
from janoscope.grid import TokenGrid
from janoscope.plan import Policy, TokenLevel, token_ranks
from janoscope.plan.importance import warmup_scores
from janoscope.workflows.analyze.recording import Analysis, AnalysisOptions, analyze, analyze_to_directory

PRIME_CLIP = TokenGrid(channels=2, cells=(3, 5, 7), patch=(1, 1, 1))
LAYOUTS = [(PICTURE, [1, 4, 4]), (CLIP, [2, 4, 4]), (PRIME_CLIP, [2, 2, 3])]


def policy_with(tile: list[int], **changes) -> Policy:
    table = {
        "name": "test",
        "warmup": 6,
        "cooldown": 2,
        "tile": tile,
        "temporal_weight": 0.6 if tile[0] > 1 else 0.0,
        "quantiles": {"static": 0.4, "moderate": 0.7},
        "intervals": {"static": 4, "moderate": 2},
    }
    return Policy.from_table(table | changes, "test policy")


def first_signal(run: Run) -> np.ndarray:
    """(1, token, channel): the velocity of the initial noise while x0 is taken for 0; on flow models the noise itself."""
    point = run.noise_path.at(0)
    return run.sample[0, :1] * (1 if run.noise_path.family == "flow" else point.sigma_rate / point.sigma)


def rms(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(np.square(values), axis=-1))


def assert_same(found: np.ndarray, expected: np.ndarray, name: str = "") -> None:
    """Stored in float32, so compared to 1 in 10,000 of the largest value."""
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-4 * np.max(np.abs(expected)), err_msg=name)


@pytest.fixture(params=[(*layout, kind) for layout in LAYOUTS for kind in ("flow", "epsilon")], ids=str)
def analysed(request, tmp_path: Path) -> tuple[Run, Policy, Analysis]:
    grid, tile, prediction = request.param
    run, policy = record_run(tmp_path / "run.h5", grid=grid, prediction=prediction), policy_with(tile)
    return run, policy, analyze(run.path, policy=policy)


def test_arrays_are_their_definitions(analysed) -> None:
    run, policy, analysis = analysed
    grid, arrays = run.grid, analysis.arrays
    velocity, x0, output = run.velocity[0], run.x0[0], run.output[0]
    signals = grid.unpack(np.concatenate([first_signal(run), velocity[:6]]))
    expected = jano_complexity(signals, policy.tile, temporal_weight=policy.temporal_weight)
    for name in ("temporal", "spatial", "combined", "enhanced"):
        wanted = getattr(expected, name)
        np.testing.assert_allclose(arrays[f"complexity_{name}"], wanted, atol=2e-3 * wanted.max(), err_msg=name)
    distance = rms(x0 - x0[-1])
    assert_same(arrays["x0_distance"], distance, "x0_distance")
    np.testing.assert_array_equal(arrays["convergence_step"], convergence_step(distance, 0.1))
    assert_same(arrays["flow_velocity_change"], rms(np.diff(velocity, axis=0)) / rms(velocity[1:]), "velocity change")
    assert_same(arrays["raw_change"], rms(np.diff(output, axis=0)), "raw_change")
    held = {k: rms(velocity[k:] - velocity[:-k]) ** 2 for k in range(1, 8)}
    assert_same(arrays["reuse_error"], np.sqrt(np.concatenate(list(held.values())).mean(axis=0)), "reuse_error")
    assert_same(arrays["reuse_error_steps"], np.sqrt([errors.mean(axis=0) for errors in held.values()]), "reuse_error_steps")
    sigma = np.append(run.noise_path.sigma, 0)
    for at, step in enumerate(arrays["ras_steps"]):
        spread = ras_importance(velocity[step], grid, sigma=sigma[step], sigma_next=sigma[step + 1])
        assert_same(arrays["ras_importance_steps"][at], spread, f"ras at {step}")
    assert_same(arrays["ras_importance"], ras_importance(velocity[5], grid, sigma=sigma[5], sigma_next=sigma[6]), "ras")
    assert arrays["ras_steps"].tolist() == [0, 2, 5, 6, 11, 16, 20]


def test_tiles_are_the_rms_of_their_cells(analysed) -> None:
    run, policy, analysis = analysed
    cells = run.grid.unpack(run.x0[0] - run.x0[0][-1])  # (step, channel, frame, row, col)
    change, velocity = (run.grid.unpack(v) for v in (np.diff(run.velocity[0], axis=0), run.velocity[0][1:]))
    shape, found = run.grid.tiles(policy.tile), analysis.arrays
    assert found["tile_convergence_step"].shape == shape
    for place in np.ndindex(shape):
        box = tuple(slice(at * size, (at + 1) * size) for at, size in zip(place, policy.tile, strict=True))
        whole = lambda values: np.sqrt(np.mean(values[(slice(None), slice(None), *box)] ** 2, axis=(1, 2, 3, 4)))  # noqa: B023
        at = (slice(None), *place)
        if run.grid.patch == (1, 1, 1) or all(size % 2 == 0 for size in policy.tile[1:]):
            assert_same(found["tile_x0_distance"][at], whole(cells))
            assert_same(found["tile_velocity_change"][at], whole(change) / whole(velocity))
    assert (found["tile_convergence_step"] == convergence_step(found["tile_x0_distance"], 0.1)).all()


def test_level_curves_and_medians_are_those_of_the_plans_tokens(analysed) -> None:
    _, _, analysis = analysed
    ranks, arrays, results = analysis.plan.ranks, analysis.arrays, analysis.results
    assert results["curves"] == {"groups": ["static", "moderate", "active", "all"], "quantiles": [0.1, 0.25, 0.5, 0.75, 0.9]}
    for at, level in enumerate(TokenLevel):
        chosen = ranks == level.rank
        assert chosen.any()
        expected = np.quantile(arrays["x0_distance"][:, chosen], [0.1, 0.25, 0.5, 0.75, 0.9], axis=1)
        assert_same(arrays["curve_x0_distance_quantiles"][at], expected)
        facts = results["convergence"]["by_level"][level.value]
        assert facts["tokens"] == chosen.sum()
        assert facts["convergence_step_median"] == np.median(arrays["convergence_step"][chosen])
        assert facts["reuse_error_median"] == pytest.approx(np.median(arrays["reuse_error"][chosen]))
        assert len(facts["reuse_error_steps_median"]) == 7
    assert_same(arrays["curve_raw_change_quantiles"][3, 2], np.median(arrays["raw_change"], axis=1))


def test_the_table_is_scipys_correlation_of_each_map_with_each_outcome(analysed) -> None:
    run, policy, analysis = analysed
    rows = {(row["map"], row["warmup"], row["target"]): row for row in analysis.results["map_predicts"]}
    assert {warmup for _, warmup, _ in rows} == {5, 6, 10}
    velocity = run.velocity[0]
    for warmup in (5, 6, 10):
        signals = run.grid.unpack(np.concatenate([first_signal(run), velocity[:warmup]]))
        jano = jano_complexity(signals, policy.tile, temporal_weight=policy.temporal_weight).enhanced
        scores = {
            "jano": token_means(jano, run.grid, policy.tile),
            "velocity-change": rms(velocity[warmup - 1] - velocity[warmup - 2]),
        }
        for name, values in scores.items():
            row = rows[name, warmup, "reuse_error"]
            expected = stats.spearmanr(values, analysis.arrays["reuse_error"]).statistic
            assert row["spearman"] == pytest.approx(expected, abs=0.02)
            assert row["interval"][0] <= row["spearman"] <= row["interval"][1]
            assert 0 <= row["agreement_interval"][0] <= row["agreement"] <= row["agreement_interval"][1] <= 1
    assert {name for name, _, _ in rows} >= {"jano", "x0-gradient", "velocity-change", "ras", "variance", "fft"}
    steps = {row["step"] for row in analysis.results["ras_predicts"]}
    assert steps == set(analysis.arrays["ras_steps"].tolist())


def test_points_are_the_recorded_tokens(analysed) -> None:
    run, _, analysis = analysed
    points = analysis.results["points"]
    assert [point["name"] for point in points] == list("ABCD")
    assert len({point["frame"] for point in points}) == 1
    tokens = [point["token"] for point in points]
    assert_same(analysis.arrays["point_raw"], rms(run.output[0][:, tokens]).T)
    assert_same(analysis.arrays["point_velocity"], rms(run.velocity[0][:, tokens]).T)
    scores = token_means(analysis.complexity.enhanced, run.grid, analysis.plan.policy.tile)
    assert list(scores[tokens]) == sorted(scores[tokens])
    assert scores[tokens[0]] < scores[tokens[-1]]


def test_reductions_of_a_token(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run.h5")
    at = run.grid.token_at(0, 3, 2)
    values = run.output[0][:, at]
    for reduction, expected in {"mean": values.mean(axis=1), "rms": rms(values), "channel:4": values[:, 4]}.items():
        found = analyze(run.path, policy=policy_with([1, 4, 4]), points=["here=0,3,2"], reduction=reduction)
        assert_same(found.arrays["point_raw"][0], expected, reduction)
        assert found.results["points"][0]["token"] == at


def test_a_plan_is_the_one_the_warmup_gives(analysed) -> None:
    """The law between the two homes of the analysis, on the recording's side."""
    run, policy, analysis = analysed
    samples, outputs = (list(run.grid.unpack(v[0].astype(np.float32))[:6]) for v in (run.sample, run.output))
    scores = warmup_scores(
        policy, samples, outputs, path=run.noise_path, prediction=analysis.results["conversion"]["prediction_type"]
    )
    np.testing.assert_array_equal(scores.enhanced, analysis.arrays["complexity_enhanced"])
    np.testing.assert_array_equal(analysis.plan.ranks, token_ranks(scores.enhanced, policy, run.grid))


def test_files_hold_what_the_object_holds(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run.h5")
    analysis = analyze_to_directory(run.path, tmp_path / "out", policy=policy_with([1, 4, 4]))
    with np.load(tmp_path / "out" / "analysis.npz") as stored:
        assert set(stored) == {*analysis.arrays, "id"}
        for name in analysis.arrays:
            np.testing.assert_array_equal(stored[name], analysis.arrays[name], err_msg=name)
    facts = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert facts["map_predicts"][0]["spearman"] == analysis.results["map_predicts"][0]["spearman"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["analysis.json", "analysis.npz", "plan.json"]


# negative controls: what each array would be if a step, a sign or an option were wrong


def test_epsilon_output_read_as_flow_gives_another_analysis(tmp_path: Path) -> None:
    right = record_run(tmp_path / "eps.h5", prediction="epsilon")
    found = analyze(right.path, policy=policy_with([1, 4, 4]))
    assert np.abs(found.arrays["x0_distance"] - rms(right.x0[0] - right.x0[0][-1])).max() < 1e-3
    sigma = right.noise_path.sigma[:, None, None]
    as_flow = (right.sample - sigma * right.output)[0]
    assert np.abs(found.arrays["x0_distance"] - rms(as_flow - as_flow[-1])).max() > 0.2
    assert np.abs(found.arrays["flow_velocity_change"] - rms(np.diff(right.output[0], axis=0))).max() > 0.1
    assert np.abs(found.arrays["raw_change"] - rms(np.diff(right.velocity[0], axis=0))).max() > 0.1


def test_options_change_what_they_name(tmp_path: Path) -> None:
    run, policy = record_run(tmp_path / "run.h5", prediction="epsilon", steps=17), policy_with([1, 4, 4])
    plain = analyze(run.path, policy=policy)
    padded = PICTURE.cells[1] % 4 != 0
    assert padded
    changed = {
        "derivative": (AnalysisOptions(derivative="closed-form"), "point_velocity"),
        "hold": (AnalysisOptions(hold_steps=2), "reuse_error"),
        "tolerance": (AnalysisOptions(tolerance=0.5), "convergence_step"),
        "warmup": (AnalysisOptions(warmup=4), "complexity_enhanced"),
        "first": (AnalysisOptions(first_signal="velocity"), "complexity_enhanced"),
        "padding": (AnalysisOptions(padding="exclude"), "complexity_enhanced"),
    }
    for name, (options, array) in changed.items():
        found = analyze(run.path, policy=policy, options=options)
        assert found.arrays[array].shape == plain.arrays[array].shape
        assert not np.allclose(found.arrays[array], plain.arrays[array]), name
        assert np.array_equal(found.arrays["raw_change"], plain.arrays["raw_change"]), name
    named = analyze(run.path, policy=policy, options=AnalysisOptions(first_signal="velocity", padding="exclude")).plan.policy
    assert named.name == "test (initial_latent false, padding exclude)"
    assert (named.initial_latent, named.padding) == (False, "exclude")
    same = analyze(run.path, policy=policy, options=AnalysisOptions(first_signal="initial-latent", padding="count", warmup=6))
    assert same.plan == plain.plan


def test_ras_importance_of_any_step(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run.h5")
    found = analyze(run.path, policy=policy_with([1, 4, 4]), options=AnalysisOptions(ras_steps=(9, 22, 5)))
    assert found.arrays["ras_steps"].tolist() == [0, 2, 5, 6, 9, 11, 16, 20, 22]
    sigma = np.append(run.noise_path.sigma, 0)
    for at, step in ((4, 9), (8, 22)):
        spread = ras_importance(run.velocity[0][step], run.grid, sigma=sigma[step], sigma_next=sigma[step + 1])
        assert_same(found.arrays["ras_importance_steps"][at], spread)
    assert {row["step"] for row in found.results["ras_predicts"]} == {0, 2, 5, 6, 9, 11, 16, 20, 22}


def test_initial_noise_does_not_drown_the_predictions(tmp_path: Path) -> None:
    """Velocities per timestep are about 1e-3, the noise about 1: left at its size the map would be a map of the noise alone."""
    run, policy = record_run(tmp_path / "eps.h5", prediction="epsilon"), policy_with([1, 4, 4])
    whole_tiles = lambda complexity: complexity.combined[0, :-1, :-1].ravel()  # those over the edge are low in every map
    noise, velocity = run.sample[0, :1], run.velocity[0, :6]
    found = whole_tiles(analyze(run.path, policy=policy).complexity)
    drowned, alone, calm = (
        whole_tiles(jano_complexity(run.grid.unpack(np.concatenate(signals)), policy.tile))
        for signals in ((noise, velocity), (noise, 0 * velocity), (0 * noise, velocity))
    )
    assert stats.spearmanr(drowned, alone).statistic > 0.99
    assert stats.spearmanr(found, calm).statistic > 0.9
    assert stats.spearmanr(drowned, calm).statistic < 0.7


def test_intervals_resample_tiles_not_tokens(tmp_path: Path) -> None:
    """Tokens of one tile share a score; taken for independent they would give a much narrower interval."""
    from janoscope.analysis import spearman

    run = record_run(tmp_path / "run.h5")
    policy = policy_with([1, 4, 4])
    analysis = analyze(run.path, policy=policy)
    row = next(r for r in analysis.results["map_predicts"] if (r["map"], r["warmup"], r["target"]) == ("jano", 6, "reuse_error"))
    scores = token_means(analysis.complexity.enhanced, run.grid, policy.tile)
    target = analysis.arrays["reuse_error"]
    grouped = spearman(scores, target, groups=tile_of_tokens(run.grid, policy.tile))
    assert row["interval"] == pytest.approx([grouped.low, grouped.high])
    alone = spearman(scores, target)
    assert grouped.high - grouped.low > alone.high - alone.low
