"""The verdict on a map: what counts as separating, and where it is shown."""

import math

import pytest

from janoscope.analysis import Estimate
from janoscope.results.verdict import VerdictLevel, judge_analysis, judge_map, judge_recordings

UNDEFINED = Estimate(math.nan, math.nan, math.nan)
STRONG_AUROC, ABOVE_AUROC, CHANCE_AUROC = Estimate(0.92, 0.84, 0.98), Estimate(0.61, 0.55, 0.66), Estimate(0.42, 0.34, 0.51)
STRONG_RHO, ABOVE_RHO, CHANCE_RHO = Estimate(0.62, 0.5, 0.71), Estimate(0.39, 0.22, 0.53), Estimate(-0.04, -0.1, 0.03)


@pytest.mark.parametrize(
    ("auroc", "spearman", "level"),
    [
        (STRONG_AUROC, STRONG_RHO, "separates"),
        (STRONG_AUROC, ABOVE_RHO, "weak"),
        (ABOVE_AUROC, ABOVE_RHO, "weak"),
        (STRONG_AUROC, CHANCE_RHO, "weak"),
        (ABOVE_AUROC, CHANCE_RHO, "none"),
        (CHANCE_AUROC, CHANCE_RHO, "none"),
        (UNDEFINED, STRONG_RHO, "separates"),
        (UNDEFINED, ABOVE_RHO, "weak"),
        (CHANCE_AUROC, UNDEFINED, "none"),
        (UNDEFINED, UNDEFINED, "none"),
    ],
)
def test_the_level_follows_from_both_measures_and_their_intervals(auroc, spearman, level):
    assert judge_map(auroc, spearman).level is VerdictLevel(level)


def test_a_large_value_whose_interval_reaches_chance_is_chance():
    assert judge_map(Estimate(0.8, 0.45, 0.99), Estimate(0.7, -0.01, 0.9)).level is VerdictLevel.NONE


def test_the_sentence_carries_both_figures_and_says_what_no_separation_means():
    assert judge_map(CHANCE_AUROC, UNDEFINED).to_json() == {
        "level": "none",
        "sentence": "The map does not separate the tokens that need compute: AUROC of active against static tokens "
        "0.42 [0.34, 0.51], Spearman with the reuse error not defined; "
        "what this plan skips is chosen hardly better than at random.",
    }
    assert "at random" not in judge_map(STRONG_AUROC, ABOVE_RHO).sentence


def row(name, warmup, target, value, interval):
    return {"map": name, "warmup": warmup, "target": target, "spearman": value, "interval": interval}


def test_it_judges_the_policy_s_own_map_after_its_own_warm_up():
    separation = {"raw": {"auroc": 0.5, "interval": [0.4, 0.6]}, "converted": {"auroc": 0.9, "interval": [0.8, 1.0]}}
    rows = [
        row("jano", 5, "reuse_error", -0.5, [-0.6, -0.4]),
        row("jano", 7, "convergence_step", -0.5, [-0.6, -0.4]),
        row("ras", 7, "reuse_error", -0.5, [-0.6, -0.4]),
        row("jano", 7, "reuse_error", 0.6, [0.5, 0.7]),
    ]
    assert judge_analysis(separation, rows, "jano", 7).level is VerdictLevel.SEPARATES
    assert judge_analysis(separation, rows, "ras", 7).level is VerdictLevel.WEAK
    found = judge_recordings(separation, rows, "jano", 7, 3)
    assert found.sentence.startswith("The map separates the tokens that need compute over 3 recordings: ")


def test_nulls_of_a_result_file_are_not_defined_and_no_interval_is_no_evidence():
    separation = {"converted": {"auroc": None, "interval": [None, None]}}
    found = judge_analysis(separation, [row("jano", 7, "reuse_error", 0.9, [None, None])], "jano", 7)
    assert found.level is VerdictLevel.NONE
    assert "0.90 without interval" in found.sentence
