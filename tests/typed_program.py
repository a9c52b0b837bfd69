"""What a user writes, with the types an editor shows them: mypy reads it in tests/test_public_names.py and finds no Any of ours.

It is not run: tests/pipeline/ and tests/workflows/ run these calls.
"""

from pathlib import Path
from typing import assert_type

import janoscope


def record_and_apply(folder: Path) -> None:
    options = janoscope.ModelOptions(device="cpu", dtype="float32")
    model = janoscope.load_model("demo", options)
    assert_type(model, janoscope.Model)
    assert_type(model.pipe, janoscope.Pipeline)
    assert_type(model.pipe.scheduler, janoscope.Scheduler)
    with janoscope.record(model.pipe, folder / "run.h5", taps=["transformer_blocks.0"]) as recording:
        assert_type(recording, janoscope.RecordHandle)
        model.pipe("red circle", num_inference_steps=8)
    assert_type(recording.paths, list[Path])
    assert_type(recording.plan, janoscope.Plan | None)
    handle = janoscope.apply(model.pipe, policy="jano/flux-1/1")
    model.pipe("red circle", num_inference_steps=8)
    handle.close()
    assert_type(handle, janoscope.ApplyHandle)
    assert_type(handle.summary, janoscope.RunSummary)
    assert_type(handle.summary.compute, float)


def read(path: Path) -> None:
    with janoscope.open(path) as recording:
        assert_type(recording, janoscope.Recording)
        assert_type(recording.grid, janoscope.TokenGrid)
        assert_type(recording.branches, tuple[str, ...])
    analysis = janoscope.analyze(path, options=janoscope.AnalysisOptions())
    assert_type(analysis, janoscope.Analysis)
    assert_type(analysis.plan, janoscope.Plan)


def attach(pipe: janoscope.Pipeline, policy: Path) -> janoscope.Handle:
    handle = janoscope.apply(pipe, policy=policy, cache=janoscope.Cache("hidden"))
    assert_type(handle.policy, janoscope.Policy | None)
    return handle
