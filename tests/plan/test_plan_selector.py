import json
from pathlib import Path

import numpy as np
import pytest

from janoscope.grid import TokenGrid
from janoscope.plan import (
    Cache,
    Fingerprint,
    PlanSelector,
    Policy,
    RandomSelector,
    StepKind,
    ladder,
    plan_from_ranks,
    source_steps,
    step_kinds,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "cache_provenance.npz"
RULES = ("wan", "flux", "sd3")


def policy_of(warmup, cooldown, static, moderate, active=1):
    return Policy.from_table(
        {
            "name": "p",
            "warmup": warmup,
            "cooldown": cooldown,
            "tile": [1, 1, 1],
            "thresholds": {"static": 0.1, "moderate": 0.5},
            "intervals": {"static": static, "moderate": moderate, "active": active},
        },
        "test",
    )


def plan_of(policy, ranks, steps):
    grid = TokenGrid(1, (1, 1, len(ranks)), (1, 1, 1))
    print_ = Fingerprint("m", {}, grid, steps, "s", {}, "p", 0)
    return plan_from_ranks(policy, np.array(ranks, dtype=np.int8), print_)


def golden(rule):
    with np.load(GOLDEN) as data:
        info = json.loads(str(data["info"]))[rule]
        arrays = {key.removeprefix(f"{rule}_"): data[key] for key in data.files if key.startswith(rule)}
    moderate = info["static_interval"] if rule == "sd3" else info["medium_interval"]
    policy = policy_of(info["warmup"], info["cooldown"], info["static_interval"], moderate)
    return policy, info["N"], arrays


@pytest.mark.parametrize("rule", RULES)
def test_keys_values_and_outputs_come_from_the_official_steps(rule):
    policy, steps, arrays = golden(rule)
    kv_source, out_source = source_steps(step_kinds(policy, steps), arrays["mask"])
    np.testing.assert_array_equal(kv_source, arrays["kv_source_step"])
    np.testing.assert_array_equal(out_source, arrays["out_source_step"])


@pytest.mark.parametrize("rule", RULES)
def test_control_moderate_and_active_swapped_have_other_sources(rule):
    policy, steps, arrays = golden(rule)
    swapped = np.array([0, 1, 3, 2], dtype=np.int8)[arrays["mask"]]
    assert (source_steps(step_kinds(policy, steps), swapped)[0] != arrays["kv_source_step"]).any()


@pytest.mark.parametrize("rule", RULES)
def test_the_plan_selector_computes_the_official_number_of_tokens_and_their_indices_explain_the_sources(rule):
    policy, steps, arrays = golden(rule)
    plan = plan_of(policy, arrays["mask"], steps)
    selector = PlanSelector(plan)
    last = np.full(len(plan.token_level), -1)
    for step in range(steps):
        selection = selector.select(step)
        indices = np.arange(last.size) if selection.indices is None else selection.indices
        last[indices] = step
        assert indices.size == arrays["n_computed"][step]
        assert selection.kind is plan.step_kind[step]
        np.testing.assert_array_equal(last, arrays["out_source_step"][step])


def test_indices_are_ascending_int64_and_a_kind_computes_its_level_and_the_more_active():
    plan = plan_of(policy_of(1, 1, 6, 2, 1), [2, 3, 1, 3, 2, 1, 1], 8)
    selections = [PlanSelector(plan).select(step) for step in range(8)]
    met = [(s.kind.value, None if s.indices is None else s.indices.tolist()) for s in selections]
    active, moderate = ("active", [1, 3]), ("moderate", [0, 1, 3, 4])
    full = [("warmup", None), ("refresh", None), ("cooldown", None)]
    assert met == [*full[:2], active, moderate, active, moderate, active, full[2]]
    assert {s.indices.dtype for s in selections if s.indices is not None} == {np.dtype(np.int64)}


def test_a_partial_step_without_tokens_is_a_reuse_step():
    plan = plan_of(policy_of(1, 0, 4, 2), [1, 1, 2], 5)
    met = [PlanSelector(plan).select(step) for step in range(5)]
    assert [s.kind for s in met] == [StepKind.WARMUP, StepKind.REFRESH, StepKind.REUSE, StepKind.MODERATE, StepKind.REUSE]
    assert met[2].indices.size == 0


def test_nothing_is_computed_at_a_reuse_step():
    kinds = (StepKind.REFRESH, StepKind.REUSE, StepKind.ACTIVE)
    kv_source, out_source = source_steps(kinds, np.array([1, 2, 3], dtype=np.int8))
    assert kv_source.tolist() == out_source.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 2]]


def test_random_tokens_have_the_plans_kinds_and_counts_and_change_from_step_to_step():
    plan = plan_of(policy_of(2, 1, 8, 4), [1] * 40 + [2] * 30 + [3] * 20, 20)
    planned, drawn, again = PlanSelector(plan), RandomSelector(plan, seed=5), RandomSelector(plan, seed=5)
    choices = []
    for step in reversed(range(20)):
        p, r, same = planned.select(step), drawn.select(step), again.select(step)
        assert r.kind is p.kind
        if p.indices is None:
            assert r.indices is None
            continue
        assert r.indices.size == p.indices.size == np.unique(r.indices).size
        np.testing.assert_array_equal(r.indices, same.indices)
        np.testing.assert_array_equal(r.indices, np.sort(r.indices))
        choices.append((r.indices.tobytes(), p.indices.tobytes()))
    assert len({mine for mine, _ in choices}) == len(choices) > 10
    assert all(mine != theirs for mine, theirs in choices)
    assert any((RandomSelector(plan, 6).select(s).indices != drawn.select(s).indices).any() for s in (3, 4, 5))


def test_a_selector_that_obeys_a_plan_has_it_from_the_start_and_wants_no_step():
    plan = plan_of(policy_of(2, 1, 8, 4), [1, 2, 3], 20)
    for selector in (PlanSelector(plan), RandomSelector(plan, 0)):
        assert selector.plan is plan
        assert not any(selector.wants(step) for step in range(20))


def test_keys_are_written_where_a_partial_step_reads_them():
    plan = plan_of(policy_of(2, 1, 4, 2), [1, 2, 3], 9)
    assert ladder(plan.step_kind) == "WWRamaRaC"
    assert [step for step in range(9) if PlanSelector(plan).writes_keys(step)] == [2, 6]
    forecasting = plan.with_cache(Cache(forecast=True))
    assert [step for step in range(9) if PlanSelector(forecasting).writes_keys(step)] == [1, 2, 6], "two points for a line"


def test_tokens_drawn_anew_may_skip_any_token_and_a_plans_only_its_lower_levels():
    plan = plan_of(policy_of(2, 1, 8, 4), [1, 2, 3], 20)
    assert [group.tolist() for group in PlanSelector(plan).skipped_groups()] == [[0], [1]]
    assert [group.tolist() for group in RandomSelector(plan, 0).skipped_groups()] == [[0, 1, 2]]
