import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from janoscope.errors import InputError
from janoscope.plan import Intervals, Policy, Split, StepKind, ladder, skipped_groups, step_kinds
from janoscope.plan.schedule import LETTERS, counts

GOLDEN = Path(__file__).parents[1] / "golden" / "schedules.npz"
OFFICIAL = {  # our words -> the official level of a step
    StepKind.WARMUP: 0,
    StepKind.COOLDOWN: 0,
    StepKind.REFRESH: 3,
    StepKind.MODERATE: 2,
    StepKind.ACTIVE: 1,
}


def policy_of(warmup, cooldown, static, moderate, active=1):
    return Policy("p", warmup, cooldown, (1, 4, 4), Intervals(static, moderate, active), Split(0.1, 0.5))


def golden_cases():
    with np.load(GOLDEN) as data:
        for name, info in json.loads(str(data["info"])).items():
            moderate = info["static_interval"] if info["rule"] == "sd3" else info["medium_interval"]  # SD3 never emits moderate
            yield (
                name,
                policy_of(info["warmup"], info["cooldown"], info["static_interval"], moderate),
                info["N"],
                data[name].tolist(),
            )


@pytest.mark.parametrize(
    ("name", "policy", "steps", "levels"), list(golden_cases()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_step_kinds_match_the_official_schedule(name, policy, steps, levels):
    assert [OFFICIAL[kind] for kind in step_kinds(policy, steps)] == levels


def test_all_golden_schedules_were_met():
    assert len(list(golden_cases())) == 19


def test_control_a_rule_counted_from_the_start_of_the_run_is_told_apart():
    differing = 0
    for _, policy, steps, levels in golden_cases():
        every = policy.intervals
        wrong = [
            0 if s < policy.warmup or s >= steps - policy.cooldown or every.static * every.moderate == 0
            else 3 if s % every.static == 0 else 2 if s % every.moderate == 0 else 1
            for s in range(steps)
        ]  # fmt: skip
        differing += wrong != levels
    assert differing >= 10


def test_control_moderate_before_refresh_is_told_apart():
    _, policy, steps, levels = next(case for case in golden_cases() if case[0] == "mi_eq_si")
    since = [step - policy.warmup for step in range(policy.warmup, steps - policy.cooldown)]
    swapped = [2 if d % policy.intervals.moderate == 0 else 3 if d % policy.intervals.static == 0 else 1 for d in since]
    assert swapped != levels[policy.warmup : steps - policy.cooldown]


def test_a_ladder_written_by_hand():
    kinds = step_kinds(policy_of(2, 1, 6, 4, 2), 16)
    #  d         0 1 2 3 4 5 6 7 8 9 10 11 12
    assert ladder(kinds) == "WWR.a.m.R.m.a.RC"


def test_between_two_active_steps_nothing_is_computed():
    assert ladder(step_kinds(policy_of(1, 0, 9, 9, 3), 10)) == "WR..a..a.."


@pytest.mark.parametrize(("static", "moderate"), [(0, 2), (5, 0), (0, 0)])
def test_an_interval_of_0_makes_every_step_full_warm_up_then_cool_down(static, moderate):
    assert ladder(step_kinds(policy_of(3, 2, static, moderate), 8)) == "WWWCCCCC"


@pytest.mark.parametrize(
    ("warmup", "cooldown", "expected"), [(8, 0, "WWWWWW"), (5, 3, "WWWWWC"), (0, 6, "CCCCCC"), (0, 9, "CCCCCC")]
)
def test_warm_up_and_cool_down_that_meet_leave_only_full_steps(warmup, cooldown, expected):
    assert ladder(step_kinds(policy_of(warmup, cooldown, 4, 2), 6)) == expected


def test_refuses_a_run_without_steps():
    with pytest.raises(InputError, match="0 steps cannot be planned"):
        step_kinds(policy_of(1, 1, 4, 2), 0)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(1, 4), st.integers(1, 40))
def test_the_first_step_after_warm_up_refreshes_and_full_steps_frame_the_run(warmup, cooldown, static, moderate, active, steps):
    kinds = step_kinds(policy_of(warmup, cooldown, static, moderate, active), steps)
    assert len(kinds) == steps
    assert all(kind is StepKind.WARMUP for kind in kinds[:warmup])
    if warmup + cooldown < steps and static * moderate:
        assert kinds[warmup] is StepKind.REFRESH
        assert all(kind is StepKind.COOLDOWN for kind in kinds[steps - cooldown :])
        assert not {StepKind.WARMUP, StepKind.COOLDOWN} & set(kinds[warmup : steps - cooldown])
    else:
        assert all(kind.is_full for kind in kinds)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("WRmaC", [[0, 3], [1]]),
        ("WRmmC", [[0, 3]]),  # moderate tokens are computed at every step
        ("WR..C", []),  # nobody reads keys at a step without a call
        ("WR.aC", [[0, 3], [1]]),
        ("WRRRC", []),
    ],
)
def test_skipped_groups_are_the_levels_that_some_partial_step_leaves_out(steps, expected):
    kinds = [next(kind for kind, letter in LETTERS.items() if letter == step) for step in steps]
    groups = skipped_groups(kinds, np.array([1, 2, 3, 1], dtype=np.int8))
    assert [group.tolist() for group in groups] == expected


def test_an_active_step_without_active_tokens_skips_nobody():
    assert skipped_groups([StepKind.REFRESH, StepKind.ACTIVE], np.array([1, 2], dtype=np.int8)) == []


def test_counts_name_every_kind():
    kinds = step_kinds(policy_of(7, 2, 8, 5), 50)  # method notes: Flux 8/5 gives 9, 28, 7, 6 of levels 0, 1, 2, 3
    assert counts(kinds) == {
        StepKind.WARMUP: 7,
        StepKind.REFRESH: 6,
        StepKind.MODERATE: 7,
        StepKind.ACTIVE: 28,
        StepKind.REUSE: 0,
        StepKind.COOLDOWN: 2,
    }
