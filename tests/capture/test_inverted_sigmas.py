"""A scheduler with `invert_sigmas`, as Mochi's, all the way: recorded, analysed, executed. Its sigma runs from noise to data."""

from pathlib import Path

import diffusers
import torch
from capture_sink import run
from tiny_pipelines import build

import janoscope
from janoscope.plan.policy import Intervals, Policy, Split


def policy(output: str) -> Policy:
    return Policy("t", 3, 1, (1, 2, 2), Intervals(4, 3, 1), quantiles=Split(0.3, 0.6), output=output)


def test_recording_analysis_and_execution_agree_on_the_direction(tmp_path: Path) -> None:
    pipeline, call = build("flux")
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    call["num_inference_steps"] = 10
    with janoscope.record(pipeline, tmp_path / "run.h5", prompt="a", seed=0):
        full = run(pipeline, call).images
    recording = janoscope.open_recording(tmp_path / "run.h5")
    assert recording.prediction_type == "inverted_flow"
    assert recording.sigma[0] == 1
    assert recording.sigma[-1] < 0.5
    plan = janoscope.analyze(tmp_path / "run.h5", policy=policy("hold")).plan
    error = {}
    for output in ("hold", "forecast", "corrected"):
        with janoscope.apply(pipeline, policy=policy(output), prompt="a", seed=0) as applied:
            made = run(pipeline, call).images
        assert applied.plan.token_level == plan.token_level
        error[output] = float(torch.linalg.norm(made - full))
    assert 0 < error["corrected"] < error["forecast"] < error["hold"], "a weight of the wrong sign would add to the error"
