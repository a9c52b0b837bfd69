"""The executor against one that was written another way, over whole generations: same token sets, same picture."""

from itertools import product

import numpy as np
import pytest
from brute_force import BruteForce
from generations import TWO_PASSES, Tiny, generate, policy
from tiny_transformers import CLIP_COLS, CLIP_ROWS, COLS, FRAMES, ROWS

from janoscope.grid import TokenGrid
from janoscope.plan import ladder

GRIDS = {
    "flux": TokenGrid(4, (1, 2 * ROWS, 2 * COLS), (1, 2, 2)),
    "wan": TokenGrid(16, (FRAMES, 2 * CLIP_ROWS, 2 * CLIP_COLS), (1, 2, 2)),
}
TILES = {"flux": (1, 2, 2), "wan": (3, 2, 2)}
LONG = 12  # steps: warm-up 3, cool-down 1, intervals 5, 3, 2 give refresh, moderate, active and reuse steps


def to_grid(latent, grid):
    return latent if latent.ndim == 3 else grid.pack(latent)


def compared(name, output="hold", keys="hold"):
    """(executor's latents, executor, brute force's latents, brute force)."""
    tiny, grid, tile = Tiny(name), GRIDS[name], TILES[name]
    weight = 0.5 if name == "wan" else 0.0
    ours = policy(
        warmup=3,
        tile=list(tile),
        temporal_weight=weight,
        enhance={"strength": 0, "distance": 1},
        thresholds={"static": 0.3, "moderate": 0.5},
        intervals={"static": 5, "moderate": 3, "active": 2},
        output=output,
        cache={"strategy": "kv", "forecast": keys == "forecast"},
    )
    by_hand = {"warmup": 3, "cooldown": 1, "tile": tile, "weight": weight, "static": 0.3, "moderate": 0.5, "intervals": (5, 3, 2)}
    changes = {"num_inference_steps": LONG} | TWO_PASSES.get(name, {})
    got, executor = tiny.run(ours, **changes)
    image_only = {"hooked": lambda key: key.shape[2] == grid.count} if name == "wan" else {}
    with BruteForce(tiny.pipe, grid, LONG, by_hand | {"output": output, "keys": keys}, to_grid, **image_only) as brute:
        expected = generate(tiny.pipe, tiny.call, **changes)
    return got, executor, expected, brute


@pytest.fixture(scope="module")
def held():
    return {name: compared(name) for name in GRIDS}


COMBINATIONS = [*product(GRIDS, ("hold", "forecast"), ("hold", "forecast")), ("flux", "corrected", "forecast")]


@pytest.mark.parametrize(("name", "output", "keys"), COMBINATIONS)
def test_picks_the_same_tokens_and_ends_at_the_same_latents(name, output, keys, held):
    got, executor, expected, brute = held[name] if (output, keys) == ("hold", "hold") else compared(name, output, keys)
    assert ladder(executor.plan.step_kind) == "WWWR.amaRm.C"
    assert set(brute.levels.tolist()) == {1, 2, 3}
    np.testing.assert_array_equal(executor.plan.ranks, brute.levels)
    assert [step.tokens for step in executor.summary.steps] == [int(computed.sum()) for computed in brute.computed]
    assert (got - expected).abs().max() < 1e-4
    if (output, keys) != ("hold", "hold"):
        assert (got - held[name][0]).abs().max() > 1e-3, "a forecast must differ from holding"


def test_without_stale_keys_the_brute_force_ends_elsewhere(held):
    """Control: the comparison notices one branch's cache serving the other, and skipped tokens that are always fresh."""
    got, *_ = held["flux"]
    tiny = Tiny("flux")
    by_hand = {
        "warmup": 3,
        "cooldown": 1,
        "tile": TILES["flux"],
        "weight": 0.0,
        "static": 0.3,
        "moderate": 0.5,
        "intervals": (5, 3, 2),
    }
    by_hand |= {"output": "hold", "keys": "hold"}
    changes = {"num_inference_steps": LONG} | TWO_PASSES["flux"]
    with BruteForce(tiny.pipe, GRIDS["flux"], LONG, by_hand, to_grid, hooked=lambda key: False):
        fresh = generate(tiny.pipe, tiny.call, **changes)
    assert (got - fresh).abs().max() > 1e-3


def test_one_cache_for_both_branches_would_be_seen(held, monkeypatch):
    from janoscope.execution.run import Run

    honest = Run._cache
    monkeypatch.setattr(Run, "_cache", lambda self, network, call: honest(self, network, 0))
    assert (compared("flux")[0] - held["flux"][0]).abs().max() > 1e-3
