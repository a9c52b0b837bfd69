import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janoscope.errors import InputError
from janoscope.plan import Cache, Enhance, Intervals, Policy, Split, preset
from janoscope.probe import probe_paths

# the example of the contract, word for word
CONTRACT = """
name = "jano/flux-1/1"
map = "jano"                 # jano | x0-gradient | velocity-change | ras | random | oracle
warmup = 7
cooldown = 2
tile = [1, 8, 8]             # latent cells
temporal_weight = 0.0
initial_latent = true
padding = "count"            # count | exclude
enhance = { strength = 0.8, distance = 2 }
tokens = "majority"          # majority | packed | maximum
thresholds = { static = 0.1, moderate = 0.5 }
intervals = { static = 8, moderate = 5, active = 1 }
output = "hold"              # hold | forecast
cache = { strategy = "kv", forecast = false }
source = "arXiv 2603.00519 supplementary, Table 1"
[measured_on]
"""
LEAST = {
    "name": "p",
    "warmup": 3,
    "cooldown": 1,
    "tile": [1, 4, 4],
    "thresholds": {"static": 0.1, "moderate": 0.5},
    "intervals": {"static": 4, "moderate": 2},
}


def test_reads_the_contract_example_field_by_field():
    assert Policy.from_toml(CONTRACT) == Policy(
        name="jano/flux-1/1",
        map="jano",
        warmup=7,
        cooldown=2,
        tile=(1, 8, 8),
        temporal_weight=0.0,
        initial_latent=True,
        padding="count",
        enhance=Enhance(0.8, 2),
        tokens="majority",
        thresholds=Split(0.1, 0.5),
        quantiles=None,
        intervals=Intervals(8, 5, 1),
        output="hold",
        cache=Cache("kv", False),
        source="arXiv 2603.00519 supplementary, Table 1",
        measured_on={},
    )


def test_a_short_table_gets_the_documented_defaults():
    policy = Policy.from_table(LEAST, "here")
    assert (policy.map, policy.initial_latent, policy.padding, policy.tokens, policy.output) == (
        "jano",
        True,
        "count",
        "majority",
        "hold",
    )
    assert (policy.intervals.active, policy.cache, policy.enhance) == (1, Cache("kv", False), Enhance(0.8, 2))


@pytest.mark.parametrize(
    ("change", "part_of_message"),
    [
        ({"name": 3}, "name = 3; text is needed"),
        ({"source": None}, "source = None; text is needed"),
        ({"warmup": -1}, "warmup = -1; legal: integers from 0"),
        ({"warmup": True}, "warmup = True; legal: integers from 0"),
        ({"cooldown": 2.5}, "cooldown = 2.5; legal: integers from 0"),
        ({"tile": [1, 0, 4]}, "tile = [1, 0, 4]; legal: three integers from 1"),
        ({"tile": [4, 4]}, "tile = [4, 4]; legal: three integers from 1"),
        ({"map": "Jano"}, "map = 'Jano'; legal: jano, x0-gradient, velocity-change, ras, random, oracle"),
        ({"padding": "drop"}, "padding = 'drop'; legal: count, exclude"),
        ({"tokens": ["majority"]}, "legal: majority, packed, maximum"),
        ({"output": "held"}, "output = 'held'; legal: hold, forecast"),
        ({"temporal_weight": 1.5}, "temporal_weight = 1.5; legal: numbers from 0 to 1"),
        ({"initial_latent": 1}, "initial_latent = 1; legal: true, false"),
        ({"enhance": {"distance": 0}}, "enhance.distance = 0; legal: numbers above 0"),
        ({"thresholds": {"static": "low", "moderate": 0.5}}, "thresholds.static = 'low'; a finite number is needed"),
        ({"thresholds": {"static": 0.1}}, "thresholds lacks 'moderate'"),
        ({"thresholds": float("nan")}, "thresholds = nan; a table with static, moderate is needed"),
        ({"intervals": {"static": 4, "moderate": -2}}, "intervals.moderate = -2; legal: integers from 0"),
        ({"intervals": {"static": 4, "moderate": 2, "active": 0}}, "intervals.active = 0; legal: integers from 1"),
        ({"intervals": {"static": 4, "moderate": 2, "medium": 1}}, "intervals has no key 'medium'"),
        ({"cache": {"strategy": "fp8"}}, "cache.strategy = 'fp8'; legal: kv, hidden, kv-fp8, kv-int8, offload"),
        ({"cache": {"device_mib": 9, "window": 3}}, "cache.device_mib and cache.window belong to strategy offload, not to 'kv'"),
        ({"cache": {"strategy": "hidden", "forecast": True}}, "cache.forecast draws a line through keys and values"),
        ({"quantiles": {"static": 0.3, "moderate": 0.6}}, "needs exactly one of 'thresholds' and 'quantiles'"),
        ({"warm_up": 3}, "unknown key 'warm_up' (known: name, map, warmup"),
        ({"measured_on": 3}, "measured_on = 3; a table is needed"),
    ],
)
def test_refuses_a_bad_value_and_says_what_is_legal(change, part_of_message):
    with pytest.raises(InputError) as error:
        Policy.from_table(LEAST | change, "mine.toml")
    message = str(error.value)
    assert part_of_message in message
    assert message.startswith("mine.toml is not a policy: ")
    assert "\n" not in message


def test_a_cache_table_by_itself_is_checked_as_in_a_policy():
    given = {"strategy": "offload", "device_mib": 64, "window": 3}
    assert Cache.from_table(given, "--cache") == Cache("offload", False, 64, 3)
    policy = Policy.from_table(LEAST | {"cache": given}, "here")
    assert policy.cache == Cache.from_table(given, "--cache") == Policy.from_toml(policy.to_toml()).cache
    with pytest.raises(InputError, match=r"--cache: cache.window = 0; legal: integers from 1\. See docs/policy\.md"):
        Cache.from_table(given | {"window": 0}, "--cache")


def test_reports_all_faults_in_one_message():
    with pytest.raises(InputError) as error:
        Policy.from_table({"map": "x", "warmup": -1, "tile": 3}, "mine.toml")
    message = str(error.value)
    for part in (
        "lacks 'name'",
        "lacks 'cooldown'",
        "lacks 'intervals'",
        "map = 'x'",
        "warmup = -1",
        "tile = 3",
        "exactly one of",
    ):
        assert part in message


def test_refuses_quantiles_that_are_not_cumulative():
    table = {k: v for k, v in LEAST.items() if k != "thresholds"} | {"quantiles": {"static": 0.6, "moderate": 0.3}}
    with pytest.raises(InputError, match="both are cumulative fractions"):
        Policy.from_table(table, "mine.toml")


def test_accepts_inverted_thresholds_since_the_official_code_does():
    assert Policy.from_table(LEAST | {"thresholds": {"static": 0.5, "moderate": 0.3}}, "here").thresholds == Split(0.5, 0.3)


def test_names_the_line_of_broken_toml():
    with pytest.raises(InputError, match=r"mine.toml is not TOML: .*line 2"):
        Policy.from_toml('name = "p"\nwarmup = \n', "mine.toml")


numbers = st.floats(allow_nan=False, allow_infinity=False)
fractions = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
text = st.text(st.characters(codec="utf-8"))
values = st.one_of(text, numbers, st.booleans(), st.integers(-(2**62), 2**62), st.lists(st.integers(0, 9)))
splits = st.one_of(
    st.builds(lambda a, b: {"thresholds": {"static": a, "moderate": b}}, numbers, numbers),
    fractions.map(lambda pair: {"quantiles": {"static": pair[0], "moderate": pair[1]}}),
)


@given(
    text,
    splits,
    st.lists(st.integers(1, 99), min_size=3, max_size=3),
    st.integers(0, 99),
    st.dictionaries(text, values, max_size=4),
)
def test_a_policy_written_as_toml_and_as_json_reads_back_equal(name, split, tile, interval, measured):
    table = {k: v for k, v in LEAST.items() if k != "thresholds"} | split
    table |= {"name": name, "tile": tile, "intervals": {"static": interval, "moderate": 7, "active": 2}, "measured_on": measured}
    policy = Policy.from_table(table, "here")
    assert Policy.from_toml(policy.to_toml()) == policy
    assert Policy.from_json(policy.to_json()) == policy


def test_what_was_measured_is_a_table_of_its_own_at_the_end():
    measured = {"psnr_db": 41.5, "on": ["demo", "demo:video"], "steps": {"full": 50}, "more": {}}
    text = Policy.from_table(LEAST | {"measured_on": measured, "source": "calibrated"}, "here").to_toml()
    assert text.endswith('\n\n[measured_on]\npsnr_db = 41.5\non = ["demo", "demo:video"]\nsteps = { full = 50 }\nmore = {}\n')


def test_a_changed_toml_reads_back_unequal():
    policy = Policy.from_toml(CONTRACT)
    assert Policy.from_toml(policy.to_toml().replace("static = 8", "static = 9")) != policy


def test_toml_refuses_what_toml_cannot_hold():
    with pytest.raises(InputError, match="measured_on holds None"):
        Policy.from_json(LEAST | {"measured_on": {"psnr": None}}).to_toml()


def test_every_preset_of_every_probe_is_a_legal_policy_with_a_source():
    seen = 0
    for path in probe_paths():
        policies = tomllib.loads(path.read_text(encoding="utf-8")).get("policies", {})
        for name in policies:
            policy = preset(policies, name)
            assert policy.name == name
            assert policy.source
            seen += 1
    assert seen >= 4  # flux alone


# supplementary, Table 1: static threshold, interval, moderate threshold, interval
TABLE_1 = {
    "jano/flux-1/1": (0.1, 8, 0.5, 5),
    "jano/flux-1/2": (0.2, 10, 0.5, 3),
    "jano/flux-1/3": (0.3, 10, 0.6, 3),
    "jano/wan-1.3b/1": (0.1, 3, 0.3, 2),
    "jano/wan-1.3b/2": (0.15, 6, 0.4, 4),
    "jano/wan-1.3b/3": (0.4, 6, 0.6, 4),
    "jano/wan-14b/1": (0.1, 6, 0.3, 3),
    "jano/wan-14b/2": (0.15, 6, 0.4, 4),
    "jano/wan-14b/3": (0.4, 6, 0.6, 4),
}


@pytest.mark.parametrize(("family", "rows"), [("flux", 3), ("wan", 6)])
def test_presets_hold_the_published_rows(family, rows):
    path = next((path for path in probe_paths() if path.stem == family), None)
    assert path is not None, f"no probe for {family}"
    policies = tomllib.loads(path.read_text(encoding="utf-8"))["policies"]
    checked = 0
    for name, row in TABLE_1.items():
        if name in policies:
            policy = preset(policies, name)
            met = (policy.thresholds.static, policy.intervals.static, policy.thresholds.moderate, policy.intervals.moderate)
            assert met == row, name
            assert "Table 1" in policy.source
            checked += 1
    assert checked == rows


def test_without_a_name_the_first_preset_is_taken_and_a_wrong_name_lists_the_legal_ones():
    policies = {"a/1": {k: v for k, v in LEAST.items() if k != "name"}, "a/2": {k: v for k, v in LEAST.items() if k != "name"}}
    assert preset(policies).name == "a/1"
    with pytest.raises(InputError, match="no preset policy 'b'; legal: a/1, a/2"):
        preset(policies, "b")
    with pytest.raises(InputError, match="no preset policies"):
        preset({}, "a/1")
