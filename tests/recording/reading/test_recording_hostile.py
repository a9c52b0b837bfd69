"""Files that lie. Each comes through the same door as a harmless control.

The dataset `sample` is taken out and put back, or a root attribute is rewritten; what is put back decides.
"""

from pathlib import Path

import h5py
import numpy as np
import pytest

from janoscope.errors import RecordingError
from janoscope.recording import open_recording
from janoscope.recording.layout import FIXED_ATTRIBUTES

SHAPE = (5, 2, 10, 12)  # (step, item, token, channel)


def put_back_plain(file, values, secret):
    file.create_dataset("sample", data=values, chunks=(1, 1, 10, 12), maxshape=(None, *SHAPE[1:]))


def put_back_gzip(file, values, secret):
    file.create_dataset("sample", data=values, chunks=(1, 1, 10, 12), compression="gzip", shuffle=True, fletcher32=True)


def put_back_contiguous(file, values, secret):
    file.create_dataset("sample", data=values)


def put_back_external_link(file, values, secret):
    file["sample"] = h5py.ExternalLink(str(secret), "sample")


def put_back_soft_link(file, values, secret):
    file["elsewhere"] = values
    file["sample"] = h5py.SoftLink("/elsewhere")


def put_back_virtual(file, values, secret):
    layout = h5py.VirtualLayout(SHAPE, np.float32)
    layout[:] = h5py.VirtualSource(str(secret), "sample", SHAPE)
    file.create_virtual_dataset("sample", layout)


def put_back_external_storage(file, values, secret):
    file.create_dataset("sample", SHAPE, np.float32, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def put_back_strings(file, values, secret):
    file.create_dataset("sample", SHAPE, h5py.string_dtype())


def put_back_references(file, values, secret):
    file.create_dataset("sample", SHAPE, h5py.ref_dtype)


def put_back_compound(file, values, secret):
    file.create_dataset("sample", SHAPE, [("a", "f4")])


def put_back_integers(file, values, secret):
    file.create_dataset("sample", SHAPE, np.int32, chunks=(1, 1, 10, 12))


def put_back_petabytes(file, values, secret):
    file.create_dataset("sample", (1 << 30, 2, 10, 12), np.float32, chunks=(1 << 20, 1, 10, 12))


def put_back_other_axes(file, values, secret):
    file.create_dataset("sample", (5, 2, 12, 10), np.float32, chunks=(1, 1, 12, 10))


def put_back_short(file, values, secret):
    file.create_dataset("sample", data=values[:4], chunks=(1, 1, 10, 12))


def put_back_scale_offset(file, values, secret):
    file.create_dataset("sample", data=values, chunks=(1, 1, 10, 12), scaleoffset=3)


def put_back_group(file, values, secret):
    file.create_group("sample")


def put_back_bomb(file, values, secret):
    file.create_dataset("sample", (5, 2, 10, 12), np.float32, chunks=(5, 2, 10, 12), maxshape=(None,) * 4, compression="gzip")
    file["sample"].resize((1 << 24, 2, 10, 12))


def put_back_beside_a_stranger(file, values, secret):
    put_back_plain(file, values, secret)
    file["stranger"] = 1


def put_back_beside_a_deep_group(file, values, secret):
    put_back_plain(file, values, secret)
    file.create_group("taps/deeper")


def put_back_nothing(file, values, secret):
    pass


@pytest.fixture
def secret(tmp_path: Path, write_recording) -> Path:
    """Another file that is none of the recording's business."""
    write_recording(tmp_path / "secret.h5")
    return tmp_path / "secret.h5"


def pass_the_door(path: Path, put_back, secret: Path) -> None:
    with h5py.File(path, "r+") as file:
        values = file["sample"][()]
        kept = {name: file["sample"].attrs[name] for name in (*FIXED_ATTRIBUTES, "storage_loss") if name in file["sample"].attrs}
        for axis in file["sample"].dims:
            for scale in list(axis.values()):
                axis.detach_scale(scale)
        del file["sample"]
        put_back(file, values, secret)
        if isinstance(file.get("sample", getlink=True) if "sample" in file else None, h5py.HardLink):
            for name, value in kept.items():
                file["sample"].attrs[name] = value


@pytest.mark.parametrize("put_back", [put_back_plain, put_back_gzip, put_back_contiguous])
def test_control_honest_files_pass_the_door(sample_file, secret, put_back, recording_values):
    pass_the_door(sample_file, put_back, secret)
    with open_recording(sample_file) as recording:
        np.testing.assert_array_equal(recording.map("sample", 3, 1), recording_values("sample", 3, 1))
        assert recording.verify() == []


@pytest.mark.parametrize(
    ("put_back", "message"),
    [
        (put_back_external_link, "sample is a ExternalLink, which may lead out of the file"),
        (put_back_soft_link, "sample is a SoftLink|elsewhere"),
        (put_back_virtual, "sample takes its values from another file"),
        (put_back_external_storage, "sample takes its values from another file"),
        (put_back_strings, "sample has type object"),
        (put_back_references, "sample has type object"),
        (put_back_compound, "sample has type"),
        (put_back_integers, "sample is int32"),
        (put_back_petabytes, "sample claims"),
        (put_back_bomb, "sample claims"),
        (put_back_other_axes, r"sample is float32 \(5, 2, 12, 10\), expected shape"),
        (put_back_short, "sample holds 4 steps and steps_done says 5"),
        (put_back_scale_offset, "sample needs HDF5 filter 6; known: shuffle"),
        (put_back_group, "sample is a Group that the format does not know"),
        (put_back_beside_a_stranger, "it holds stranger, which the format does not know"),
        (put_back_beside_a_deep_group, "taps/deeper is a Group"),
        (put_back_nothing, "sample missing"),
    ],
)
def test_lying_files_are_refused_before_any_value_is_read(sample_file, secret, put_back, message, monkeypatch):
    pass_the_door(sample_file, put_back, secret)
    read = []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key, **k: (read.append(self.name), original(self, key, **k))[1])
    with pytest.raises(RecordingError, match=message) as caught:
        open_recording(sample_file)
    assert "\n" not in str(caught.value)
    assert not {"/sample", "/model_output", "/elsewhere"} & set(read)


def test_the_door_would_have_let_a_virtual_file_read_the_secret(sample_file, secret):
    """What plain h5py does with the same file: the reason for the checks."""
    with h5py.File(secret) as other:
        expected = other["sample"][2, 1]
    pass_the_door(sample_file, put_back_virtual, secret)
    with h5py.File(sample_file) as file:
        np.testing.assert_array_equal(file["sample"][2, 1], expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("janoscope_format", "other", "is an HDF5 file but no janoscope recording"),
        ("format_version", "2.0", "has format version '2.0'; this janoscope reads 1.1"),
        ("format_version", "1.x", "has format version '1.x'"),
        ("format_version", np.arange(3), "attribute format_version is int64 of shape"),
        ("grid", "{", "attribute grid is '{'"),
        ("grid", '{"channels": 3, "cells": [1, 4, 1000000000], "patch": [1, 2, 2]}', "token is int64 .10,., expected shape"),
        ("grid", '{"channels": true, "cells": [1, 4, 10], "patch": [1, 2, 2]}', "attribute grid"),
        ("grid", "[" * 100000, "attribute grid"),
        ("planned_steps", np.int64(10**9), "it says that 1000000000 steps were planned, above 100000"),
        ("planned_steps", "many", "attribute planned_steps is object"),
        ("prediction_type", h5py.Empty("f"), "attribute prediction_type is float32 of shape None"),
        ("complete", np.int8(0), r"run\.h5 stopped at step 5; a finished recording is needed"),
    ],
)
def test_lying_attributes_are_refused(sample_file, name, value, message):
    with h5py.File(sample_file, "r+") as file:
        file.attrs[name] = value
    with pytest.raises(RecordingError, match=message) as caught:
        open_recording(sample_file)
    assert "\n" not in str(caught.value)


ROW = "timestep, alpha, sigma, a count or another small value has changed: step_crc32 does not fit"
HEADER = "an attribute or a branch name differs from what the file was made with: header_crc32 does not fit"


@pytest.mark.parametrize(
    ("name", "value", "faults"),
    [("format_version", "1.7", [HEADER]), ("planned_steps", np.int64(5), [HEADER]), ("note", "added by hand", [])],
)
def test_control_honest_attributes_pass(sample_file, name, value, faults):
    """A newer minor version is opened; only what the format sums is held against its sum."""
    with h5py.File(sample_file, "r+") as file:
        file.attrs[name] = value
    with open_recording(sample_file) as recording:
        assert recording.verify() == faults


def test_a_text_heap_that_would_hang_hdf5_is_refused(sample_file):
    content = bytearray(sample_file.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 16 : heap + 32] = bytes(16)  # the first object: index 0, size 0
    sample_file.write_bytes(content)
    with pytest.raises(RecordingError, match="its text heap is broken"):
        open_recording(sample_file)


@pytest.mark.parametrize("steps", [-1, 6, 1 << 62])
def test_a_lying_counter_is_refused(sample_file, steps):
    with h5py.File(sample_file, "r+") as file:
        file["steps_done"][()] = steps
    with pytest.raises(RecordingError, match=f"steps and steps_done says {steps}"):
        open_recording(sample_file)


def test_control_a_smaller_counter_is_believed(sample_file):
    with h5py.File(sample_file, "r+") as file:
        file["steps_done"][()] = 3
    with open_recording(sample_file) as recording:
        assert recording.read("sample").shape == (3, 10, 12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"x" * 5000), "is not an HDF5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "is cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "cannot be|cut short|not an HDF5"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
        (lambda path: path.unlink(), r"run\.h5 does not exist; check the name"),
        (lambda path: (path.unlink(), h5py.File(path, "w").close()), "no janoscope recording"),
    ],
)
def test_what_is_no_recording_is_refused_in_one_line(sample_file, make, message):
    make(sample_file)
    with pytest.raises(RecordingError, match=message) as caught:
        open_recording(sample_file)
    assert "\n" not in str(caught.value)


def test_changed_bytes_are_found_by_verify_and_only_there(sample_file, recording_values):
    content = bytearray(sample_file.read_bytes())
    at = content.index(recording_values("model_output", 2, 1, "cond").tobytes())
    content[at + 5] ^= 0x10
    sample_file.write_bytes(content)
    with open_recording(sample_file) as recording:
        assert recording.verify() == ["model_output step 2 item 1 branch cond: checksum differs, the stored bytes have changed"]


def test_changed_counts_places_and_steps_are_found_by_verify(sample_file):
    with h5py.File(sample_file, "r+") as file:
        file["sample_nonfinite"][1, 0] = 4
        file["token_row"][3] = 7
        file["step"][2] = 9
        file["timestep"][0] = np.nan
    with open_recording(sample_file) as recording:
        assert recording.verify() == [
            "token_row disagrees with the grid of (1, 2, 5) tokens",
            "step is not 0, 1, 2 ...",
            "timestep holds values that are not finite",
            *(f"step {step}: {ROW}" for step in (0, 1, 2)),
            "sample step 1 item 0: 0 non-finite values, the writer counted 4",
        ]


def test_axes_that_xarray_cannot_read_are_one_line(sample_file):
    pytest.importorskip("xarray", reason="the extra janoscope[xarray] is not installed")
    pytest.importorskip("h5netcdf", reason="the extra janoscope[xarray] is not installed")
    with h5py.File(sample_file, "r+") as file:
        file["sample_crc32"].dims[1].detach_scale(file["item"])
    with open_recording(sample_file) as recording, pytest.raises(RecordingError, match="xarray cannot read its axes") as caught:
        recording.to_xarray()
    assert "\n" not in str(caught.value)


def test_torn_provenance_stops_a_finished_recording_only(sample_file):
    with h5py.File(sample_file, "r+") as file:
        file["provenance/run"][()] = b'{"prompt": "a c'
    with pytest.raises(RecordingError, match="provenance/run is not JSON"):
        open_recording(sample_file)
    with h5py.File(sample_file, "r+") as file:
        file.attrs["complete"] = np.int8(0)
    with open_recording(sample_file, partial=True) as recording:
        assert recording.provenance["run"]["prompt"] == "unknown"
