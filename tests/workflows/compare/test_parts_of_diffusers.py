"""Two things that `compare` reads of diffusers without an interface for them; another version may change either.

What MagCache prints when it has calibrated (`library_caches.MagCache`), and the fields of hooks that hold tensors
(`cache_context.Branches`). Fails with the version in its message, so that one knows where to look.
"""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.hooks import mag_cache
from diffusers.hooks.first_block_cache import FBCSharedBlockState
from tiny_models import calls, tiny_model

from janoscope.errors import ExecutionError
from janoscope.workflows.compare import cache_context as branches
from janoscope.workflows.compare.contest import make_method
from janoscope.workflows.compare.library_caches import MagCache
from janoscope.workflows.compare.spec import parse_spec

VERSION = f"diffusers {diffusers.__version__}"
STEPS = 6


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_inference_steps=STEPS)


def calibrated(model):
    (call,) = calls(model)
    cache = MagCache(parse_spec("magcache"))
    cache.prepare(model, call)
    (ratios,) = cache.ratios
    return ratios


def test_what_magcache_prints_is_what_it_measured(model, monkeypatch):
    measured, honest = [], mag_cache.MagCacheBlockHook._perform_calibration_step

    def watched(self, state, residual):
        honest(self, state, residual)
        measured.append(state.calibration_ratios[-1])

    monkeypatch.setattr(mag_cache.MagCacheBlockHook, "_perform_calibration_step", watched)
    found = calibrated(model)
    assert len(found) == STEPS, f"{VERSION} prints MagCache's ratios otherwise"
    np.testing.assert_allclose(found, measured, err_msg=f"{VERSION}: read from what MagCache prints, and what it measured")
    assert np.ptp(found) > 0


def test_control_other_words_of_magcache_are_refused(model, monkeypatch):
    monkeypatch.setattr(mag_cache, "print", lambda *words: None, raising=False)
    with pytest.raises(ExecutionError, match="measured no ratios"):
        calibrated(model)


def held_by_first_block_cache(model, monkeypatch, depth):
    """(bytes that we count at the end of a step, bytes of the tensors that the cache's own state names)."""
    made, counted = [], []
    born, count = FBCSharedBlockState.__init__, branches.Branches.bytes_in_hooks

    def begun(self):
        born(self)
        made.append(self)

    def watched(self):
        counted.append((count(self), sum(tensors(state) for state in made)))
        return counted[-1][0]

    monkeypatch.setattr(FBCSharedBlockState, "__init__", begun)
    monkeypatch.setattr(branches.Branches, "bytes_in_hooks", watched)
    monkeypatch.setattr(branches, "DEPTH", depth)
    (call,) = calls(model)
    make_method("first-block-cache:threshold=0.05").generate(model, call, count=True)
    return counted[-1]


def tensors(state):
    values = [state.head_block_output, state.head_block_residual, state.tail_block_residuals]
    flat = [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
    return sum(one.untyped_storage().nbytes() for one in flat if isinstance(one, torch.Tensor))


def test_the_tensors_of_a_cache_are_found_in_its_hooks(model, monkeypatch):
    ours, theirs = held_by_first_block_cache(model, monkeypatch, branches.DEPTH)
    assert ours == theirs > 0, f"{VERSION} keeps the tensors of its caches elsewhere"


def test_control_tensors_that_lie_deeper_are_not_found(model, monkeypatch):
    ours, theirs = held_by_first_block_cache(model, monkeypatch, 1)
    assert ours == 0 < theirs
