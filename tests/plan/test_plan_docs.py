import re
from pathlib import Path

from janoscope.plan import Policy, StepKind, ladder, step_kinds
from janoscope.plan.policy import MAPS, OUTPUTS, PADDINGS, STRATEGIES, TOKEN_RULES

TEXT = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")


def block(language):
    return re.search(rf"```{language}\n(.*?)```", TEXT, re.S).group(1)


def test_the_documented_policy_is_legal_and_complete():
    policy = Policy.from_toml(block("toml"))
    assert Policy.from_toml(policy.to_toml()) == policy
    assert set(re.findall(r"^(\w+) =", block("toml"), re.M)) == set(policy.to_json())


def test_every_legal_word_is_documented():
    words = (*MAPS, *PADDINGS, *TOKEN_RULES, *OUTPUTS, *STRATEGIES)
    assert [word for word in words if f"`{word}`" not in TEXT] == []
    assert [kind for kind in StepKind if kind not in TEXT] == []


def test_the_documented_ladder_is_the_one_the_rule_gives():
    ladder_line = re.search(r"^W+R\S+", TEXT, re.M).group(0)
    assert ladder(step_kinds(Policy.from_toml(block("toml")), 30)) == ladder_line
