"""Probes as data: they load, faults are named together, and a pipeline finds its own. Their truth: test_probe_facts.py."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from janoscope.errors import InputError
from janoscope.probe import (
    _CHOICES,
    CHECKOUT,
    PACKAGED,
    Execution,
    Guidance,
    Match,
    Output,
    Residual,
    Tap,
    Tokens,
    find_probe,
    load_probe,
    parse_probe,
    probe_paths,
)

EXECUTABLE = {
    "chroma",
    "cogvideox",
    "dit",
    "flux",
    "flux2",
    "hunyuanvideo",
    "ltx-video",
    "pixart",
    "qwen-image",
    "sd3",
    "wan",
}
RECORD_ONLY = {"hidream", "latte", "lumina2", "unet", "z-image"}
SECTIONS = ("match", "tap", "tokens", "output", "guidance", "execution")


def _flux_table() -> dict:
    return tomllib.loads((CHECKOUT / "flux.toml").read_text(encoding="utf-8"))


def test_all_sixteen_probes_load_under_their_own_names():
    probes = {path.stem: load_probe(path) for path in probe_paths()}
    assert len(probes) == 16
    assert {name: probe.family for name, probe in probes.items()} == {name: name for name in EXECUTABLE | RECORD_ONLY}
    assert {name for name, probe in probes.items() if probe.execution} == EXECUTABLE


@pytest.mark.parametrize("path", probe_paths(), ids=lambda path: path.stem)
def test_every_section_says_where_its_facts_come_from(path):
    probe = load_probe(path)
    sections = [getattr(probe, name) for name in SECTIONS]
    assert [section for section in sections if section is not None and not section.source] == []
    assert probe.checked_with == "diffusers 0.42.1"
    assert probe.execution or probe.limits[0].startswith("record only: ")


def test_no_class_is_claimed_by_two_probes():
    claimed = [name for path in probe_paths() for name in load_probe(path).match.transformer]
    assert len(claimed) == 16
    assert sorted(set(claimed)) == sorted(claimed)


def test_all_faults_of_a_probe_stand_in_one_message():
    table = _flux_table()
    table["colour"] = "red"
    del table["title"]
    table["match"]["transformer"] = "FluxTransformer2DModel"
    table["tap"]["inputs"] = "hidden_states"
    table["tokens"] |= {"layout": "BHWC", "patch": [2, 2], "patch_keys": ["patch_size"]}
    table["output"]["sign"] = 0
    table["guidance"]["stacked_step"] = "yes"
    del table["execution"]["blocks"]
    table["limits"] = "none"
    with pytest.raises(InputError) as caught:
        parse_probe(table, "my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml is not a probe: ")
    assert message.endswith("See docs/probes.md.")
    assert "\n" not in message
    for fault in (
        "has no key 'colour'",
        "lacks 'title'",
        "[match] transformer = 'FluxTransformer2DModel'; legal: a list of str",
        "[tap] has no key 'inputs' (known: components, input, timestep, source)",
        "[tokens] layout = 'BHWC'; legal: packed, BCHW, BCFHW, BFCHW, list",
        "[tokens] patch = [2, 2]; legal: a list of 3 int",
        "[tokens] needs exactly one of 'patch' and 'patch_keys'",
        "[output] sign = 0; legal: 1, -1",
        "[guidance] stacked_step = 'yes'; legal: a bool",
        "[execution] lacks 'blocks'",
        "limits = 'none'; legal: a list of str",
    ):
        assert fault in message
    assert message.count(";") == 10 + 6  # eleven faults, six of which name what is legal


def test_the_same_table_without_faults_is_a_probe():
    assert parse_probe(_flux_table(), "my.toml") == load_probe(CHECKOUT / "flux.toml")


@pytest.mark.parametrize("section", ["match", "tap", "tokens", "output", "guidance"])
def test_only_execution_may_be_left_out(section):
    table = _flux_table()
    del table["execution"]
    assert parse_probe(table, "my.toml").execution is None
    del table[section]
    with pytest.raises(InputError, match=f"my.toml is not a probe: lacks '{section}'"):
        parse_probe(table, "my.toml")


def test_a_section_that_is_no_table_is_a_fault():
    with pytest.raises(InputError, match=re.escape("[tap] is 'transformer', not a table")):
        parse_probe({**_flux_table(), "tap": "transformer"}, "my.toml")


def test_an_explicit_probe_wins_over_the_bundled_ones(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text((CHECKOUT / "flux.toml").read_text(encoding="utf-8").replace('"Flux.1"', '"Mine"'), encoding="utf-8")
    assert find_probe(["FluxTransformer2DModel"], explicit=mine).title == "Mine"
    assert find_probe(["FluxTransformer2DModel"]).title == "Flux.1"


def test_the_nearest_class_decides():
    assert find_probe(["TunedFlux", "FluxTransformer2DModel", "SD3Transformer2DModel"]).family == "flux"
    assert find_probe(["SD3Transformer2DModel", "FluxTransformer2DModel"]).family == "sd3"


def test_an_unknown_class_lists_the_three_places_and_the_way_out():
    with pytest.raises(InputError) as caught:
        find_probe(["FooTransformer2DModel", "Module"])
    assert str(caught.value) == (
        f"no probe matches FooTransformer2DModel; looked in {PACKAGED} and {CHECKOUT}. "
        "Write one (docs/probes.md) and give its path as probe."
    )


def test_a_pipeline_without_a_network_is_refused():
    with pytest.raises(InputError, match="no probe matches a pipeline without a transformer"):
        find_probe([])


def test_unreadable_files_are_refused_with_their_reason(tmp_path):
    with pytest.raises(InputError, match=r"probe .*none\.toml cannot be read: .*No such file"):
        load_probe(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("family = \n", encoding="utf-8")
    with pytest.raises(InputError, match=r"probe .*broken\.toml is not TOML: Invalid value \(at line 1"):
        load_probe(broken)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"binary\.toml cannot be read"):
        load_probe(Path(binary))


@pytest.mark.parametrize(
    ("family", "config", "patch"),
    [
        ("flux", {}, (1, 2, 2)),
        ("unet", {}, (1, 1, 1)),
        ("sd3", {"patch_size": 3}, (1, 3, 3)),
        ("wan", {"patch_size": (2, 3, 5)}, (2, 3, 5)),
        ("wan", {"patch_size": [1, 2, 2]}, (1, 2, 2)),
        ("cogvideox", {"patch_size_t": None, "patch_size": 2}, (1, 2, 2)),
        ("cogvideox", {"patch_size_t": 2, "patch_size": 3}, (2, 3, 3)),
        ("hunyuanvideo", {"patch_size_t": 5, "patch_size": 2}, (5, 2, 2)),
    ],
)
def test_patch_is_read_as_frame_row_col(family, config, patch):
    assert load_probe(CHECKOUT / f"{family}.toml").tokens.patch_of(config) == patch


def test_a_patch_key_that_the_config_lacks_is_named():
    with pytest.raises(InputError, match="config has no 'patch_size'"):
        load_probe(CHECKOUT / "sd3.toml").tokens.patch_of({"patch": 2})


DOCS = (CHECKOUT.parent / "docs" / "probes.md").read_text(encoding="utf-8")


def test_the_documented_example_is_a_probe():
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    probe = parse_probe(tomllib.loads(example), "docs/probes.md")
    assert (probe.family, probe.output.sign, probe.execution.rotary) == ("orchid", -1, ("rope",))
    assert probe.tokens.patch_of({"patch": (1, 2, 2)}) == (1, 2, 2)


def test_the_documentation_explains_every_key_and_every_choice():
    explained = set(re.findall(r"^\| `(\w+)` \|", DOCS, re.MULTILINE))
    keys = {f.name for kind in (Match, Tap, Tokens, Output, Guidance, Execution, Residual) for f in fields(kind)} - {"source"}
    assert explained == keys | {"family", "title", "checked_with", "limits"}
    words = {word for choices in _CHOICES.values() for word in choices if isinstance(word, str)}
    assert {word for word in words if f"`{word}`" not in DOCS} == set()


def test_the_documentation_counts_the_probes():
    (row,) = re.findall(r"^\| (chroma.*) \| (.*) \|$", DOCS, re.MULTILINE)
    assert [set(cell.split(", ")) for cell in row] == [EXECUTABLE, RECORD_ONLY]
