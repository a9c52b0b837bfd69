"""What the executor is told to compute, and whom it tells."""

from types import SimpleNamespace

import numpy as np
import pytest
from generations import KINDS, Tiny, policy, probe_of_family

from janoscope.errors import InputError
from janoscope.execution import Executor
from janoscope.execution.warmup import Choosing
from janoscope.plan import Selection, StepKind


def test_under_a_selector_keys_are_written_at_refreshes_alone():
    """RAS keeps keys and values of its full steps; partial ones write their own rows over them, others have no reader."""
    kinds = [StepKind.WARMUP, StepKind.REFRESH, StepKind.ACTIVE, StepKind.REUSE, StepKind.COOLDOWN]
    selector = SimpleNamespace(select=lambda step: Selection(kinds[step], None))
    steering = Choosing(selector, None, [1.0] * 6)
    assert [steering.writes_keys(step) for step in range(5)] == [False, True, False, False, False]


def test_on_select_hears_every_step_before_it_is_computed():
    tiny, heard, computed_then = Tiny("flux"), [], []

    def on_select(selection):
        heard.append(selection)
        computed_then.append(len(executor.account.steps))

    executor = tiny.executor(policy(), on_select=on_select)
    with executor:
        tiny.plain()
    assert [str(selection.kind) for selection in heard] == executor.account.kinds == KINDS
    assert computed_then == list(range(len(KINDS)))
    for selection, step in zip(heard, executor.account.steps, strict=True):
        count = executor.account.image_tokens if selection.indices is None else len(selection.indices)
        assert count == step.tokens
        assert selection.indices is None or (np.diff(selection.indices) > 0).all()


def test_a_pipeline_without_the_familys_networks_is_refused_by_their_names():
    stranger = SimpleNamespace(scheduler=Tiny("flux").pipe.scheduler)
    with pytest.raises(InputError, match="SimpleNamespace has none of the components transformer"):
        Executor(stranger, probe_of_family("flux"), policy=policy())
