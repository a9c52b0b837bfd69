"""A policy is shown in words, and one that skips whole steps without what it does not use."""

from dataclasses import replace

import pytest
from report_results import make_results

from janoscope.plan import Policy, StepKind, TokenLevel
from janoscope.plan.schedule import step_kinds
from janoscope.report import render_analysis
from janoscope.report.policy_words import policy_rows
from janoscope.results.analysis import AnalysisResult

SKIPS = ("skips", "whole steps, all tokens alike")
TOKENS = {
    "name": "by tokens", "map": "jano", "warmup": 7, "cooldown": 2, "tile": [1, 4, 4], "temporal_weight": 0.5,
    "quantiles": {"static": 0.3, "moderate": 0.6}, "intervals": {"static": 8, "moderate": 5, "active": 1},
}  # fmt: skip


def rows_of(table):
    return policy_rows(Policy.from_table(table, "test"))


def test_a_list_of_computed_steps_is_told_as_one():
    schedule = {"steps": 10, "computed": [0, 1, 4, 9]}
    assert rows_of({"name": "a", "output": "corrected", "schedule": schedule, "source": "a test"}) == [
        SKIPS,
        ("computed steps", "4 of 10: 0, 1, 4, 9"),
        ("skipped steps", "extrapolated, and corrected at the next computed step"),
        ("source", "a test"),
    ]


def test_a_token_level_policy_that_skips_whole_steps_shows_no_map_or_tile():
    """As `calibrate` wrote them before there was a schedule: every token is active."""
    all_active = {"quantiles": {"static": 0, "moderate": 0}, "intervals": {"static": 6, "moderate": 6, "active": 3}}
    table = TOKENS | {"map": "random"} | all_active
    assert rows_of(table) == [
        SKIPS,
        ("computed steps", "the first 7, every 3rd and every 6th after them, and the last 2"),
        ("skipped steps", "the last output is reused"),
    ]


def test_a_policy_of_token_levels_says_where_they_are_cut_and_how_often_computed():
    rows = dict(rows_of(TOKENS))
    assert rows["map"] == "jano, made after 7 warm-up steps"
    assert rows["levels"] == "the lowest 30% of the tiles static, the next 30% moderate, the rest active"
    assert rows["intervals"] == "static tokens every 8 steps, moderate tokens every 5 steps, active tokens every step"
    assert rows["tile"] == "1 × 4 × 4 latent cells (frames × rows × columns)"


@pytest.mark.parametrize("skips", [True, False])
def test_the_page_of_a_step_level_plan_shows_its_steps_and_no_levels(tmp_path, skips):
    """Control: the page of the plan with levels has them."""
    made = make_results(tmp_path)
    if skips:
        policy = Policy.from_table({"name": "thirds", "schedule": {"every": 3, "warmup": 2, "cooldown": 1}}, "test")
        steps = len(made.plan.step_kind)
        levels = (TokenLevel.ACTIVE,) * len(made.plan.token_level)
        plan = replace(made.plan, policy=policy, token_level=levels, step_kind=step_kinds(policy, steps))
        assert set(plan.step_kind) == {StepKind.REFRESH, StepKind.REUSE}
        (made.directory / "plan.json").write_text(plan.to_text())
    text = render_analysis(made.directory).read_text(encoding="utf-8")
    for place in ('id="figure-levels"', 'id="table-levels"', 'class="legend">\n<li><i'):
        assert (place in text) is not skips
    assert ("the first 2, every 3rd after them, and the last 1" in text) is skips
    assert 'id="figure-schedule"' in text
    assert 'id="table-kinds"' in text


def test_an_analysis_at_hand_is_saved_and_drawn(tmp_path):
    made = make_results(tmp_path)
    analysis = AnalysisResult.read(made.directory)
    page = render_analysis(tmp_path / "again", analysis=analysis)
    assert page == tmp_path / "again" / "report.html"
    again = AnalysisResult.read(tmp_path / "again")
    assert again.facts["map_predicts"] == analysis.facts["map_predicts"]
    assert set(again.arrays) == set(analysis.arrays)
    assert again.plan == analysis.plan
