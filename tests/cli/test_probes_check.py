"""`janoscope probes`, and `probes check` on pipelines on disk."""

import json

from janoscope.probe import probe_paths

SIZE = ("--height", 96, "--width", 80, "--frames", 3)


def named(family):
    return next(path for path in probe_paths() if path.stem == family)


def test_a_right_probe_is_said_to_hold(saved, janoscope):
    said = janoscope("probes", "check", named("flux"), "--pipeline", saved("flux"), "-p", "a cat", "--height", 64, "--width", 64)
    assert said.code == 0, said.err
    assert [line.split()[0] for line in said.out.splitlines()[1:4]] == ["recorded", "step", "token"]
    assert "fails" not in said.out


def test_a_probe_that_lies_ends_with_1_and_says_which_level_fails(saved, janoscope, tmp_path):
    lie = tmp_path / "latte.toml"
    text = named("latte").read_text()
    assert 'layout = "BCFHW"' in text
    lie.write_text(text.replace('layout = "BCFHW"', 'layout = "BFCHW"'))
    said = janoscope("probes", "check", lie, "--pipeline", saved("latte"), "-p", "a cat", *SIZE, "--json")
    assert said.code == 1
    facts = json.loads(said.out)
    assert facts["holds"] is False
    assert [rung["verdict"] for rung in facts["rungs"]] == ["fails"]


def test_probes_lists_and_prints_as_before(janoscope):
    listed = janoscope("probes")
    assert listed.code == 0
    assert len(listed.out.splitlines()) == 1 + len(probe_paths())
    assert janoscope("probes", "flux").out.strip() == named("flux").read_text().strip()
    unknown = janoscope("probes", "fluxx")
    assert unknown.code == 2
    assert "no probe 'fluxx'" in unknown.err
