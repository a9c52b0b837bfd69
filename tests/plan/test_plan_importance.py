"""Scores by a policy's map, from latents as the warm-up leaves them; NumPy and torch alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from janoscope.analysis import Enhancement, diffuse_inward, gradient_energy, jano_complexity, ras_importance
from janoscope.conversion import NoisePath, to_flow_velocity
from janoscope.errors import InputError
from janoscope.grid import TokenGrid
from janoscope.plan import Enhance, Intervals, Policy, Split, random_scores, token_ranks
from janoscope.plan.importance import importance_scores, initial_signal, ras_of_step, warmup_scores

GRID = TokenGrid(channels=3, cells=(3, 10, 14), patch=(1, 2, 2))
SIGMA = np.linspace(1, 0.2, 5)
PATH = NoisePath(1000 * SIGMA, 1 - SIGMA, SIGMA)
FLOW_WORDS = ("flow", "flow_prediction")
POLICY = Policy("test", 4, 1, (3, 4, 4), Intervals(4, 2), Split(0.2, 0.5))


@pytest.fixture
def latents() -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(5)
    shape = (4, GRID.channels, *GRID.cells)
    return list(rng.standard_normal(shape, dtype=np.float32)), list(rng.standard_normal(shape, dtype=np.float32))


def scores_of(name: str, latents, **changes) -> np.ndarray:
    samples, outputs = latents
    policy = replace(POLICY, map=name, **changes)
    return importance_scores(policy, samples, outputs, path=PATH, prediction="flow", grid=GRID, seed=7)


def test_every_map_is_the_one_its_name_says(latents) -> None:
    samples, outputs = latents
    tokens = [GRID.pack(output) for output in outputs]
    x0 = GRID.pack(samples[3] - np.float32(SIGMA[3]) * outputs[3])
    expected = {
        "jano": warmup_scores(POLICY, samples, outputs, path=PATH, prediction="flow").enhanced,
        "x0-gradient": gradient_energy(x0, GRID),
        "velocity-change": np.sqrt(np.mean((tokens[3] - tokens[2]) ** 2, axis=-1)),
        "ras": -ras_importance(tokens[3], GRID, sigma=SIGMA[3], sigma_next=SIGMA[4]),
        "random": random_scores(GRID.tiles(POLICY.tile), 7),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(scores_of(name, latents), values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_change_after_the_warmup_changes_no_map_but_one_inside_does(latents) -> None:
    samples, outputs = latents
    later = ([*samples, samples[0]], [*outputs, 100 * outputs[0]])
    inside = (samples, [*outputs[:3], outputs[3][..., ::-1].copy()])
    for name in ("jano", "x0-gradient", "velocity-change", "ras"):
        np.testing.assert_array_equal(scores_of(name, later), scores_of(name, latents), err_msg=name)
        assert not np.allclose(scores_of(name, inside), scores_of(name, latents)), name


@pytest.mark.parametrize("name", ["jano", "x0-gradient", "velocity-change", "ras", "random"])
def test_torch_and_numpy_give_the_same_bits(name: str, latents) -> None:
    torch_latents = tuple([torch.from_numpy(values) for values in side] for side in latents)
    np.testing.assert_array_equal(scores_of(name, torch_latents), scores_of(name, latents))
    assert len(set(token_ranks(scores_of(name, latents), POLICY, GRID).tolist())) > 1


def test_bfloat16_latents_are_taken(latents) -> None:
    half = tuple([torch.from_numpy(values).bfloat16() for values in side] for side in latents)
    for name in ("jano", "x0-gradient", "velocity-change", "ras"):
        np.testing.assert_allclose(scores_of(name, half), scores_of(name, latents), rtol=0.05, atol=0.05, err_msg=name)


@pytest.mark.parametrize("initial_latent", [True, False])
def test_the_noise_of_a_noise_predictor_is_the_velocity_that_it_has_while_x0_is_0(latents, initial_latent: bool) -> None:
    alpha = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    path = NoisePath([900.0, 700.0, 500.0, 300.0, 100.0], alpha, np.sqrt(1 - alpha**2))
    samples, outputs = latents
    policy = replace(POLICY, initial_latent=initial_latent)
    found = warmup_scores(policy, samples, outputs, path=path, prediction="epsilon")
    point = path.at()
    x0 = [(x - point.sigma[k] * noise) / alpha[k] for k, (x, noise) in enumerate(zip(samples, outputs, strict=True))]
    signals = [point.alpha_rate[k] * x0[k] + point.sigma_rate[k] * outputs[k] for k in range(4)]
    if initial_latent:
        signals.insert(0, point.sigma_rate[0] * samples[0] / point.sigma[0])
    wanted = jano_complexity(np.float32(signals), POLICY.tile)
    assert found.signals == 4 + initial_latent
    np.testing.assert_allclose(found.combined, wanted.combined, atol=1e-3)
    np.testing.assert_allclose(found.spatial, wanted.spatial, rtol=1e-3)


def test_the_first_latent_is_what_a_predictor_that_sees_nothing_but_noise_would_give(latents) -> None:
    alpha = np.array([0.5, 0.7, 0.9])
    path = NoisePath([900.0, 600.0, 300.0], alpha, np.sqrt(1 - alpha**2))
    sample = latents[0][0].astype(np.float64)
    blind = to_flow_velocity(sample / path.sigma[0], sample, prediction="epsilon", point=path.at(0))  # x0 = 0
    np.testing.assert_allclose(initial_signal(sample, path, "epsilon"), blind)


def test_a_flow_models_first_latent_is_a_signal_as_it_is_wherever_the_run_starts(latents) -> None:
    sigma = np.linspace(0.6, 0.1, 5)  # from a picture: x_T is not all noise
    samples, outputs = latents
    path = NoisePath(1000 * sigma, 1 - sigma, sigma)
    found = warmup_scores(POLICY, samples, outputs, path=path, prediction="flow")
    np.testing.assert_array_equal(found.combined, jano_complexity(np.stack([samples[0], *outputs]), POLICY.tile).combined)


@pytest.mark.parametrize("enhance", [Enhance(0, 2), Enhance(0.8, 2), Enhance(0.8, 1)])
def test_a_policys_enhancement_raises_its_own_map(latents, enhance: Enhance) -> None:
    policy = replace(POLICY, enhance=enhance, tile=(1, 2, 2))
    found = warmup_scores(policy, *latents, path=PATH, prediction="flow")
    wanted = diffuse_inward(found.combined, Enhancement(enhance.strength, enhance.distance))
    np.testing.assert_array_equal(found.enhanced, wanted)
    assert (found.enhanced > found.combined).any() == (enhance.strength > 0)


def test_both_words_for_flow_mean_the_same(latents) -> None:
    sigma = np.linspace(0.6, 0.1, 5)
    found = [warmup_scores(POLICY, *latents, path=NoisePath(1000 * sigma, 1 - sigma, sigma), prediction=p) for p in FLOW_WORDS]
    np.testing.assert_array_equal(found[0].enhanced, found[1].enhanced)


@pytest.mark.parametrize("name", ["jano", "x0-gradient", "ras"])
def test_one_warmup_step_is_enough_for_maps_of_one_step(name: str, latents) -> None:
    assert np.isfinite(scores_of(name, latents, warmup=1)).all()


def test_refuses_what_a_warmup_cannot_know(latents) -> None:
    with pytest.raises(InputError, match=r"apply its plan\.json"):
        scores_of("oracle", latents)
    with pytest.raises(InputError, match="needs a warm-up of 2 or more, policy test has 1"):
        scores_of("velocity-change", latents, warmup=1)
    for name in ("jano", "x0-gradient", "ras"):
        with pytest.raises(InputError, match=f"map = '{name}' needs a warm-up of 1 or more, policy test has 0"):
            scores_of(name, latents, warmup=0)
    assert scores_of("random", latents, warmup=0).shape == GRID.tiles(POLICY.tile)


def test_the_last_update_ends_at_the_final_sigma() -> None:
    velocity = np.random.default_rng(1).standard_normal((GRID.count, GRID.token_channels), dtype=np.float32)
    spread = ras_importance(velocity, GRID, sigma=1.0, sigma_next=0.0)
    np.testing.assert_allclose(ras_of_step(velocity, GRID, PATH, 0), spread * (SIGMA[0] - SIGMA[1]), rtol=1e-5)
    np.testing.assert_allclose(ras_of_step(velocity, GRID, PATH, 4), spread * SIGMA[4], rtol=1e-5)
    other_end = NoisePath(PATH.timestep, PATH.alpha, PATH.sigma, final=(0.9, 0.1))
    np.testing.assert_allclose(ras_of_step(velocity, GRID, other_end, 4), spread * (SIGMA[4] - 0.1), rtol=1e-5)
