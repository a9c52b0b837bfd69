"""Analyses of schema 1, which said holding cost, are read as those of schema 2."""

import json
from pathlib import Path

import numpy as np
import pytest
from report_results import make_results

from janoscope.errors import InputError
from janoscope.report.analysis.view import read_view
from janoscope.results import aggregate, analysis
from janoscope.results.earlier import rename_facts

STORED = Path(__file__).parents[2] / "reports" / "map-predicts-convergence" / "demo"


def as_schema_1(directory):
    path = directory / "analysis.json"
    path.write_text(
        path.read_text().replace("janoscope-analysis/2", "janoscope-analysis/1").replace("reuse_error", "holding_cost")
    )
    with np.load(directory / "analysis.npz") as stored:
        arrays = {name.replace("reuse_error", "holding_cost"): stored[name] for name in stored}
    np.savez(directory / "analysis.npz", **arrays)
    assert b"holding_cost" in (directory / "analysis.npz").read_bytes()


def test_schema_1_is_read_as_the_same_analysis(tmp_path):
    made = make_results(tmp_path)
    before = read_view(made.directory)
    as_schema_1(made.directory)
    after = read_view(made.directory)
    assert after.facts == before.facts
    assert after.arrays.keys() == before.arrays.keys()
    np.testing.assert_array_equal(after.arrays["reuse_error"], before.arrays["reuse_error"])


def test_what_version_0_1_0_stored_is_read():
    facts = aggregate.read_facts(STORED)
    assert "holding_cost" in (STORED / "aggregate.json").read_text()
    assert facts == rename_facts(json.loads((STORED / "aggregate.json").read_text())) | {"schema": "janoscope-aggregate/2"}
    assert "holding_cost" not in json.dumps(facts)
    (directory,) = (path.parent for path in STORED.glob("*/analysis.json"))
    one = analysis.read_facts(directory)
    arrays = analysis.read_analysis_arrays(directory, one)
    assert {"reuse_error", "reuse_error_steps", "tile_reuse_error"} <= arrays.keys()
    assert {row["target"] for row in one["map_predicts"]} == {"convergence_step", "reuse_error"}
    assert aggregate.read_one(directory)["convergence"]["whole_run"]["reuse_error_median"] > 0


def test_a_schema_to_come_is_refused(tmp_path):
    made = make_results(tmp_path)
    path = made.directory / "analysis.json"
    path.write_text(path.read_text().replace("janoscope-analysis/2", "janoscope-analysis/3"))
    with pytest.raises(InputError, match="its schema is 'janoscope-analysis/3', not 'janoscope-analysis/2'"):
        read_view(made.directory)
