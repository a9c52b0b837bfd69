"""bfloat16 pipelines of every family: some widen the guided prediction or x_t on the way, and nothing may be lost or refused."""

import numpy as np
import pytest
import torch
from capture_sink import MemorySink
from plain_hooks import probe_named, watched
from test_capture_families import expected
from tiny_pipelines import FAMILIES, VARIANTS, build

from janoscope.capture import Capture
from janoscope.workflows.record.session import record

WIDENED = {"cogvideox", "cogvideox-1.5", "ltx-video", "z-image"}  # guided in float32, branches in bfloat16


def halved(name: str):
    pipeline, call = build(name)
    pipeline.to(torch.bfloat16)

    def half(value):
        if isinstance(value, list):
            return [half(one) for one in value]
        return value.bfloat16() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return pipeline, {key: value if "mask" in key else half(value) for key, value in call.items()} | {"num_inference_steps": 3}


def as_float32(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values


@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS])
def test_every_value_of_a_bfloat16_pipeline_arrives_exactly(name):
    pipeline, call = halved(name)
    probe, sink = probe_named(name), MemorySink()
    config = getattr(pipeline, probe.tap.components[0]).config
    with watched(pipeline, probe.tap.components) as steps, Capture(pipeline, probe, sink):
        pipeline(**call, generator=torch.Generator().manual_seed(0))
    kept = sink.only
    assert len(kept.maps) == len(steps) == 3
    for index, step in enumerate(steps):
        for (signal, branch), tokens in expected(probe, step, config).items():
            values = as_float32(kept.stacked(index, signal, branch))
            np.testing.assert_array_equal(values, tokens.float().numpy()[:, : values.shape[1]])
    assert kept.about.signals["model_output"] == ("float32" if name in WIDENED else "bfloat16")


def test_a_widened_prediction_can_be_recorded(tmp_path):
    from janoscope.recording import open_recording

    pipeline, call = halved("ltx-video")
    told = []
    with record(pipeline, tmp_path / "run.h5", on_size=told.append):
        pipeline(**call, generator=torch.Generator().manual_seed(0))
    with open_recording(tmp_path / "run.h5") as recording:
        assert {name: recording.spec(name).stored for name in recording.signals} == {
            "model_output": "float32",
            "sample": "float32",
        }
        maps = sum(recording.read(name, branch=b, raw=True).nbytes for name, b in _places(recording))
        assert told[0].signals == maps
        assert told[0].taps == 0


def _places(recording):
    return [("sample", "guided"), *(("model_output", branch) for branch in recording.branches)]
