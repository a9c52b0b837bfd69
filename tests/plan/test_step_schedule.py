"""[schedule] policies: read, written, carried over to other runs, refused."""

import numpy as np
import pytest

from janoscope.errors import InputError
from janoscope.plan import Policy, StepKind, ladder, step_kinds
from janoscope.plan.step_schedule import StepSchedule

LISTED = """
name = "found/0.28"
output = "corrected"
[schedule]
steps = 10
computed = [0, 1, 3, 6, 9]
sigma = [1.0, 0.9, 0.7, 0.4, 0.1]
"""
RULE = """
name = "every-third"
output = "forecast"
[schedule]
every = 3
warmup = 2
cooldown = 1
"""


def test_a_listed_schedule_is_read_and_written_back():
    policy = Policy.from_toml(LISTED)
    assert policy.is_step_level
    assert policy.schedule == StepSchedule(10, (0, 1, 3, 6, 9), (1.0, 0.9, 0.7, 0.4, 0.1))
    assert Policy.from_toml(policy.to_toml()) == policy
    assert Policy.from_json(policy.to_json()) == policy
    assert set(policy.to_json()) == {"name", "output", "source", "schedule"}
    assert ladder(step_kinds(policy, 10)) == "RR.R..R..R"


def test_a_rule_computes_warm_up_every_third_step_and_cool_down():
    policy = Policy.from_toml(RULE)
    assert Policy.from_toml(policy.to_toml()) == policy
    assert ladder(step_kinds(policy, 10)) == "RRR..R..RR"
    assert step_kinds(policy, 2) == (StepKind.REFRESH, StepKind.REFRESH)


def test_token_level_policies_are_written_as_before():
    policy = Policy.from_toml(
        'name = "t"\nwarmup = 2\ncooldown = 1\ntile = [1, 2, 2]\nquantiles = {static = 0.3, moderate = 0.6}\n'
        "intervals = {static = 4, moderate = 3, active = 1}\n"
    )
    assert not policy.is_step_level
    assert not {"schedule", "learned"} & set(policy.to_json())


def test_a_list_is_carried_to_another_number_of_steps_by_sigma():
    schedule = Policy.from_toml(LISTED).schedule
    sigma = np.linspace(1.0, 0.05, 20)
    carried = schedule.computed_steps(20, sigma)
    assert len(carried) == 10
    assert carried[0] == 0
    assert list(carried) == sorted(set(carried))
    # the middle computed step of ten lies where the list passes the same share of its computed steps
    assert abs(sigma[carried[-1]] - 0.1) < 0.06
    shifted = np.linspace(1.0, 0.05, 20) ** 3  # falls faster: the same sigmas are passed earlier
    assert schedule.computed_steps(20, shifted)[5] < carried[5]
    assert not schedule.fits(20)


def test_another_path_of_sigma_is_another_run():
    schedule = Policy.from_toml(LISTED).schedule
    own = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert schedule.fits(10, own)
    assert schedule.computed_steps(10, own) == schedule.computed
    assert not schedule.fits(10, own**2)


@pytest.mark.parametrize("steps", [2, 3, 5, 7, 50])
def test_a_carried_list_always_fits_the_run(steps):
    carried = StepSchedule(10, (0, 1, 2, 3, 4, 5, 6, 7, 9)).computed_steps(steps)
    assert carried[0] == 0
    assert list(carried) == sorted(set(carried))
    assert carried[-1] < steps


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schedule": {"steps": 10, "computed": [1, 2]}}, "begin with step 0"),
        ({"schedule": {"steps": 10, "computed": [0, 10]}}, "holds step 10 of a run of 10"),
        ({"schedule": {"steps": 10, "computed": [0, 3, 2]}}, "has to ascend"),
        ({"schedule": {"computed": [0, 1]}}, "schedule.steps = None"),
        ({"schedule": {"every": 0}}, "schedule.every = 0"),
        ({"schedule": {"every": 2, "computed": [0, 1]}}, "no key 'every' beside computed"),
        ({"schedule": 5}, "schedule = 5"),
        ({"schedule": {"steps": 10, "computed": [0, 1], "sigma": [1.0]}}, "a number for each"),
        ({"schedule": {"steps": 10, "computed": [0, 1], "sigma": [0.5, 1.0]}}, "has to fall"),
        ({"warmup": 3}, "warmup mean nothing beside schedule"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"output": "guess"}, "legal: hold, forecast, corrected"),
        ({"learned": [[2, 1, 0.5], [3, 2, 1.0]]}, "no computed step"),
        ({"learned": [[2, 1]]}, "a list of"),
        ({"output": "hold", "learned": [[2, 1, 0.5]]}, "need output"),
    ],
)
def test_faults_are_named_with_what_is_legal(change, reason):
    table = {"name": "x", "output": "forecast", "schedule": {"steps": 10, "computed": [0, 1, 5]}} | change
    with pytest.raises(InputError, match=reason):
        Policy.from_table(table, "x.toml")


def test_learned_coefficients_travel_with_the_policy():
    table = {
        "name": "x",
        "output": "corrected",
        "schedule": {"steps": 4, "computed": [0, 1, 3]},
        "learned": [[2, 1, 1.7], [2, 0, -0.7]],
    }
    policy = Policy.from_table(table, "x.toml")
    assert policy.learned == ((2, 1, 1.7), (2, 0, -0.7))
    assert Policy.from_toml(policy.to_toml()) == policy
