"""Nothing in the loop makes the host wait for the device: no value is fetched, no boolean mask is turned into indices."""

from itertools import product

import pytest
import torch
from generations import Tiny, policy
from strategies import OTHERS, table
from torch.utils._python_dispatch import TorchDispatchMode

from janoscope.execution.run import Run

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "item")


class Waits(TorchDispatchMode):
    """Names of operations that would wait for an accelerator."""

    def __init__(self):
        super().__init__()
        self.met = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        masked = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, torch.Tensor) and index.dtype is torch.bool for index in args[1] or ()
        )
        if name in WAITING or masked:
            self.met.append(name)
        return func(*args, **(kwargs or {}))


FAMILIES = product(["flux", "sd3", "wan", "pixart"], ["held", "forecast"])


@pytest.mark.parametrize(("family", "kept"), [*FAMILIES, ("flux", "corrected"), ("dit", "corrected")])
def test_partial_steps_fetch_nothing_from_the_device(family, kept, monkeypatch):
    more = {} if kept == "held" else {"output": kept, "cache": {"strategy": "kv", "forecast": True}}
    _assert_nothing_is_fetched(family, more, monkeypatch)


@pytest.mark.parametrize("strategy", OTHERS)
def test_no_cache_strategy_fetches_a_value(strategy, monkeypatch):
    _assert_nothing_is_fetched("flux", {"cache": table(strategy)}, monkeypatch)


def _assert_nothing_is_fetched(family, more, monkeypatch):
    tiny = Tiny(family)
    if family == "dit":  # its published sampler does not clip; diffusers' default does, which no correction can undo
        tiny.pipe.scheduler.register_to_config(clip_sample=False)
    waits = {}

    def watched(name):
        honest = getattr(Run, name)

        def call(self, *args, **kwargs):
            step = len(self.summary.steps)
            with Waits() as mode:
                result = honest(self, *args, **kwargs)
            waits.setdefault(step, []).extend(mode.met)
            return result

        return call

    for name in ("call", "step_ends"):
        monkeypatch.setattr(Run, name, watched(name))
    _, executor = tiny.run(policy(intervals={"static": 4, "moderate": 2, "active": 1}, **more), num_inference_steps=10)
    assert executor.summary.kinds[2:] == ["refresh", "active", "moderate", "active", "refresh", "active", "moderate", "cooldown"]
    assert {step: met for step, met in waits.items() if met and 2 <= step < 9} == {}
    assert waits[9], "control: the count of non-finite values is fetched once, after the last step"
