"""Recordings of diffusers' own DDIM pipelines: the analysis works on what they predict, which is noise."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from tiny_pipelines import build

from janoscope.conversion import NoisePath
from janoscope.plan import Cache, Policy
from janoscope.recording import open_recording
from janoscope.workflows.analyze.recording import AnalysisOptions, analyze
from janoscope.workflows.analyze.trajectory import RunView
from janoscope.workflows.apply.session import apply
from janoscope.workflows.record.session import record

STEPS = 10
SEED = {"latte": 1, "dit": 2}


def policy_for(tile: list[int]) -> Policy:
    table = {
        "name": "test",
        "warmup": 4,
        "cooldown": 1,
        "tile": tile,
        "temporal_weight": 0.5 if tile[0] > 1 else 0.0,
        "quantiles": {"static": 0.4, "moderate": 0.7},
        "intervals": {"static": 4, "moderate": 2},
    }
    return Policy.from_table(table, "test")


@pytest.fixture(scope="module", params=["latte", "dit"])
def recorded(request, tmp_path_factory) -> Path:
    name = request.param
    pipeline, call = build(name)
    pipeline.scheduler = DDIMScheduler(clip_sample=False)
    path = tmp_path_factory.mktemp(name) / "run.h5"
    told = {"prompt": "a cat on the grass", "seed": SEED[name], "model": f"tiny/{name}"}
    with torch.no_grad(), record(pipeline, path, **told):
        pipeline(**call | {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(SEED[name])})
    return path


def test_an_euler_step_of_the_recorded_velocity_is_the_step_that_the_pipeline_took(recorded: Path) -> None:
    with open_recording(recorded) as recording:
        view = RunView(recording)
        gap = view.path.gap
        assert (view.prediction, view.path.family, view.path.time_unit) == ("epsilon", "variance-preserving", "timestep")
        for step in range(STEPS - 1):
            now, following = view.step(step), view.step(step + 1).sample
            taken = now.sample - following
            np.testing.assert_allclose(now.velocity * gap[step], taken, atol=2e-5 * np.abs(taken).max() + 2e-6, err_msg=str(step))
            # negative controls: the raw output is no velocity, and rates of a tangent are not the sampler's own
            assert np.abs(now.output * gap[step] - taken).max() > 0.1
            tangent = RunView(recording, derivative="tangent").step(step).velocity
            assert np.abs(tangent * gap[step] - taken).max() > 1e-4 * np.abs(taken).max()


def test_the_analysis_is_of_the_velocity_and_the_raw_output_stands_beside_it(recorded: Path) -> None:
    clip = "latte" in str(recorded)
    with open_recording(recorded) as recording:
        tile = [2 if clip else 1, 4, 4]
        view = RunView(recording)
        velocity = np.stack([view.step(step).velocity for step in range(STEPS)])
        output = recording.read("model_output")
        grid = recording.grid
    found = analyze(recorded, policy=policy_for(tile))
    rms = lambda values: np.sqrt(np.mean(np.square(values.astype(np.float64)), axis=-1))
    np.testing.assert_allclose(found.arrays["raw_change"], rms(np.diff(output, axis=0)), rtol=1e-4, atol=1e-7)
    relative = rms(np.diff(velocity, axis=0)) / rms(velocity[1:])
    np.testing.assert_allclose(found.arrays["flow_velocity_change"], relative, rtol=1e-4)
    assert np.abs(found.arrays["flow_velocity_change"] - rms(np.diff(output, axis=0)) / rms(output[1:])).max() > 0.01
    assert found.results["conversion"]["prediction_type"] == "epsilon"
    assert found.complexity.temporal.any() == clip
    assert grid.tokens[0] > 1 or not clip
    assert found.results["run"]["model"].startswith("tiny/")
    for name, values in found.arrays.items():
        assert np.isfinite(values).all(), name


def test_derivatives_differ_and_the_plan_stays_the_executors(recorded: Path) -> None:
    policy = policy_for([1, 4, 4])
    plain = analyze(recorded, policy=policy)
    tangent = analyze(recorded, policy=policy, options=AnalysisOptions(derivative="tangent"))
    assert not np.allclose(plain.arrays["point_velocity"], tangent.arrays["point_velocity"], rtol=1e-3)
    assert plain.plan == tangent.plan
    assert "converted with tangent rates; the plan with backward ones" in tangent.notes[0]


def test_a_path_cut_before_its_end_has_no_known_end(recorded: Path) -> None:
    with open_recording(recorded) as recording:
        assert RunView(recording).path.final is not None
        recording.complete = False
        assert RunView(recording).path.final is None
        assert isinstance(RunView(recording).path, NoisePath)


@pytest.mark.parametrize("name", ["jano", "x0-gradient", "velocity-change", "ras", "random"])
def test_a_noise_predictor_gets_the_same_plan_live_and_from_its_recording(tmp_path: Path, name: str) -> None:
    """The law between the two homes of the analysis, on a model whose output has to be converted first."""
    cache = {"jano": Cache("offload", device_mib=0.03), "x0-gradient": Cache("hidden"), "ras": Cache("kv-int8")}.get(
        name, Cache()
    )
    policy = replace(policy_for([1, 2, 2]), map=name, cache=cache)
    told = {"prompt": "class", "seed": 2, "model": "tiny/dit"}
    pipeline, call = build("dit")
    pipeline.scheduler = DDIMScheduler(clip_sample=False)
    call |= {"num_inference_steps": STEPS}
    with torch.no_grad(), record(pipeline, tmp_path / "run.h5", **told):
        pipeline(**call, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), apply(pipeline, policy=policy, **told) as executor:
        pipeline(**call, generator=torch.Generator().manual_seed(2))
    found = analyze(tmp_path / "run.h5", policy=policy)
    assert len(set(found.plan.token_level)) == 3
    assert executor.plan.token_level == found.plan.token_level
    assert executor.plan.step_kind == found.plan.step_kind
    assert executor.plan.predicted == found.plan.predicted
    if name != "random":
        other = analyze(tmp_path / "run.h5", policy=policy, options=AnalysisOptions(warmup={"x0-gradient": 1}.get(name, 3)))
        assert other.plan.token_level != found.plan.token_level
