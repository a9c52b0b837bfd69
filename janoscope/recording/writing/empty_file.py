"""The empty recording: every object that the file will ever have, with room for its steps, and no step in it."""

import errno
import json
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import h5py
import numpy as np
from numpy.typing import DTypeLike

from ...grid import TokenGrid
from .. import layout
from ..checksums import header_checksum, sum_reason, sum_section
from ..encoding import BFLOAT16, fill_value, storage_dtype
from ..layout import SignalSpec
from .sparse_image import SparseImage

PROVENANCE_SLACK = 4096  # bytes left for later fields, so that an update is written in place


@dataclass(frozen=True)
class Header:
    """Everything about a recording that is fixed when its file is made."""

    grid: TokenGrid
    prediction_type: str
    branches: tuple[str, ...]
    items: int
    planned_steps: int | None
    signals: tuple[SignalSpec, ...]
    provenance: Mapping[str, str]  # section -> ASCII JSON
    marks_skipped: bool = False
    room: int = layout.ROWS_PER_CHUNK  # steps that get their place in the file when it is made


def image_within_limit(header: Header) -> tuple[Header, SparseImage]:
    """The empty recording, with room for as many of the steps as the process's file size limit allows."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    image = make_image(header)
    while limit != resource.RLIM_INFINITY and image.size > limit:
        if header.room == 1:
            raise OSError(errno.EFBIG, f"{os.strerror(errno.EFBIG)}: one step needs {image.size} bytes, the limit is {limit}")
        header = replace(header, room=max(1, min(header.room - 1, int(header.room * limit / image.size))))
        image = make_image(header)
    return header, image


def make_image(header: Header) -> SparseImage:
    image = SparseImage()
    with h5py.File(image, "w", rdcc_nbytes=0) as file:
        write_empty(file, header)
    return image


def reason_bytes(reason: str) -> np.ndarray:
    return np.array(sum_reason(reason).encode("ascii"), f"S{layout.END_REASON_BYTES}")


def write_section(file: h5py.File, section: str, text: str) -> None:
    """A provenance section and its sum, in one piece."""
    _write_text(file["provenance"], section, sum_section(text))


def section_room(text: str, slack: int = PROVENANCE_SLACK) -> int:
    """Bytes that a section of this text takes; with `slack` left for later fields, as a new one has."""
    return len(sum_section(text)) + slack


def _write_text(group: h5py.Group, name: str, text: str) -> None:
    """ASCII into a scalar dataset of fixed width: in place where it fits, since a new object could tear under a kill."""
    if name in group and group[name].dtype.itemsize >= len(text):
        group[name][()] = np.bytes_(text)
        return
    if name in group:
        del group[name]
    width = len(text) + PROVENANCE_SLACK
    group.create_dataset(name, data=np.array(text.encode("ascii"), f"S{width}"), dtype=f"S{width}")


def write_empty(file: h5py.File, header: Header) -> None:
    """Every object the file will ever have, with no step in it."""
    _root_attributes(file, header)
    file.create_dataset("steps_done", data=np.int64(0))
    _scales(file, header)
    for spec in header.signals:
        _signal(file, spec, header)
    file.create_group("provenance")
    for section in layout.SECTIONS:
        write_section(file, section, header.provenance[section])
    for name, (units, long_name) in layout.UNITS.items():
        if name in file:
            _say(file[name], units=units, long_name=long_name)
    file.attrs[layout.HEADER_SUM] = np.uint32(header_checksum(file))


def _say(owner: h5py.Dataset | h5py.File, **texts: str) -> None:
    for name, text in texts.items():
        owner.attrs[name] = text


def _root_attributes(file: h5py.File, header: Header) -> None:
    _say(
        file,
        janoscope_format=layout.FORMAT,
        format_version=layout.FORMAT_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        prediction_type=header.prediction_type,
        grid=json.dumps(header.grid.to_json()),
    )
    file.attrs["planned_steps"] = np.int64(-1 if header.planned_steps is None else header.planned_steps)
    file.attrs["complete"] = np.int8(0)
    file.attrs["end_reason"] = reason_bytes(layout.RUNNING)


def _scales(file: h5py.File, header: Header) -> None:
    grid, branches = header.grid, np.array(header.branches, dtype=np.bytes_)
    _per_step(file, "step", header.room, (), np.int64)
    file.create_dataset("item", data=np.arange(header.items, dtype=np.int64))
    file.create_dataset("branch", data=branches)
    _say(file["branch"], _Encoding="utf-8")  # xarray then gives text
    file.create_dataset("token", data=np.arange(grid.count, dtype=np.int64))
    file.create_dataset("channel", data=np.arange(grid.token_channels, dtype=np.int64))
    for name in ("step", "item", "branch", "token", "channel"):
        file[name].make_scale(name)
    for name in ("timestep", "alpha", "sigma"):
        _attach(file, _per_step(file, name, header.room, (), np.float64), ("step",))
    _attach(file, _per_step(file, "time_s", header.room, (len(branches),), np.float64), ("step", "branch"))
    peak = _per_step(file, "peak_bytes", header.room, (), np.int64)
    peak.attrs["_FillValue"] = np.int64(-1)
    _attach(file, peak, ("step",))
    _attach(file, _per_step(file, layout.STEP_SUM, header.room, (), np.uint32), ("step",))
    if header.marks_skipped:
        _attach(file, _per_step(file, layout.SKIPPED, header.room, (grid.count,), np.int8), ("step", "token"))
    for name, values in zip(("token_frame", "token_row", "token_col"), grid.places(), strict=True):
        _attach(file, file.create_dataset(name, data=values), ("token",))


def _per_step(file: h5py.File, name: str, room: int, lead: tuple[int, ...], dtype: DTypeLike) -> h5py.Dataset:
    return _growing(file, name, room, lead, np.dtype(dtype), (layout.ROWS_PER_CHUNK, *lead))


def _growing(
    file: h5py.File,
    name: str,
    room: int,
    lead: tuple[int, ...],
    dtype: np.dtype,
    chunks: tuple[int, ...],
    fill: np.generic | None = None,
) -> h5py.Dataset:
    """A dataset that gets its place in the file, and all its chunks their index entries, now.

    An index that grows with the steps splits its nodes, and a kill amid a split loses steps that were acknowledged. Space
    that is not written yet is a hole, no disk; the fill value is never written but says what the space means.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return file.create_dataset(name, (room, *lead), dtype, maxshape=(None, *lead), chunks=chunks, fillvalue=fill, dcpl=properties)


def _attach(file: h5py.File, dataset: h5py.Dataset, dims: tuple[str, ...]) -> None:
    for axis, name in enumerate(dims):
        dataset.dims[axis].attach_scale(file[name])


def _signal(file: h5py.File, spec: SignalSpec, header: Header) -> None:
    lead = spec.lead(header.items, len(header.branches))
    leading_dims = ("step", "item", "branch")[: len(lead) + 1]
    shape, chunks = (*lead, spec.tokens, spec.channels), (1,) * (len(lead) + 1) + (spec.tokens, spec.channels)
    dtype, fill = storage_dtype(spec.stored), fill_value(spec.stored)
    dataset = _growing(file, spec.dataset, header.room, shape, dtype, chunks, fill)
    _attach(file, dataset, (*leading_dims, *_map_dims(file, spec)))
    dataset.attrs["storage_loss"] = np.float64(0.0)
    places = "" if spec.is_tap else " token_frame token_row token_col"
    _say(dataset, source_dtype=spec.source, coordinates=f"timestep alpha sigma{places}")
    if spec.stored == BFLOAT16:
        _say(dataset, janoscope_dtype=BFLOAT16)
    if spec.is_tap:
        _say(dataset, long_name=f"output of the inner module at {spec.name}", units="1")
    _companions(file, spec, header.room, lead, leading_dims)


def _map_dims(file: h5py.File, spec: SignalSpec) -> tuple[str, str]:
    """Scales of the token and channel axes; a tap has its own."""
    if not spec.is_tap:
        return "token", "channel"
    names = (f"{spec.dataset}_token", f"{spec.dataset}_channel")
    for name, size in zip(names, (spec.tokens, spec.channels), strict=True):
        file.create_dataset(name, data=np.arange(size, dtype=np.int64)).make_scale(name.rpartition("/")[2])
    return names


def _companions(file: h5py.File, spec: SignalSpec, room: int, lead: tuple[int, ...], dims: tuple[str, ...]) -> None:
    about: dict[str, tuple[DTypeLike, str]] = {
        "_crc32": (np.uint32, "zlib.crc32 of each stored chunk's bytes"),
        "_nonfinite": (np.int64, "non-finite values in each chunk's source; -1 where nothing was recorded"),
    }
    if spec.cast:
        about["_nonfinite_created"] = (np.int64, "values that were finite in the source and are not in the stored dtype")
        about["_storage_loss"] = (np.float64, "largest absolute difference that storing caused in each chunk")
    for suffix, (dtype, long_name) in about.items():
        dataset = _per_step(file, spec.dataset + suffix, room, lead, dtype)
        _say(dataset, long_name=long_name, units="1")
        if suffix == "_nonfinite":
            dataset.attrs["_FillValue"] = np.int64(-1)
        _attach(file, dataset, dims)
