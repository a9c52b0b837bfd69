"""The brute-force executor against the real one on the bundled, trained models: whole generations, guidance on."""

import numpy as np
import pytest
import torch
from brute_force import BruteForce

from janoscope.execution import Executor
from janoscope.pipeline.model import load_model
from janoscope.pipeline.model_directory import bundled_directory
from janoscope.pipeline.model_options import ModelOptions
from janoscope.plan import Policy

TABLE = {
    "name": "brute",
    "warmup": 4,
    "cooldown": 1,
    "enhance": {"strength": 0, "distance": 1},
    "thresholds": {"static": 0.2, "moderate": 0.5},
    "intervals": {"static": 4, "moderate": 2, "active": 1},
}
BY_HAND = {"warmup": 4, "cooldown": 1, "static": 0.2, "moderate": 0.5, "intervals": (4, 2, 1), "keys": "hold"}
STEPS = 14
# name -> prompt, tile in latent cells, weight of change in time, and which attention calls are the image's own
CASES = {
    "demo": ("apple", (1, 4, 4), 0.0, lambda key, tokens: True),
    "demo:video": ("a red ball", (2, 4, 4), 0.5, lambda key, tokens: key.shape[2] == tokens),
}


@pytest.mark.parametrize(("name", "output"), [("demo", "hold"), ("demo:video", "hold"), ("demo:video", "corrected")])
def test_same_tokens_and_same_latents_over_a_whole_generation(name, output):
    if not (bundled_directory(name) / "model_index.json").is_file():
        pytest.skip(f"the bundled model {name} is not in this checkout; python -m janoscope.demo.training.train makes it")
    prompt, tile, weight, own = CASES[name]
    model = load_model(name, ModelOptions(device="cpu"))
    call = dict(model.call) | {"prompt": prompt, "num_inference_steps": STEPS, "output_type": "latent"}

    def run():
        made = model.pipe(**call, generator=torch.Generator().manual_seed(0))
        return torch.as_tensor(made.images if hasattr(made, "images") else made.frames)

    policy = Policy.from_table(TABLE | {"tile": list(tile), "temporal_weight": weight, "output": output}, "test")
    with Executor(model.pipe, model.probe, policy=policy) as executor:
        got = run()
    grid = executor.plan.fingerprint.grid

    def to_grid(latent, grid):
        return latent if latent.ndim == 3 else grid.pack(latent)

    by_hand = BY_HAND | {"tile": tile, "weight": weight, "output": output}
    with BruteForce(model.pipe, grid, STEPS, by_hand, to_grid, hooked=lambda key: own(key, grid.count)) as brute:
        expected = run()
    np.testing.assert_array_equal(executor.plan.ranks, brute.levels)
    assert [step.tokens for step in executor.summary.steps] == [int(computed.sum()) for computed in brute.computed]
    assert (got - expected).abs().max() < 1e-4
    plain = run()
    assert (got - plain).abs().max() > 1e-3, "skipping must show, or the comparison says nothing"
