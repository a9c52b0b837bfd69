"""RAS importance and the official baselines against golden arrays; gradient energy and velocity change on known inputs."""

import json

import numpy as np
import pytest
import torch
from golden_inputs import GOLDEN, jano_signals

from janoscope.analysis import fourier_baseline, gradient_energy, ras_importance, variance_baseline, velocity_change
from janoscope.errors import InputError
from janoscope.grid import TokenGrid

RAS_FILES = sorted(GOLDEN.glob("ras_*.npz"))
JANO_FILES = sorted(GOLDEN.glob("jano_*.npz"))


def ras_steps(path):
    golden = np.load(path)
    params = json.loads(str(golden["params"]))
    grid = TokenGrid(params["C"], (1, params["H"], params["W"]), (1, 2, 2))
    tokens = grid.pack(golden["velocity"][:, :, None])
    chosen = [k for k in range(params["N"]) if not np.isnan(golden["metric_raw"][k]).all()]
    return golden, params, grid, tokens, chosen


def test_golden_files_are_here():
    assert (len(RAS_FILES), len(JANO_FILES)) == (4, 10)


@pytest.mark.parametrize("path", RAS_FILES, ids=lambda path: path.stem)
def test_golden_ras_metric(path):
    """The official metric reads the velocity in force, where skipped tokens carry the one they were last computed with."""
    golden, params, grid, tokens, chosen = ras_steps(path)
    assert len(chosen) >= 4
    for k in chosen:
        used = tokens[golden["source_step"][k], np.arange(grid.count)]
        sigma, sigma_next = golden["sigmas"][k], golden["sigmas"][k + 1]
        scores = ras_importance(used, grid, sigma=sigma, sigma_next=sigma_next, metric=params["metric"])
        np.testing.assert_allclose(scores, golden["metric_raw"][k], rtol=1e-4, atol=1e-6)
        other = {"std": "l2norm", "l2norm": "std"}[params["metric"]]
        assert (
            np.abs(ras_importance(used, grid, sigma=sigma, sigma_next=sigma_next, metric=other) - scores).max()
            > 1e-2 * scores.max()
        )


@pytest.mark.parametrize("metric", ["std", "l2norm"])
def test_ras_importance_of_tensors_stays_in_torch(metric):
    grid = TokenGrid(3, (2, 4, 6), (1, 2, 2))
    tokens = np.random.default_rng(0).normal(size=(5, grid.count, grid.token_channels))
    wanted = ras_importance(tokens, grid, sigma=0.7, sigma_next=0.4, metric=metric)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
        scores = ras_importance(torch.from_numpy(tokens).to(dtype), grid, sigma=0.7, sigma_next=0.4, metric=metric)
        assert isinstance(scores, torch.Tensor)
        assert scores.dtype == torch.float32
        np.testing.assert_allclose(scores.numpy(), wanted, atol=tolerance)


def test_ras_importance_of_several_items_is_that_of_each():
    grid = TokenGrid(3, (2, 4, 6), (1, 2, 2))
    tokens = np.random.default_rng(0).normal(size=(5, 2, grid.count, grid.token_channels)).astype(np.float32)
    scores = ras_importance(tokens, grid, sigma=0.7, sigma_next=0.4)
    cells = tokens.reshape(5, 2, grid.count, 3, 4) * 0.3  # (item, item, token, latent channel, cell of the patch)
    np.testing.assert_allclose(scores, cells.std(axis=3, ddof=1).mean(axis=-1), rtol=1e-5)


@pytest.mark.parametrize("path", JANO_FILES, ids=lambda path: path.stem)
def test_golden_baselines(path):
    golden = np.load(path)
    signals, tile = jano_signals(golden), tuple(json.loads(str(golden["params"]))["block"])
    for baseline, name in ((variance_baseline, "var"), (fourier_baseline, "fft")):
        for kind, scores in zip(("temporal", "spatial"), baseline(signals, tile), strict=True):
            wanted = golden[f"{name}_{kind}"]
            np.testing.assert_allclose(scores.ravel(), wanted, rtol=1e-4, atol=1e-5 * np.nanmax([np.abs(wanted).max(), 1e-9]))


def test_baselines_of_tensors_are_those_of_arrays():
    signals = np.random.default_rng(0).normal(size=(3, 2, 5, 7, 11)).astype(np.float32)
    for baseline in (variance_baseline, fourier_baseline):
        for a, b in zip(baseline(signals, (2, 3, 4)), baseline(torch.from_numpy(signals), (2, 3, 4)), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="signals must be"):
        variance_baseline(signals[0], (2, 3, 4))


def test_velocity_change_is_a_root_mean_square_per_token():
    previous, current = np.zeros((2, 3, 2)), np.full((2, 3, 2), [3.0, 4.0])
    scores = velocity_change(previous, current)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, np.full((2, 3), np.sqrt(12.5)), rtol=1e-6)
    tensors = velocity_change(torch.from_numpy(previous).half(), torch.from_numpy(current).half())
    np.testing.assert_allclose(tensors.numpy(), np.sqrt(12.5), rtol=1e-6)


def test_gradient_energy_of_a_slope_is_its_squared_steepness():
    grid = TokenGrid(2, (3, 4, 6), (1, 2, 2))
    row, col = np.arange(4.0)[:, None], np.arange(6.0)[None, :]
    latent = np.broadcast_to(2 * row + 0.5 * col, (2, 3, 4, 6)) + np.arange(3)[None, :, None, None] * 100
    np.testing.assert_allclose(gradient_energy(grid.pack(latent), grid), 4.25, rtol=1e-5)
    # frames are apart: a jump between them is no detail; a jump inside one is
    step = np.zeros((2, 3, 4, 6))
    step[:, 1, :, 4:] = 1
    energy = gradient_energy(torch.from_numpy(grid.pack(step)), grid).reshape(grid.tokens)
    assert not energy[[0, 2]].any()
    np.testing.assert_allclose(energy[1], [[0, 0.125, 0.125]] * 2)


def test_gradient_energy_of_several_items_is_that_of_each_in_float32():
    grid = TokenGrid(2, (3, 4, 6), (1, 2, 2))
    items = np.random.default_rng(0).normal(size=(5, grid.count, grid.token_channels))
    scores = gradient_energy(items, grid)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, [gradient_energy(item, grid) for item in items])


def test_gradient_energy_is_0_along_an_axis_of_one_cell():
    grid = TokenGrid(1, (1, 1, 6), (1, 1, 2))
    energy = gradient_energy(grid.pack(3 * np.arange(6.0).reshape(1, 1, 1, 6)), grid)
    np.testing.assert_allclose(energy, [9.0, 9.0, 9.0])


def test_refuses_tokens_of_another_grid():
    grid = TokenGrid(1, (1, 4, 6), (1, 2, 2))
    with pytest.raises(InputError, match=r"\(5, 4\) do not fit 6 tokens of 4 channels"):
        gradient_energy(np.zeros((5, 4)), grid)
    with pytest.raises(InputError, match=r"needs 2 or more; the grid has 1\. Choose another map"):
        ras_importance(np.zeros((6, 4)), grid, sigma=1.0, sigma_next=0.5)
    with pytest.raises(InputError, match="std or l2norm"):
        ras_importance(np.zeros((6, 4)), grid, sigma=1.0, sigma_next=0.5, metric="max")
