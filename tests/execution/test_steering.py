"""What the executor is told to compute, and whom it tells."""

from types import SimpleNamespace

import numpy as np
import pytest
from generations import KINDS, Tiny, policy, probe_of_family

from janoscope.errors import InputError
from janoscope.execution import Executor


def test_on_select_hears_every_step_before_it_is_computed():
    tiny, heard, computed_then = Tiny("flux"), [], []

    def on_select(selection):
        heard.append(selection)
        computed_then.append(len(executor.summary.steps))

    executor = tiny.executor(policy(), on_select=on_select)
    with executor:
        tiny.plain()
    assert [str(selection.kind) for selection in heard] == executor.summary.kinds == KINDS
    assert computed_then == list(range(len(KINDS)))
    for selection, step in zip(heard, executor.summary.steps, strict=True):
        count = executor.summary.image_tokens if selection.indices is None else len(selection.indices)
        assert count == step.tokens
        assert selection.indices is None or (np.diff(selection.indices) > 0).all()


def test_a_pipeline_without_the_familys_networks_is_refused_by_their_names():
    stranger = SimpleNamespace(scheduler=Tiny("flux").pipe.scheduler)
    with pytest.raises(InputError, match="SimpleNamespace has none of the components transformer"):
        Executor(stranger, probe_of_family("flux"), policy=policy())
