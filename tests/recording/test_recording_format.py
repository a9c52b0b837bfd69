"""The file as strangers see it: plain h5py, xarray, and the reader printed in docs/format.md."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from janoscope.recording import export, open_recording

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"


def documented_reader():
    code = re.search(r"```python\n(.*?)```", FORMAT_PAGE.read_text(encoding="utf-8"), re.S)
    assert code is not None
    namespace: dict = {}
    exec(code.group(1), namespace)
    return namespace["read"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_documented_reader_reads_what_ours_reads(tmp_path, sample_file, dtype):
    path = export(sample_file, tmp_path / "copy.h5", dtype=dtype)
    read = documented_reader()
    with open_recording(path) as recording:
        for signal, branch in (("sample", "guided"), ("model_output", "guided"), ("model_output", "uncond")):
            values, prompt = read(path, signal, branch, 1)
            assert (values.dtype, prompt) == (np.float32, "a cat")
            np.testing.assert_array_equal(values, recording.read(signal, 1, branch))
        assert not np.array_equal(read(path, "model_output", "cond", 1)[0], recording.read("model_output", 0, "cond"))


def test_datasets_are_those_of_the_format_page(sample_file):
    page = FORMAT_PAGE.read_text(encoding="utf-8")
    found = []
    with h5py.File(sample_file) as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        dims = {name: tuple(axis.keys()[0] for axis in file[name].dims) for name in ("model_output", "sample", "time_s")}
        shapes = {name: (file[name].shape, file[name].chunks) for name in ("model_output", "sample")}
        attributes = set(file.attrs)
        assert all(item.attrs["units"] and item.attrs["long_name"] for item in file.values() if isinstance(item, h5py.Dataset))
    assert dims == {
        "model_output": ("step", "item", "branch", "token", "channel"),
        "sample": ("step", "item", "token", "channel"),
        "time_s": ("step", "branch"),
    }
    assert shapes == {"model_output": ((5, 2, 3, 10, 12), (1, 1, 1, 10, 12)), "sample": ((5, 2, 10, 12), (1, 1, 10, 12))}
    signals = {f"{signal}{suffix}" for signal in ("model_output", "sample") for suffix in ("", "_crc32", "_nonfinite")}
    small = {"steps_done", "step_crc32", "timestep", "alpha", "sigma", "time_s", "peak_bytes"}
    small |= {"token_frame", "token_row", "token_col"}
    scales = {"step", "item", "branch", "token", "channel"}
    provenance = {f"provenance/{section}" for section in ("run", "model", "scheduler", "packages", "capture")}
    assert set(found) == signals | small | scales | provenance
    assert all(f"`{name}`" in page for name in small | scales | attributes)


def test_superblock_has_no_flag_that_a_killed_writer_leaves(sample_file):
    assert sample_file.read_bytes()[8] == 0


def test_nothing_is_filtered_and_attributes_say_it_is_whole(sample_file):
    with h5py.File(sample_file) as file:
        assert file["model_output"].id.get_create_plist().get_nfilters() == 0
        assert (file.attrs["janoscope_format"], file.attrs["format_version"]) == ("janoscope-recording", "1.1")
        assert (int(file.attrs["complete"]), file.attrs["end_reason"]) == (1, b"complete")
        assert int(file["steps_done"][()]) == 5
        assert json.loads(file["provenance/run"][()])["seed"] == 7


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_xarray_sees_coordinates_and_values(tmp_path, sample_file, dtype):
    pytest.importorskip("xarray", reason="the extra janoscope[xarray] is not installed")
    pytest.importorskip("h5netcdf", reason="the extra janoscope[xarray] is not installed")
    path = export(sample_file, tmp_path / "copy.h5", dtype=dtype)
    with open_recording(path) as recording:
        dataset = recording.to_xarray()
        output = dataset["model_output"]
        assert output.dims == ("step", "item", "branch", "token", "channel")
        assert output.dtype == np.float32
        assert {"timestep", "alpha", "sigma", "token_row", "token_col", "branch"} <= set(output.coords)
        chosen = output.sel(branch="cond").isel(item=1, step=slice(1, 4), token=7)
        np.testing.assert_array_equal(chosen.values, recording.read("model_output", 1, "cond")[1:4, 7])
        assert dataset["time_s"].attrs["units"] == "s"


def test_xarray_opens_the_file_directly(sample_file):
    xarray = pytest.importorskip("xarray", reason="the extra janoscope[xarray] is not installed")
    pytest.importorskip("h5netcdf", reason="the extra janoscope[xarray] is not installed")
    with xarray.open_dataset(sample_file, engine="h5netcdf") as dataset, open_recording(sample_file) as recording:
        np.testing.assert_array_equal(dataset["sample"][:, 1].values, recording.read("sample", 1))
        np.testing.assert_array_equal(dataset["sigma"].values, recording.sigma)
        assert list(dataset["branch"].values) == ["guided", "cond", "uncond"]


def test_xarray_cuts_an_unfinished_recording_at_its_last_whole_step(tmp_path, grid, put_whole_step):
    from janoscope.recording import Recorder

    pytest.importorskip("xarray", reason="the extra janoscope[xarray] is not installed")
    pytest.importorskip("h5netcdf", reason="the extra janoscope[xarray] is not installed")
    recorder = Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow", planned_steps=9)
    for step in range(2):
        put_whole_step(recorder, step)
        recorder.commit(timestep=step, alpha=0.5, sigma=0.5)
    recorder.close("interrupted")
    with open_recording(recorder.partial_path, partial=True) as recording:
        assert recording.to_xarray().sizes["step"] == 2
