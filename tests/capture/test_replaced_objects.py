"""`pipe.scheduler = ...` and `pipe.transformer = ...` while something is attached: the new object is followed."""

import diffusers
import numpy as np
import pytest
import torch
from capture_sink import MemorySink, run
from plain_hooks import probe_named
from tiny_pipelines import build

from janoscope.capture import Capture, parse_tap
from janoscope.errors import ExecutionError
from janoscope.execution import Executor
from janoscope.plan import Policy

STEPS = 6
TABLE = {
    "name": "t",
    "warmup": 2,
    "cooldown": 1,
    "tile": [1, 2, 2],
    "quantiles": {"static": 0.3, "moderate": 0.6},
    "intervals": {"static": 4, "moderate": 3, "active": 1},
}


def other_scheduler():
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)


def other_network():
    network = build("flux")[0].transformer
    with torch.no_grad():
        network.proj_out.weight.mul_(1.5)
    return network


CHANGES = {"scheduler": ("scheduler",), "transformer": ("transformer",), "both": ("scheduler", "transformer")}


def change(pipe, what):
    for name in CHANGES[what]:
        setattr(pipe, name, {"scheduler": other_scheduler, "transformer": other_network}[name]())


def vars_of(pipe):
    parts = pipe, pipe.scheduler, pipe.transformer
    return [set(vars(part)) for part in parts], [len(pipe.transformer._forward_hooks), len(pipe.transformer._forward_pre_hooks)]


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("after_one", [False, True])
def test_what_is_recorded_is_what_the_new_objects_do(what, after_one):
    reference, call = build("flux")
    change(reference, what)
    wanted = MemorySink()
    with Capture(reference, probe_named("flux"), wanted):
        run(reference, call, num_inference_steps=STEPS)
    pipe, call = build("flux")
    old_scheduler, old_network, sink = pipe.scheduler, pipe.transformer, MemorySink()
    tap = parse_tap("transformer_blocks.0:tokens=2")
    with Capture(pipe, probe_named("flux"), sink, taps=(tap,)):
        if after_one:
            run(pipe, call, num_inference_steps=STEPS)
        change(pipe, what)
        run(pipe, call, num_inference_steps=STEPS)
    assert len(sink.generations) == 1 + after_one
    made = sink.generations[-1]
    assert len(made.maps) == STEPS
    assert made.error is None
    for step in range(STEPS):
        for key, values in wanted.only.maps[step].items():
            np.testing.assert_array_equal(made.maps[step][key], values)
        assert (tap.name, 0, "guided") in made.maps[step]
        assert made.facts[step].sigma == wanted.only.facts[step].sigma
    if after_one:
        assert not np.array_equal(sink.generations[0].maps[2]["sample", 0, "guided"], made.maps[2]["sample", 0, "guided"])
    assert vars_of(pipe) == vars_of(reference)
    assert not old_network._forward_hooks
    assert not {"step", "set_timesteps"} & set(vars(old_scheduler))
    assert "progress_bar" not in vars(pipe)


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("after_one", [False, True])
def test_what_is_accelerated_is_the_new_objects(what, after_one):
    def generate(pipe, call):
        return run(pipe, call, num_inference_steps=10).images.clone()

    policy = Policy.from_table(TABLE, "test")
    reference, call = build("flux")
    change(reference, what)
    full = generate(reference, call)
    with Executor(reference, probe_named("flux"), policy=policy) as executor:
        wanted = generate(reference, call)
        account = executor.summary.to_json()
    pipe, call = build("flux")
    with Executor(pipe, probe_named("flux"), policy=policy) as executor:
        if after_one:
            generate(pipe, call)
        change(pipe, what)
        made = generate(pipe, call)
    assert torch.equal(made, wanted)
    assert not torch.equal(made, full), "control: the plain run differs"
    assert executor.summary.to_json() == account
    assert executor.summary.compute < 1
    assert vars_of(pipe)[1] == [0, 0]
    assert torch.equal(generate(pipe, call), full)
    assert "forward" not in vars(pipe.transformer)


def test_a_run_whose_steps_nobody_saw_is_an_error_of_apply_too():
    pipe, call = build("flux")
    shown = pipe.scheduler

    class Unseen(type(pipe)):
        """Steps with a scheduler of its own."""

        def __call__(self, *args, **kwargs):
            own = diffusers.FluxPipeline(**self.components | {"scheduler": other_scheduler()})
            own.set_progress_bar_config(disable=True)
            return own(*args, **kwargs)

    pipe.__class__ = Unseen
    executor = Executor(pipe, probe_named("flux"), policy=Policy.from_table(TABLE, "test"))
    with pytest.raises(ExecutionError, match="10 network calls came without a step of FlowMatchEulerDiscreteScheduler"), executor:
        run(pipe, call, num_inference_steps=10)
    assert "step" not in vars(shown)
    assert "forward" not in vars(pipe.transformer)
