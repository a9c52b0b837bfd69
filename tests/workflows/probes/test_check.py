"""The self-test of probes, on the bundled ones and on probes that lie."""

from dataclasses import replace

import pytest
import torch
from tiny_pipelines import FAMILIES, build

from janoscope.pipeline.model import Model, probe_of
from janoscope.workflows.probes.check import Verdict, check_probe


def checked(name, change=lambda probe: probe):
    pipe, call = build(name)
    model = Model("tiny", pipe, change(probe_of(pipe)))

    def generate(steps):
        return pipe(**call | {"num_inference_steps": steps}, generator=torch.Generator().manual_seed(0))

    return check_probe(model, generate)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_bundled_probe_holds_what_it_claims(name):
    check = checked(name)
    assert check.holds, str(check)
    verdicts = {rung.name: rung.verdict for rung in check.rungs}
    assert verdicts["recorded"] is verdicts["step level"] is Verdict.HOLDS
    has_execution = probe_of(build(name)[0]).execution is not None
    assert verdicts["token level"] is (Verdict.HOLDS if has_execution else Verdict.ABSENT)


def test_a_probe_of_the_wrong_layout_fails_at_the_first_rung_and_the_others_are_not_tried():
    check = checked("latte", lambda probe: replace(probe, tokens=replace(probe.tokens, layout="BFCHW")))
    assert not check.holds
    assert [rung.verdict for rung in check.rungs] == [Verdict.FAILS]


def test_a_probe_that_claims_too_much_fails_at_the_last_rung():
    flux = probe_of(build("flux")[0]).execution
    check = checked("dit", lambda probe: replace(probe, execution=flux))
    assert [rung.verdict for rung in check.rungs] == [Verdict.HOLDS, Verdict.HOLDS, Verdict.FAILS]


def test_json_and_words_say_the_same():
    check = checked("dit")
    assert check.to_json()["holds"] is True
    assert [rung["rung"] for rung in check.to_json()["rungs"]] == [rung.name for rung in check.rungs]
    assert all(rung.name in str(check) for rung in check.rungs)
