import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from janoscope.errors import InputError
from janoscope.grid import TokenGrid
from janoscope.plan import (
    SCHEMA,
    Cache,
    Difference,
    Fingerprint,
    ModelFacts,
    Plan,
    Policy,
    StepKind,
    TokenLevel,
    make_plan,
    plan_from_ranks,
    transformer_identity,
)
from janoscope.plan.plan import _check_order

GRID = TokenGrid(3, (1, 4, 10), (1, 2, 2))  # 2 x 5 tokens
PRINT = Fingerprint(
    model="demo",
    transformer={"class": "FluxTransformer2DModel", "sha256": "ab"},
    grid=GRID,
    steps=12,
    scheduler={"class": "FlowMatchEulerDiscreteScheduler", "shift": 0.4},
    guidance={"scale": 2.5, "negative_prompt": ""},
    prompt="a cat",
    seed=7,
)
POLICY = Policy.from_table(
    {
        "name": "p",
        "warmup": 3,
        "cooldown": 1,
        "tile": [1, 2, 2],
        "thresholds": {"static": 0.1, "moderate": 0.5},
        "intervals": {"static": 4, "moderate": 2},
    },
    "test",
)
SCORES = np.array([[[0.0, 0.2, 0.6, 0.0, 0.0], [0.0, 0.5, 1.0, 0.1, 0.0]]])
FACTS = ModelFacts(layers=2, width=8, feed_forward=32, text="joint", text_tokens=5)


def test_a_plan_holds_levels_kinds_and_the_prediction():
    plan = make_plan(POLICY, SCORES, PRINT, FACTS)
    s, m, a = TokenLevel
    assert plan.token_level == (s, m, a, s, s, s, m, a, s, s)
    w, r, mod, act, _, c = StepKind
    assert plan.step_kind == (w, w, w, r, act, mod, act, r, act, mod, act, c)
    # joint: (computed + 5) / (10 + 5) of a step; 4 active steps of 2, 2 moderate of 4, 6 full
    assert plan.predicted.compute == pytest.approx((6 + 4 * 7 / 15 + 2 * 9 / 15) / 12)
    assert plan.predicted.cache_bytes == 2 * 2 * 15 * 8 * 2
    assert plan.ranks.tolist() == [1, 2, 3, 1, 1, 1, 2, 3, 1, 1]


def test_the_same_input_gives_an_equal_plan_and_another_score_another():
    assert make_plan(POLICY, SCORES, PRINT, FACTS) == make_plan(POLICY, SCORES.copy(), PRINT, FACTS)
    assert make_plan(POLICY, SCORES[:, :, ::-1], PRINT, FACTS) != make_plan(POLICY, SCORES, PRINT, FACTS)


def test_a_plan_written_as_text_reads_back_equal():
    for facts in (FACTS, None):
        plan = make_plan(POLICY, SCORES, PRINT, facts)
        assert Plan.from_text(plan.to_text()) == plan


def test_the_file_has_the_fields_of_the_contract():
    data = json.loads(make_plan(POLICY, SCORES, PRINT, FACTS).to_text())
    assert list(data) == ["schema", "fingerprint", "policy", "token_level", "step_kind", "predicted"]
    assert data["schema"] == SCHEMA == "janoscope-plan/1"
    assert set(data["fingerprint"]) == {"model", "transformer", "grid", "steps", "scheduler", "guidance", "prompt", "seed"}
    assert data["token_level"][:3] == ["static", "moderate", "active"]
    assert data["step_kind"][:4] == ["warmup", "warmup", "warmup", "refresh"]
    assert set(data["predicted"]) == {"compute", "speedup", "cache_bytes"}


def damaged(change):
    data = json.loads(make_plan(POLICY, SCORES, PRINT, FACTS).to_text())
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "part_of_message"),
    [
        (
            lambda d: d.update(schema="janoscope-plan/2"),
            "its schema is 'janoscope-plan/2', this version reads 'janoscope-plan/1'",
        ),
        (lambda d: d.pop("schema"), "its schema is None"),
        (lambda d: d.pop("policy"), "lacks 'policy'"),
        (lambda d: d.update(extra=1), "has unknown 'extra'"),
        (lambda d: d["fingerprint"].pop("seed"), "the fingerprint lacks 'seed'"),
        (lambda d: d["fingerprint"].update(steps="12"), "steps = '12', not a count"),
        (lambda d: d["fingerprint"].update(grid=[1]), "[1] is no token grid"),
        (lambda d: d.update(fingerprint=None), "no fingerprint table but None"),
        (lambda d: d["policy"].update(warmup=-1), "warmup = -1; legal"),
        (lambda d: d["token_level"].pop(), "token_level has 9 words, its fingerprint asks for 10"),
        (lambda d: d["token_level"].__setitem__(4, "medium"), "token_level holds 'medium'; legal: static, moderate, active"),
        (lambda d: d["token_level"].__setitem__(4, 1), "token_level holds 1; legal"),
        (lambda d: d.update(step_kind="warmup"), "step_kind has 'warmup', its fingerprint asks for 12"),
        (lambda d: d["step_kind"].append("cooldown"), "step_kind has 13 words"),
        (lambda d: d["step_kind"].__setitem__(3, "active"), "step 3 is active, but no refresh stands before it"),
        (lambda d: d["step_kind"].__setitem__(0, "reuse"), "step 0 is reuse, but no full step stands before it"),
        (lambda d: d["predicted"].pop("compute"), "it needs compute, speedup, cache_bytes"),
        (lambda d: d["predicted"].update(speedup=None), "predicted speedup = None"),
        (lambda d: d["predicted"].update(compute=float("nan")), "predicted compute = nan"),
    ],
)
def test_refuses_a_damaged_plan_in_one_line(change, part_of_message):
    with pytest.raises(InputError) as error:
        Plan.from_json(damaged(change), "plan.json")
    assert part_of_message in str(error.value)
    assert str(error.value).startswith("plan.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (["warmup", "moderate", "refresh", "moderate"], "step 1 is moderate, but no refresh stands before it"),
        (["reuse", "warmup", "refresh", "moderate"], "step 0 is reuse, but no full step stands before it"),
        (["warmup", "refresh", "reuse", "moderate"], None),
        (["warmup", "reuse", "refresh", "active"], None),
    ],
)
def test_a_step_that_reads_what_nothing_wrote_is_refused(kinds, said):
    words = tuple(StepKind(kind) for kind in kinds)
    if said is None:
        _check_order(words, "plan.json")
        return
    with pytest.raises(InputError, match=said):
        _check_order(words, "plan.json")


def test_the_order_of_steps_is_checked_in_one_pass():
    """Counted, not timed: each step's kind is looked at a few times, however many stand before it."""

    class Watched(tuple):
        slices = 0

        def __getitem__(self, at):
            Watched.slices += isinstance(at, slice)
            return super().__getitem__(at)

    _check_order(Watched([StepKind.WARMUP, StepKind.REFRESH, *[StepKind.MODERATE] * 1000]), "plan.json")
    assert Watched.slices == 0


def test_ranks_are_worked_out_once_and_cannot_be_changed():
    plan = make_plan(POLICY, SCORES, PRINT, FACTS)
    assert plan.ranks is plan.ranks
    with pytest.raises(ValueError, match="read-only"):
        plan.ranks[0] = 3
    other = replace(plan, token_level=tuple(reversed(plan.token_level)))
    np.testing.assert_array_equal(other.ranks, plan.ranks[::-1])
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_control_the_undamaged_plan_is_accepted():
    assert Plan.from_json(damaged(lambda d: None)) == make_plan(POLICY, SCORES, PRINT, FACTS)


def test_refuses_text_that_is_not_a_plan():
    with pytest.raises(InputError, match=r"plan.json is not JSON: .*line 1"):
        Plan.from_text("{", "plan.json")
    with pytest.raises(InputError, match="its schema is 'list'"):
        Plan.from_text("[]", "plan.json")


def test_refuses_levels_of_another_length():
    with pytest.raises(InputError, match=r"levels of shape \(9,\) do not fit the 10 tokens"):
        plan_from_ranks(POLICY, np.ones(9, dtype=np.int8), PRINT)


CHANGED = {
    "model": "other",
    "transformer": {"class": "FluxTransformer2DModel", "sha256": "ac"},
    "grid": TokenGrid(3, (1, 10, 4), (1, 2, 2)),
    "steps": 13,
    "scheduler": {"class": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    "guidance": {"scale": 2.5, "negative_prompt": "blurry"},
    "prompt": "a dog",
    "seed": 8,
}


@pytest.mark.parametrize("field", CHANGED)
def test_a_difference_names_exactly_the_field_that_differs(field):
    other = Fingerprint(**{**vars(PRINT), field: CHANGED[field]})
    differences = PRINT.difference(other)
    assert differences == [Difference(field, PRINT.to_json()[field], other.to_json()[field])]
    assert bool(PRINT.difference(other, any_prompt=True)) is (field not in ("prompt", "seed"))


def test_a_fingerprint_read_back_differs_in_nothing():
    tuples = Fingerprint(**{**vars(PRINT), "guidance": {"scale": 2.5, "negative_prompt": "", "window": (0, 1)}})
    assert Fingerprint.from_json(json.loads(json.dumps(tuples.to_json()))).difference(tuples) == []


def test_the_transformer_identity_ignores_order_and_private_keys_but_no_value():
    identity = transformer_identity(
        "T", {"num_layers": 2, "axes": (1, 2), "_diffusers_version": "0.42", "_name_or_path": "/home/x"}
    )
    assert identity == transformer_identity("T", {"axes": [1, 2], "num_layers": 2})
    assert identity["class"] == "T"
    assert len(identity["sha256"]) == 64
    assert transformer_identity("T", {"axes": [1, 2], "num_layers": 3})["sha256"] != identity["sha256"]


def test_a_config_value_that_json_does_not_know_counts_by_its_words():
    of = {dtype: transformer_identity("T", {"dtype": dtype})["sha256"] for dtype in (np.float32, np.float64)}
    assert of[np.float32] == transformer_identity("T", {"dtype": str(np.float32)})["sha256"] != of[np.float64]


def test_true_is_no_count_of_steps():
    with pytest.raises(InputError, match="steps = True, not a count from 1"):
        Fingerprint.from_json(PRINT.to_json() | {"steps": True})


def test_describe_shows_shares_ladder_and_prediction():
    assert make_plan(POLICY, SCORES, PRINT, FACTS).describe().splitlines() == [
        "plan      p for demo, prompt 'a cat', seed 7",
        "tokens    10 (1 x 2 x 5): 2 active (20.0%), 2 moderate (20.0%), 6 static (60.0%)",
        "steps     12: 3 warmup, 2 refresh, 2 moderate, 4 active, 1 cooldown",
        "ladder    WWWRamaRamaC",
        "predicted compute 0.756 of the full run's FLOPs (FLOP ratio 1.32x), cache 0.0 MiB",
    ]


def test_a_run_of_one_step_and_a_prompt_in_any_script_survive_the_file():
    print_ = replace(PRINT, steps=1, prompt="eine Kuh läuft, 猫")
    text = make_plan(Policy.from_table(POLICY.to_json() | {"warmup": 0}, "test"), SCORES, print_).to_text()
    assert Plan.from_text(text).fingerprint == print_
    assert "läuft, 猫" in text, "people read it"


def test_another_cache_leaves_everything_else_and_unknown_bytes():
    plan = make_plan(POLICY, SCORES, PRINT, FACTS)
    other = plan.with_cache(Cache("hidden"))
    assert (other.policy.cache, other.predicted.cache_bytes) == (Cache("hidden"), None)
    assert other.with_cache(plan.policy.cache).policy == plan.policy
    assert (other.token_level, other.step_kind, other.predicted[:2]) == (plan.token_level, plan.step_kind, plan.predicted[:2])


def test_describe_tells_the_cache_in_mib_or_that_nobody_knows_it():
    large = ModelFacts(layers=2, width=2**15, feed_forward=32)
    assert make_plan(POLICY, SCORES, PRINT, large).describe().endswith("cache 2.5 MiB")  # 2 x 2 x 10 tokens x 2^15 x 2 bytes
    assert make_plan(POLICY, SCORES, PRINT).describe().endswith("cache unknown")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"warmup": 11}, "(warm-up 11 + cool-down 1 leave none of 12 between them)"),
        ({"intervals": {"static": 0, "moderate": 2}}, "(an interval of 0 makes every step full)"),
        ({"thresholds": {"static": -1, "moderate": -1}}, "(no token's level is ever skipped at these intervals)"),
    ],
)
def test_describe_says_when_nothing_can_be_skipped(change, reason):
    policy = Policy.from_table(POLICY.to_json() | change, "test")
    plan = make_plan(policy, SCORES, PRINT, FACTS)
    assert plan.skips_nothing
    assert plan.predicted.compute == 1.0
    assert plan.describe().splitlines()[-1] == f"note      nothing can be skipped: every token is computed at every step {reason}"


def test_control_a_plan_that_skips_has_no_such_note():
    plan = make_plan(POLICY, SCORES, PRINT, FACTS)
    assert not plan.skips_nothing
    assert "nothing can be skipped" not in plan.describe()


def test_the_repr_does_not_print_every_token():
    big = Fingerprint(**{**vars(PRINT), "grid": TokenGrid(3, (21, 60, 104), (1, 2, 2))})
    assert len(repr(plan_from_ranks(POLICY, np.ones(32760, dtype=np.int8), big))) < 2000
