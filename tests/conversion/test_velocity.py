"""Eq. (1): against diffusers' DDIM step, against known paths, there and back, NumPy against torch, and where it must refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from janoscope.conversion import PREDICTIONS, NoisePath, PathPoint, to_epsilon, to_flow_velocity, to_prediction, to_x0
from janoscope.errors import InputError

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "velocity.npz")
CASES = json.loads(str(GOLDEN["info"]))


def golden_case(name):
    point = PathPoint(*(float(GOLDEN[f"{name}_{key}"]) for key in ("alpha", "sigma", "dalpha", "dsigma")))
    return GOLDEN[f"{name}_x"], GOLDEN[f"{name}_pred"], point, GOLDEN[f"{name}_v"]


def ddim(prediction, steps=25):
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False, prediction_type=prediction)
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    bar = scheduler.alphas_cumprod[scheduler.timesteps].numpy()
    return scheduler, NoisePath(scheduler.timesteps.numpy(), np.sqrt(bar), np.sqrt(1 - bar))


def test_golden_file_holds_every_kind():
    assert len(CASES) == 37
    assert {case["prediction"] for case in CASES.values()} == set(PREDICTIONS) - {"inverted_flow"}, "which is flow, negated"
    assert float(GOLDEN["cosine_v_prediction_alpha0_alpha"]) == 0


@pytest.mark.parametrize("name", sorted(CASES))
def test_golden_velocity(name):
    x, prediction, point, velocity = golden_case(name)
    converted = to_flow_velocity(prediction, x, prediction=CASES[name]["prediction"], point=point)
    np.testing.assert_allclose(converted, velocity, rtol=0, atol=1e-9)
    if not name.startswith("rf_flow"):
        wrong = PathPoint(point.alpha, point.sigma, point.alpha_rate, -point.sigma_rate - 0.01)
        assert np.abs(to_flow_velocity(prediction, x, prediction=CASES[name]["prediction"], point=wrong) - velocity).max() > 1e-3


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_velocity_times_gap_is_the_ddim_step(prediction):
    scheduler, path = ddim(prediction)
    rng = np.random.default_rng(5)
    x, output = rng.normal(size=(2, len(path), 3, 5, 7))
    velocity = to_flow_velocity(output, x, prediction=prediction, point=path.at())
    stepped = np.stack(
        [
            scheduler.step(torch.from_numpy(output[k]), t, torch.from_numpy(x[k]), eta=0.0).prev_sample.numpy()
            for k, t in enumerate(scheduler.timesteps)
        ]
    )
    gap = path.gap[:, None, None, None]
    np.testing.assert_allclose(x - velocity * gap, stepped, rtol=1e-10, atol=1e-10)
    # negative controls: the tangent is not the chord, the gap to the noisier neighbour is another chord
    tangent = to_flow_velocity(output, x, prediction=prediction, point=path.at(derivative="tangent"))
    assert np.abs(x - tangent * gap - stepped).max() > 1e-3
    forward = PathPoint(path.alpha[1:], path.sigma[1:], path.at().alpha_rate[:-1], path.at().sigma_rate[:-1])
    shifted = to_flow_velocity(output[1:], x[1:], prediction=prediction, point=forward)
    assert np.abs(x[1:] - shifted * gap[1:] - stepped[1:]).max() > 1e-3


@settings(max_examples=60, deadline=None)
@given(
    angle=st.floats(1e-3, np.pi / 2 - 1e-3),
    speed=st.floats(0.1, 3.0),
    prediction=st.sampled_from(PREDICTIONS),
    seed=st.integers(0, 2**16),
)
def test_there_and_back_is_identity(angle, speed, prediction, seed):
    x, output = np.random.default_rng(seed).normal(size=(2, 3, 5))
    point = PathPoint(np.cos(angle), np.sin(angle), -np.sin(angle) * speed, np.cos(angle) * speed)
    velocity = to_flow_velocity(output, x, prediction=prediction, point=point)
    np.testing.assert_allclose(to_prediction(velocity, x, prediction=prediction, point=point), output, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_there_and_back_of_many_steps_uses_each_steps_own_point(prediction):
    _, path = ddim("epsilon", steps=5)
    x, output = np.random.default_rng(6).normal(size=(2, 5, 3))
    velocity = to_flow_velocity(output, x, prediction=prediction, point=path.at())
    converted = to_prediction(velocity, x, prediction=prediction, point=path.at())
    np.testing.assert_allclose(converted, output, rtol=1e-8, atol=1e-8)
    alone = [to_prediction(velocity[k], x[k], prediction=prediction, point=path.at(k)) for k in range(5)]
    np.testing.assert_array_equal(converted, alone)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_x0_and_epsilon_rebuild_the_sample(prediction):
    x, output = np.random.default_rng(1).normal(size=(2, 3, 5))
    point = PathPoint(0.3, 0.8)  # neither alpha + sigma nor the sum of their squares is 1
    x0, epsilon = (convert(output, x, prediction=prediction, point=point) for convert in (to_x0, to_epsilon))
    np.testing.assert_allclose(0.3 * x0 + 0.8 * epsilon, x, atol=1e-14)
    says = {"epsilon": epsilon, "sample": x0, "flow": epsilon - x0, "v_prediction": 0.3 * epsilon - 0.8 * x0}
    says["inverted_flow"] = x0 - epsilon
    np.testing.assert_allclose(says[prediction], output, atol=1e-14)


def test_three_kinds_of_output_give_one_velocity():
    x0, noise = np.random.default_rng(2).normal(size=(2, 3, 5))
    _, path = ddim("epsilon")
    point = path.at(4)
    x = point.alpha * x0 + point.sigma * noise
    outputs = {"epsilon": noise, "sample": x0, "v_prediction": point.alpha * noise - point.sigma * x0}
    for prediction, output in outputs.items():
        velocity = to_flow_velocity(output, x, prediction=prediction, point=point)
        np.testing.assert_allclose(velocity, point.alpha_rate * x0 + point.sigma_rate * noise, atol=1e-14)


def test_flow_is_returned_untouched():
    for output in (np.ones(3, np.float16), torch.ones(3, dtype=torch.bfloat16)):
        assert to_flow_velocity(output, output, prediction="flow", point=PathPoint(0.5, 0.5)) is output
        assert to_flow_velocity(output, output, prediction="flow_prediction", point=PathPoint(0.5, 0.5)) is output


@pytest.mark.parametrize("wide", ["output", "sample", "neither"])
def test_result_is_as_wide_as_the_wider_input(wide):
    arrays = {name: np.ones(3, np.float64 if name == wide else np.float16) for name in ("output", "sample")}
    for convert in (to_x0, to_epsilon, to_flow_velocity, to_prediction):
        converted = convert(*arrays.values(), prediction="epsilon", point=PathPoint(0.6, 0.8, -0.8, 0.6))
        assert converted.dtype == (np.float32 if wide == "neither" else np.float64)


def test_v_prediction_is_finite_up_to_pure_noise():
    time = np.array([1000.0, 999.999, 990.0])
    alpha = np.append(0.0, np.cos(time[1:] * np.pi / 2000))
    path = NoisePath(time, alpha, np.sqrt(1 - alpha**2), final=None)
    x, output = np.random.default_rng(3).normal(size=(2, 3, 5))
    velocity = to_flow_velocity(output, x, prediction="v_prediction", point=path.at(derivative="closed-form"))
    np.testing.assert_allclose(velocity, output * np.pi / 2000, rtol=1e-6)


@pytest.mark.parametrize(
    ("prediction", "alpha", "sigma", "message"),
    [
        ("epsilon", [0.5, 0.0], [0.5, 1.0], "step 1 of 2: alpha is 0"),
        ("sample", [1.0, 0.5], [0.0, 0.5], "step 0 of 2: sigma is 0"),
    ],
)
def test_refuses_where_the_information_is_absent(prediction, alpha, sigma, message):
    x = np.ones((2, 3))
    point = PathPoint(np.array(alpha), np.array(sigma), np.ones(2), np.ones(2))
    with pytest.raises(InputError, match=message):
        to_flow_velocity(x, x, prediction=prediction, point=point)
    with pytest.raises(InputError, match=message.split(": ")[1]):
        to_flow_velocity(x, x, prediction=prediction, point=PathPoint(min(alpha) % 1, min(sigma) % 1, 1.0, 1.0))
    # what the output says itself needs no division and stays
    same = to_epsilon if prediction == "epsilon" else to_x0
    np.testing.assert_array_equal(same(x, x, prediction=prediction, point=point), x)


def test_refuses_unknown_kinds_missing_rates_and_wrong_steps():
    x = np.ones((2, 3))
    with pytest.raises(InputError, match="epsilon, v_prediction, sample, flow"):
        to_x0(x, x, prediction="score", point=PathPoint(0.5, 0.5))
    with pytest.raises(InputError, match="lacks alpha_rate and sigma_rate"):
        to_flow_velocity(x, x, prediction="epsilon", point=PathPoint(0.5, 0.5))
    with pytest.raises(InputError, match="first axis must be the step"):
        to_x0(x, x, prediction="epsilon", point=PathPoint(np.ones(3), np.ones(3)))
    with pytest.raises(InputError, match="only rescales the sample"):
        to_prediction(x, x, prediction="epsilon", point=PathPoint(0.5, 0.5, 1.0, 1.0))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_numpy_and_torch_agree(prediction, dtype):
    _, path = ddim("epsilon", steps=5)
    x, output = (torch.from_numpy(a).to(dtype) for a in np.random.default_rng(4).normal(size=(2, 5, 3, 7)))
    as_numpy = [a.float().numpy() if dtype == torch.bfloat16 else a.numpy() for a in (output, x)]
    for point, pick in ((path.at(), slice(None)), (path.at(3), 3)):
        converted = to_flow_velocity(output[pick], x[pick], prediction=prediction, point=point)
        wanted = to_flow_velocity(as_numpy[0][pick], as_numpy[1][pick], prediction=prediction, point=point)
        assert converted.dtype == (dtype if prediction in ("flow", "inverted_flow") or dtype == torch.float64 else torch.float32)
        np.testing.assert_allclose(converted.double().numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_inverted_flow_is_flow_negated():
    path, draw = NoisePath([1000.0, 500.0], [0.2, 0.5], [0.8, 0.5]), np.random.default_rng(0)
    output, sample = draw.standard_normal((2, 3, 5))
    for convert in (to_flow_velocity, to_x0, to_epsilon, to_prediction):
        inverted = convert(output, sample, prediction="inverted_flow", point=path.at(0))
        if convert is to_prediction:
            np.testing.assert_array_equal(inverted, -output)
        else:
            np.testing.assert_array_equal(inverted, convert(-output, sample, prediction="flow", point=path.at(0)))
        assert not np.array_equal(inverted, convert(output, sample, prediction="flow", point=path.at(0))), "control"
