"""Training that was stopped and resumed is the training that was never stopped."""

import pytest
import torch
import torch.distributed as dist

from janoscope.demo.training.recipes import Size, Stage
from janoscope.demo.training.scenes import load_glyphs
from janoscope.demo.training.train import Trainer

STAGE = Stage("test", 4, 1.0, (Size(64, 1),))


@pytest.fixture
def alone(tmp_path):
    """A process group of one; skipped where the training font is not installed."""
    try:
        load_glyphs()
    except SystemExit as absent:
        pytest.skip(f"training pictures cannot be drawn: {absent}")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained(steps, seed=0, trainer=None):
    trainer = trainer or Trainer("image", seed, 0)
    for _ in range(steps):
        trainer.train_step(STAGE, trainer.step)
    return trainer


def same(a, b):
    return all(torch.equal(a.ema[name], b.ema[name]) for name in a.ema)


def test_a_resumed_run_equals_one_that_was_never_stopped(alone, tmp_path):
    whole = trained(4)
    first = trained(2)
    first.save(tmp_path / "checkpoint.pt")
    second = Trainer("image", 0, 0)
    second.resume(tmp_path / "checkpoint.pt")
    assert not same(second, whole)
    assert same(trained(2, trainer=second), whole)


def test_another_seed_gives_other_weights(alone):
    assert not same(trained(1, seed=0), trained(1, seed=1))
