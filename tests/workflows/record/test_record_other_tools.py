"""Recordings of pipelines on which other tools are at work: what is recorded, and what the file and `analyze` say of it."""

import diffusers
import numpy as np
import pytest
import torch
from tiny_pipelines import build

import janoscope
from janoscope.capture import parse_tap
from janoscope.errors import ExecutionError
from janoscope.workflows.analyze.recording import analyze


def recorded(pipe, call, path, **options):
    with janoscope.record(pipe, path, **options):
        pipe(**call, generator=torch.Generator().manual_seed(0))
    return janoscope.open_recording(path)


def test_another_cache_is_in_the_provenance_and_analyze_says_so(tmp_path):
    pipe, call = build("flux")
    call["num_inference_steps"] = 10
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.01))
    (row,) = recorded(pipe, call, tmp_path / "cached.h5").provenance["capture"]["attachments"]
    expected = {"component": "transformer", "kind": "cache", "name": "FirstBlockCache", "module": ""}
    assert row == expected | {"modules": row["modules"]}
    (note,) = [note for note in analyze(tmp_path / "cached.h5").notes if "also at work" in note]
    assert note.startswith("also at work on the network when it was recorded: cache FirstBlockCache (transformer and ")
    pipe.transformer.disable_cache()
    assert recorded(pipe, call, tmp_path / "plain.h5").provenance["capture"]["attachments"] == []
    assert not [note for note in analyze(tmp_path / "plain.h5").notes if "also at work" in note]


def test_an_executor_is_told_once_as_policy_or_as_attachment(tmp_path):
    pipe, call = build("flux")
    call["num_inference_steps"] = 12
    recorded(pipe, call, tmp_path / "policy.h5", policy="jano/flux-1/1")
    assert not [note for note in analyze(tmp_path / "policy.h5").notes if "also at work" in note]
    with janoscope.apply(pipe, policy="jano/flux-1/1"):
        recorded(pipe, call, tmp_path / "applied.h5")
    (note,) = [note for note in analyze(tmp_path / "applied.h5").notes if "also at work" in note]
    assert "executor janoscope.Executor (transformer)" in note


@pytest.mark.parametrize("given", [False, True])
def test_a_compiled_transformer_is_recorded_and_refused_by_apply_by_name(tmp_path, given):
    plain, call = build("flux")
    wanted = recorded(plain, call, tmp_path / "plain.h5")
    pipe, call = build("flux")
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    sheet = janoscope.probe.find_probe(["FluxTransformer2DModel"]) if given else None
    made = recorded(pipe, call, tmp_path / "compiled.h5", sheet=sheet, taps=[parse_tap("transformer_blocks.0:tokens=3")])
    for signal in ("model_output", "sample"):
        np.testing.assert_allclose(made.read(signal), wanted.read(signal), atol=1e-5)
    assert made.provenance["model"]["transformer"] == wanted.provenance["model"]["transformer"]
    (row,) = made.provenance["capture"]["attachments"]
    assert (row["kind"], row["name"], row["module"]) == ("compilation", "torch.compile", "")
    with pytest.raises(ExecutionError, match="transformer is compiled as a whole"):
        janoscope.apply(pipe, policy="jano/flux-1/1").__enter__()
