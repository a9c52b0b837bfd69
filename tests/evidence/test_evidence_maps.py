"""Map reports: maps of several warm-ups from one analysis, each the map that an analysis with that warm-up has."""

import numpy as np
import pytest
from recorded_runs import CLIP, PICTURE, record_run

from janoscope.analysis import token_means
from janoscope.evidence.kinds import maps
from janoscope.plan import Policy
from janoscope.workflows.analyze import trajectory as run_view
from janoscope.workflows.analyze.recording import AnalysisOptions, analyze

STEPS = [3, 5, 8]


def policy_with(tile):
    quantiles, intervals = {"static": 0.4, "moderate": 0.7}, {"static": 4, "moderate": 2}
    table = {"name": "p", "warmup": 4, "cooldown": 1, "tile": tile, "quantiles": quantiles, "intervals": intervals}
    return Policy.from_table(table, "test policy")


@pytest.mark.parametrize(("grid", "tile"), [(PICTURE, [1, 4, 4]), (CLIP, [2, 4, 4])])
@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_the_maps_of_several_warmups_come_from_one_analysis(grid, tile, prediction, tmp_path, monkeypatch):
    run, policy, made = record_run(tmp_path / "run.h5", grid=grid, prediction=prediction), policy_with(tile), []

    def counted(*arguments, **options):
        made.append(analyze(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(maps, "analyze", counted)
    facts, jano, ras = maps._maps(run.path, policy, STEPS, tmp_path / "analysis")
    assert len(made) == 1
    assert (tmp_path / "analysis" / "analysis.json").exists()
    middle = grid.tokens[0] // 2
    for at, step in enumerate(STEPS):
        own = analyze(run.path, policy=policy, options=AnalysisOptions(warmup=step))
        expected = token_means(own.arrays["complexity_enhanced"], grid, policy.tile).reshape(grid.tokens)[middle]
        np.testing.assert_array_equal(jano[at], expected.astype(np.float32))
        np.testing.assert_array_equal(ras[at], own.arrays["ras_importance"].reshape(grid.tokens)[middle])
    assert not np.array_equal(jano[0], jano[1]), "another warm-up, another map"
    assert facts["jano"]["with_last"][-1] == facts["ras"]["with_last"][-1] == 1.0


@pytest.mark.parametrize("prediction", ["flow", "flow_prediction"])
def test_a_copy_upstream_changes_nothing_of_a_flow_models_results(prediction, tmp_path, monkeypatch):
    run = record_run(tmp_path / "run.h5", prediction=prediction)
    honest = run_view.RunView._velocity
    plain = analyze(run.path, policy=policy_with([1, 4, 4]))
    monkeypatch.setattr(run_view.RunView, "_velocity", lambda self, *arguments: honest(self, *arguments).copy())
    copied = analyze(run.path, policy=policy_with([1, 4, 4]))
    assert copied.results == plain.results
    assert copied.results["separation"]["raw"] == copied.results["separation"]["converted"]
    np.testing.assert_array_equal(copied.arrays["raw_change"], plain.arrays["raw_change"])


def test_control_the_raw_output_of_another_model_changes_otherwise(tmp_path):
    run = record_run(tmp_path / "run.h5", prediction="epsilon")
    found = analyze(run.path, policy=policy_with([1, 4, 4])).results["separation"]
    assert found["raw"] != found["converted"]
