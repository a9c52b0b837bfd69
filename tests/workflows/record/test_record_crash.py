"""A recording of a real pipeline through Ctrl-C, kill -9 and a full disk: what was acknowledged stays, the generation goes on."""

import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import build

from janoscope.recording import open_recording
from janoscope.workflows.record.session import record

FLUX = ("--height", "112", "--width", "176", "--call", "max_sequence_length=16", "-p", "a cat on the grass")
STEPS = 400


@pytest.fixture(scope="module")
def pipeline_and_call():
    return build("flux")


def generate(pipeline, call, steps: int) -> None:
    pipeline(**call | {"num_inference_steps": steps}, generator=torch.Generator().manual_seed(0))


def command(*arguments: object) -> None:
    from janoscope.cli import main

    sys.argv = ["janoscope", *map(str, arguments)]
    main()


def wait_for_steps(path: Path, steps: int) -> None:
    """Until so many steps of an unfinished recording are on file; the suite's own time limit ends a hang."""
    while True:
        if path.exists():
            with open_recording(path, partial=True) as recording:
                if recording.steps >= steps:
                    return
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(pipeline_and_call, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run.h5"
    with record(pipeline_and_call[0], path):
        generate(*pipeline_and_call, STEPS)
    return path


@pytest.mark.parametrize("after", [1, 40])
def test_kill_9_loses_no_acknowledged_step(pipeline_and_call, undisturbed, tmp_path, fork, after):
    run, told = tmp_path / "run.h5", tmp_path / "told.txt"

    def work() -> None:
        with (
            told.open("w", buffering=1) as file,
            record(pipeline_and_call[0], run, on_step=lambda done, steps: tell(file)) as recorded,
        ):

            def tell(file) -> None:
                file.write(f"{recorded.recorders[-1].steps_done}\n")

            generate(*pipeline_and_call, STEPS)

    process = fork(work)
    partial = tmp_path / "run.partial.h5"
    wait_for_steps(partial, after)
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    acknowledged = int((told.read_text().split("\n")[:-1] or ["0"])[-1])
    assert not run.exists(), "the final name is for complete recordings"
    with open_recording(partial, partial=True) as recording, open_recording(undisturbed) as whole:
        assert STEPS > recording.steps >= max(after, acknowledged)
        for step in range(recording.steps):
            for name in ("sample", "model_output"):
                np.testing.assert_array_equal(recording.map(name, step), whole.map(name, step))
        assert recording.verify() == []


def test_control_an_undisturbed_run_is_whole_and_a_different_seed_differs(pipeline_and_call, undisturbed, tmp_path):
    with record(pipeline_and_call[0], tmp_path / "other.h5"):
        pipeline_and_call[0](**pipeline_and_call[1] | {"num_inference_steps": STEPS}, generator=torch.Generator().manual_seed(1))
    with open_recording(undisturbed) as whole, open_recording(tmp_path / "other.h5") as other:
        assert whole.steps == other.steps == STEPS
        assert not np.array_equal(whole.map("sample", 1), other.map("sample", 1))


def test_ctrl_c_leaves_a_valid_partial_and_exit_code_130(saved, tmp_path, fork):
    run, partial = tmp_path / "run.h5", tmp_path / "run.partial.h5"
    model = saved("flux")
    process = fork(lambda: command("record", model, *FLUX, "-q", "--steps", STEPS, "-o", run))
    wait_for_steps(partial, 5)
    assert process.interrupt() == 130
    said = process.said.read_text()
    assert said.split("\n") == [f"What was recorded is {partial}; --partial reads it.", "", "Interrupted.", ""]
    assert not run.exists()
    with open_recording(partial, partial=True) as recording:
        assert 5 <= recording.steps < STEPS
        assert recording.end_reason == "interrupted"
        assert recording.verify() == []


def limited(*arguments: object) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))
    command(*arguments)


def test_a_full_disk_costs_the_rest_of_the_recording_and_nothing_else(saved, tmp_path, fork):
    model = saved("flux")
    for name, run in (("limited", limited), ("control", command)):
        path = tmp_path / f"{name}.h5"
        process = fork(lambda run=run, path=path: run("record", model, *FLUX, "-q", "--steps", 120, "-o", path))
        code, said = process.wait(), process.said.read_text()
        if name == "control":
            assert code == 0, said
            continue
        assert code == 2, said
        assert len(said.splitlines()) == 1, said
        assert f"the picture is {tmp_path / 'limited.png'}" in said
        assert "limited.h5 stopped after" in said
        assert not path.exists()
        with open_recording(tmp_path / "limited.partial.h5", partial=True) as recording:
            assert 0 < recording.steps < 120
            assert recording.end_reason.startswith("failed: ")
            assert f"stopped after {recording.steps} steps" in said
            assert recording.verify() == []
    pictures = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("limited", "control")]
    np.testing.assert_array_equal(*pictures)


def test_a_failing_generation_leaves_a_partial_that_says_why(pipeline_and_call, tmp_path):
    pipeline, call = pipeline_and_call

    def fail(pipe, step, timestep, kwargs):
        if step == 2:
            raise RuntimeError("out of memory")
        return kwargs

    with pytest.raises(RuntimeError, match="out of memory"), record(pipeline, tmp_path / "run.h5"):
        pipeline(**call, callback_on_step_end=fail)
    with open_recording(tmp_path / "run.partial.h5", partial=True) as recording:
        assert recording.steps == 3
        assert recording.end_reason == "failed: RuntimeError: out of memory"


def test_a_second_generation_has_a_file_of_its_own(pipeline_and_call, tmp_path):
    with record(pipeline_and_call[0], tmp_path / "run.h5", prompt="a cat") as recorded:
        generate(*pipeline_and_call, 3)
        generate(*pipeline_and_call, 2)
    assert recorded.paths == [tmp_path / "run.h5", tmp_path / "run-2.h5"]
    steps = []
    for path in recorded.paths:
        with open_recording(path) as recording:
            steps.append(recording.steps)
            assert recording.provenance["run"]["prompt"] == "a cat"
            assert recording.provenance["run"]["seed"] == 0  # read off the call's generator
    assert steps == [3, 2]


@pytest.mark.parametrize("name", ["pixart", "wan2.2"])
def test_half_precision_storage_states_its_loss(tmp_path, name):
    pipeline, call = build(name)
    for dtype in (None, "float16"):
        with record(pipeline, tmp_path / f"{dtype}.h5", store_dtype=dtype):
            generate(pipeline, call, 2)
    with open_recording(tmp_path / "None.h5") as plain, open_recording(tmp_path / "float16.h5") as half:
        for signal_name in plain.signals:
            branch = "cond" if plain.spec(signal_name).branched else "guided"
            values = plain.read(signal_name, branch=branch)
            gap = np.abs(values - half.read(signal_name, branch=branch))
            assert half.spec(signal_name).stored == "float16"
            stated = half.storage_loss(signal_name)
            assert 0 < gap.max() <= stated * (1 + 1e-6)
            assert stated < 0.01 * np.abs(values).max()
            assert plain.storage_loss(signal_name) == 0
