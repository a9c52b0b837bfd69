"""Two recordings compared, and one copied with another dtype."""

import numpy as np
import pytest

from janoscope.errors import InputError, RecordingError
from janoscope.recording import Recorder, RecorderOptions, diff, export, open_recording


def record(path, grid, changes=(), **options):
    """Three steps with `changes` (signal, step, token, added) applied."""
    options = {"prediction_type": "flow", "branches": ("guided", "cond")} | options
    with Recorder(path, grid=grid, **options) as recorder:
        for step in range(3):
            for signal, branches in (("sample", ("guided",)), ("model_output", ("guided", "cond"))):
                for branch in branches:
                    values = np.full((10, 12), step, np.float32)
                    for name, at, token, added in changes:
                        if (name, at) == (signal, step):
                            values[token, 4] += added
                    recorder.put(signal, values, branch=branch)
            recorder.commit(timestep=step, alpha=0.5, sigma=0.5)
    return path


def test_the_same_recording_twice_is_identical(tmp_path, grid):
    a, b = record(tmp_path / "a.h5", grid), record(tmp_path / "b.h5", grid)
    result = diff(a, b)
    assert result.identical
    assert str(result).splitlines() == ["a.h5 and b.h5: identical", "  model_output: the same", "  sample: the same"]


def test_diff_says_where_recordings_part(tmp_path, grid):
    a = record(tmp_path / "a.h5", grid, provenance={"run": {"seed": 1}})
    changes = [("model_output", 1, 3, 0.5), ("model_output", 2, 3, -2.0), ("model_output", 2, 7, np.nan)]
    b = record(tmp_path / "b.h5", grid, changes, provenance={"run": {"seed": 2}})
    result = diff(a, b)
    assert not result.identical
    output, sample = result.signals
    assert (output.signal, output.steps, output.tokens) == ("model_output", (1, 2), (3, 7))
    np.testing.assert_array_equal(output.max_abs, [0, 0.5, np.inf])
    np.testing.assert_array_equal(output.first_step[[3, 7, 0]], [1, 2, -1])
    assert (sample.steps, sample.tokens) == ((), ())
    assert [(field.field, field.a, field.b) for field in result.provenance] == [("run.seed", 1, 2)]
    assert result.structure == ()
    assert "model_output: from step 1, 2 of 3 steps, 2 of 10 tokens, largest difference inf" in str(result)


def test_nan_equals_nan(tmp_path, grid):
    changes = [("sample", 0, 0, np.nan)]
    assert diff(record(tmp_path / "a.h5", grid, changes), record(tmp_path / "b.h5", grid, changes)).identical


def test_recordings_of_other_sizes_differ_in_structure(tmp_path, grid):
    a, b = record(tmp_path / "a.h5", grid), tmp_path / "b.h5"
    with Recorder(b, grid=grid, prediction_type="flow") as recorder:
        for name in ("sample", "model_output"):
            recorder.put(name, np.zeros((10, 12), np.float32))
        recorder.commit(timestep=0, alpha=0.5, sigma=0.25)
    result = diff(a, b)
    assert [(d.field, d.a, d.b) for d in result.structure] == [
        ("steps", 3, 1),
        ("branches", ("guided", "cond"), ("guided",)),
        ("sigma from step 0", 0.5, 0.25),
    ]
    assert not result.same_values


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_export_changes_the_dtype_and_nothing_else(tmp_path, sample_file, dtype):
    written = export(sample_file, tmp_path / "copy.h5", dtype=dtype)
    assert written == tmp_path / "copy.h5"
    result = diff(sample_file, written)
    assert result.structure == ()
    assert {field.field for field in result.provenance} == {"capture.exported_from", "capture.exported_dtype"}
    worst = max(signal.max_abs.max() for signal in result.signals)
    assert (worst == 0) == (dtype in ("float32", "float64"))
    assert worst < 0.02
    with open_recording(written) as copy, open_recording(sample_file) as source:
        assert {copy.spec(name).stored for name in copy.signals} == {dtype}
        assert copy.verify() == []
        np.testing.assert_array_equal(copy.time_s, source.time_s)
        np.testing.assert_array_equal(copy.peak_bytes, source.peak_bytes)


def test_export_of_bfloat16_to_float32_is_exact_and_keeps_absence(tmp_path, grid):
    with Recorder(
        tmp_path / "run.h5",
        grid=grid,
        prediction_type="flow",
        branches=("guided", "cond"),
        options=RecorderOptions(store_dtype="bfloat16"),
    ) as recorder:
        for step in range(2):
            for name in ("sample", "model_output"):
                recorder.put(name, np.random.default_rng(step).standard_normal((10, 12)).astype(np.float32))
            if step == 0:
                recorder.put("model_output", np.ones((10, 12), np.float32), branch="cond")
            recorder.commit(timestep=step, alpha=0.5, sigma=0.5, absent=["cond"] if step else [])
    export(tmp_path / "run.h5", tmp_path / "copy.h5")
    assert diff(tmp_path / "run.h5", tmp_path / "copy.h5").same_values
    with open_recording(tmp_path / "copy.h5") as copy:
        np.testing.assert_array_equal(copy.present("model_output")[:, 0], [[True, True], [True, False]])


def test_export_keeps_an_unfinished_recording_unfinished(tmp_path, grid, put_whole_step):
    recorder = Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow", planned_steps=4)
    put_whole_step(recorder, 0)
    recorder.commit(timestep=0, alpha=0.5, sigma=0.5)
    recorder.close("interrupted")
    with pytest.raises(RecordingError, match="stopped at step 1 of 4"):
        export(recorder.partial_path, tmp_path / "copy.h5")
    assert export(recorder.partial_path, tmp_path / "copy.h5", partial=True) == tmp_path / "copy.partial.h5"
    with open_recording(tmp_path / "copy.partial.h5", partial=True) as copy:
        assert (copy.steps, copy.planned_steps, copy.end_reason) == (1, 4, "interrupted")


def test_export_refuses_what_cannot_be_done(tmp_path, sample_file):
    with pytest.raises(InputError, match="dtype 'int8' cannot be stored"):
        export(sample_file, tmp_path / "copy.h5", dtype="int8")
    with pytest.raises(InputError, match="exists and is kept"):
        export(sample_file, sample_file)
