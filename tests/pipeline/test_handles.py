"""`record` and `apply` give handles: attached when made, closed by `close()` or `with`, never silently nothing."""

import gc
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from tiny_pipelines import build

import janoscope
from janoscope.errors import InputError, JanoscopeError
from janoscope.plan import Policy

TABLE = {
    "name": "t",
    "warmup": 2,
    "cooldown": 1,
    "tile": [1, 2, 2],
    "quantiles": {"static": 0.3, "moderate": 0.6},
    "intervals": {"static": 4, "moderate": 3, "active": 1},
}
POLICY = Policy.from_table(TABLE, "test")


@pytest.fixture(scope="module")
def flux():
    pipe, call = build("flux")
    made = pipe, call | {"num_inference_steps": 10}
    generate(made)  # a pipeline keeps attributes of its first call
    return made


def generate(flux):
    pipe, call = flux
    return pipe(**call, generator=torch.Generator().manual_seed(0)).images.clone()


def state(pipe):
    """What a handle could leave behind, down to hooks and the attributes of every part."""
    parts = (pipe, pipe.scheduler, *pipe.transformer.modules())
    hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in pipe.transformer.modules()]
    return [set(vars(part)) for part in parts], hooks


def test_a_recording_handle_is_attached_when_made_and_close_finishes_every_file(flux, tmp_path):
    pipe, before = flux[0], state(flux[0])
    plain = generate(flux)
    handle = janoscope.record(pipe, tmp_path / "run.h5")
    assert torch.equal(generate(flux), plain)
    assert torch.equal(generate(flux), plain)
    assert handle.paths == [tmp_path / "run.h5", tmp_path / "run-2.h5"]
    assert not handle.is_closed
    handle.close()
    handle.close()
    assert handle.is_closed
    assert state(pipe) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-2.h5", "run.h5"]
    for path in handle.paths:
        assert janoscope.open_recording(path).complete
    assert (handle.summary, handle.plan) == (None, None)
    generate(flux)
    assert len(handle.paths) == 2, "nothing is recorded after it is closed"
    with pytest.raises(InputError, match="closed already"), handle:
        """Not entered."""


def test_an_apply_handle_accelerates_until_closed_and_keeps_its_summary(flux):
    pipe, before = flux[0], state(flux[0])
    plain = generate(flux)
    with janoscope.apply(pipe, policy=POLICY) as run:
        wanted = generate(flux)
    handle = janoscope.apply(pipe, policy=POLICY)
    assert torch.equal(generate(flux), wanted)
    assert not torch.equal(wanted, plain), "control"
    handle.close()
    handle.close()
    assert state(pipe) == before
    assert torch.equal(generate(flux), plain)
    assert handle.summary.to_json() == run.summary.to_json()
    assert handle.summary.compute < 1
    assert handle.plan == run.plan
    assert handle.policy == POLICY
    with pytest.deprecated_call(match="summary"):
        assert run.account is run.summary


def test_an_accelerated_recording_has_summary_and_plan(flux, tmp_path):
    with janoscope.record(flux[0], tmp_path / "run.h5", policy=POLICY) as handle:
        generate(flux)
    assert handle.summary.compute < 1
    assert handle.plan.policy == POLICY


def dropped(handle):
    """The caller has no other reference."""
    del handle
    gc.collect()


def test_a_dropped_handle_detaches_and_says_so(flux, tmp_path):
    pipe, before = flux[0], state(flux[0])
    with pytest.warns(RuntimeWarning, match=r'record\(pipe, ".*run\.h5"\) was dropped before any generation, so nothing was rec'):
        dropped(janoscope.record(pipe, tmp_path / "run.h5"))
    with pytest.warns(RuntimeWarning, match=r"apply\(pipe, \.\.\.\) was dropped before any generation, so nothing was accel"):
        dropped(janoscope.apply(pipe, policy=POLICY))
    handles = [janoscope.record(pipe, tmp_path / "run.h5")]
    generate(flux)
    with pytest.warns(RuntimeWarning, match="was never closed and is closed now"):
        dropped(handles.pop())
    assert janoscope.open_recording(tmp_path / "run.h5").complete
    assert state(pipe) == before


def test_a_handle_that_saw_no_generation_says_so_and_one_that_did_is_quiet(flux, tmp_path):
    pipe = flux[0]
    with pytest.warns(RuntimeWarning, match="no generation was made while record"), janoscope.record(pipe, tmp_path / "a.h5"):
        """Nothing."""
    with pytest.warns(RuntimeWarning, match="no generation was made while apply"), janoscope.apply(pipe, policy=POLICY):
        """Nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with janoscope.record(pipe, tmp_path / "b.h5"), janoscope.apply(pipe, policy=POLICY):
            generate(flux)
        with pytest.raises(ZeroDivisionError), janoscope.record(pipe, tmp_path / "c.h5"):
            _ = 1 / 0


def test_closing_after_calls_without_a_step_is_an_error_and_restores_the_pipeline(flux, tmp_path):
    pipe, before = flux[0], state(flux[0])
    size = {"img_ids": torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]), "txt_ids": torch.zeros(3, 3)}
    config = pipe.transformer.config
    inputs = {
        "hidden_states": torch.randn(1, 4, config.in_channels),
        "encoder_hidden_states": torch.randn(1, 3, config.joint_attention_dim),
        "pooled_projections": torch.randn(1, config.pooled_projection_dim),
        "timestep": torch.ones(1),
        "guidance": torch.ones(1),
    }
    for attach in (lambda: janoscope.record(pipe, tmp_path / "run.h5"), lambda: janoscope.apply(pipe, policy=POLICY)):
        handle = attach()
        pipe.scheduler.set_timesteps(10, mu=1.0)
        with torch.no_grad():
            pipe.transformer(**inputs, **size)
        with pytest.raises(JanoscopeError, match="1 network calls came without a step of FlowMatchEulerDiscreteScheduler"):
            handle.close()
        handle.close()
        assert state(pipe) == before


def test_a_handle_left_open_at_the_end_of_python_still_gives_a_whole_recording(tmp_path):
    program = f"""
        import torch, janoscope
        from tiny_pipelines import build
        pipe, call = build("flux")
        handle = janoscope.record(pipe, {str(tmp_path / "run.h5")!r})
        pipe(**call, generator=torch.Generator().manual_seed(0))
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "was never closed and is closed now" in done.stderr
    assert "Traceback" not in done.stderr
    assert janoscope.open_recording(tmp_path / "run.h5").complete


def test_handles_and_summaries_show_themselves_in_one_line(flux, tmp_path):
    pipe = flux[0]
    recording = janoscope.record(pipe, tmp_path / "run.h5")
    run = janoscope.apply(pipe, policy=POLICY)
    assert repr(recording) == f'<RecordHandle of record(pipe, "{tmp_path / "run.h5"}"), attached>'
    assert repr(run.summary) == "RunSummary(no step yet)"
    generate(flux)
    run.close()
    recording.close()
    assert repr(run) == "<ApplyHandle of apply(pipe, ...), closed>"
    assert repr(run.summary) == f"RunSummary(10 steps, {run.summary.compute:.1%} of the FLOPs, cache kv 0.1 MiB)"
