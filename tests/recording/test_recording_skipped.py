"""Tokens that an executor left out, and taps that are recorded at few steps."""

import numpy as np
import pytest

from janoscope.errors import InputError
from janoscope.recording import Recorder, RecorderOptions, TapAxes, diff, export, open_recording

TAP = "transformer_blocks.0.output"
MARKS = RecorderOptions(marks_skipped=True)


def skipped_at(step: int) -> np.ndarray:
    return np.arange(10) % 3 == step % 3


def write(path, put_whole_step, grid, *, steps: int = 4, **options) -> None:
    with Recorder(path, grid=grid, prediction_type="flow", planned_steps=2, options=MARKS, **options) as recorder:
        for step in range(steps):
            put_whole_step(recorder, step)
            recorder.commit(timestep=step, alpha=0.5, sigma=0.5, skipped=skipped_at(step) if step else None)


def test_skipped_tokens_come_back_and_survive_an_export(tmp_path, put_whole_step, grid):
    write(tmp_path / "run.h5", put_whole_step, grid)
    export(tmp_path / "run.h5", tmp_path / "copy.h5", dtype="float16")
    wanted = np.stack([np.zeros(10, bool), *(skipped_at(step) for step in range(1, 4))])
    for name in ("run.h5", "copy.h5"):
        with open_recording(tmp_path / name) as recording:
            np.testing.assert_array_equal(recording.skipped, wanted)
            assert "An accelerated run: 25.0%" in repr(recording)
            assert recording.verify() == []


def test_an_ordinary_recording_has_none(sample_file):
    with open_recording(sample_file) as recording:
        assert recording.skipped is None
        assert "accelerated" not in repr(recording)


def test_skipped_tokens_are_refused_where_they_would_be_lost_or_do_not_fit(tmp_path, put_whole_step, grid):
    facts = {"timestep": 1, "alpha": 0.5, "sigma": 0.5}
    with Recorder(tmp_path / "a.h5", grid=grid, prediction_type="flow") as recorder:
        put_whole_step(recorder, 0)
        with pytest.raises(InputError, match=r"options=RecorderOptions\(marks_skipped=True\)"):
            recorder.commit(**facts, skipped=skipped_at(0))
        recorder.commit(**facts)
    with Recorder(tmp_path / "b.h5", grid=grid, prediction_type="flow", options=MARKS) as recorder:
        put_whole_step(recorder, 0)
        with pytest.raises(InputError, match=r"shape \(9,\); expected one value a token, 10"):
            recorder.commit(**facts, skipped=skipped_at(0)[:9])
        recorder.commit(**facts)


def test_a_tap_at_few_steps_takes_space_for_those_only(tmp_path, put_whole_step, grid):
    size, steps = (64, 1024), 20
    values = np.random.default_rng(0).standard_normal(size).astype(np.float16)
    taps = {TAP: TapAxes(*size, dtype="float16")}
    with Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow", planned_steps=steps, taps=taps) as recorder:
        for step in range(steps):
            put_whole_step(recorder, step)
            if step % 10 == 3:
                recorder.put(TAP, values + step, branch="guided")
            recorder.commit(timestep=step, alpha=0.5, sigma=0.5)
    with open_recording(tmp_path / "run.h5") as recording:
        assert recording.verify() == []
        np.testing.assert_array_equal(recording.map(TAP, 13), (values + 13).astype(np.float32))
        assert np.isnan(recording.map(TAP, 12)).all()
        assert recording.spec(TAP).source == "float16"
        assert np.flatnonzero(recording.present(TAP)[:, 0, 0]).tolist() == [3, 13]
    on_disk = (tmp_path / "run.h5").stat().st_blocks * 512
    assert on_disk < 8 * values.nbytes, (
        f"{on_disk} bytes on disk for two maps of {values.nbytes}; {steps} would be {steps * values.nbytes}"
    )
    export(tmp_path / "run.h5", tmp_path / "copy.h5")
    assert diff(tmp_path / "run.h5", tmp_path / "copy.h5").same_values


def test_a_flipped_bit_of_a_tap_is_found(tmp_path, put_whole_step, grid):
    values = np.full((7, 5), 1.25, np.float32)
    with Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow", taps={TAP: TapAxes(7, 5)}) as recorder:
        for step in range(2):
            put_whole_step(recorder, step)
            if step:
                recorder.put(TAP, values)
            recorder.commit(timestep=step, alpha=0.5, sigma=0.5)
    data = bytearray((tmp_path / "run.h5").read_bytes())
    data[data.index(values.tobytes()) + 9] ^= 4
    (tmp_path / "run.h5").write_bytes(data)
    with open_recording(tmp_path / "run.h5") as recording:
        assert recording.verify() == [f"{TAP} step 1 item 0 branch guided: checksum differs, the stored bytes have changed"]
