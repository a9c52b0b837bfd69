"""The file side of the writer: lay down all metadata once, then append whole steps that survive a kill at any moment.

Order of one step: every dataset grows and is written, flush, steps_done = n, flush. A reader that stops at steps_done
never meets a half-written step. Only the writer thread may use these objects: h5py has one lock for all files.
"""

import os
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import ArrayLike

from ...errors import RecordingError
from .. import layout
from ..checksums import row_names
from ..encoding import MapSummary, checksum, fill_value, storage_dtype
from ..layout import SignalSpec
from .destination import Claim
from .empty_file import Header, image_within_limit, reason_bytes, section_room, write_section

GROWTH_SLACK = 1 << 20  # bytes for the metadata of objects that grow


@dataclass
class StepRow:
    """The small per-step values, and per signal the companions in the shape of its chunks."""

    timestep: float
    alpha: float
    sigma: float
    time_s: np.ndarray  # (branch,)
    peak_bytes: int
    skipped: np.ndarray | None = None  # bool (token,)
    crc32: dict[str, np.ndarray] = field(default_factory=dict)
    nonfinite: dict[str, np.ndarray] = field(default_factory=dict)
    created: dict[str, np.ndarray] = field(default_factory=dict)
    loss: dict[str, np.ndarray] = field(default_factory=dict)


class RecordingFile:
    """One open file in the making. `steps_done` counts the steps that are durable against the death of the process."""

    def __init__(self, file: h5py.File, header: Header, path: Path) -> None:
        self.file = file
        self.path = path
        self._identity = _identity(path)
        self.header = header
        self.steps_done = 0
        self._row: StepRow | None = None
        self._datasets: dict[str, h5py.Dataset] = {}  # opened once: by name at every step it took as long as the step's checksums
        self._row_names = row_names(header.signals, lambda name: name in file)
        self._capacity: int = file["step"].shape[0]

    @classmethod
    def create(cls, claim: Claim, header: Header) -> "RecordingFile":
        """Save the metadata under a hidden name, open it, and rename it to the partial name: it opens from its first moment.

        The claim may be released then, as HDF5 holds a lock on the file, which renaming does not undo.
        """
        header, image = image_within_limit(header)
        making, partial = claim.making_path(), layout.partial_path(claim.path)
        try:
            image.save(making)
            file = h5py.File(making, "r+", rdcc_nbytes=0)  # a chunk cache turns a full disk into a crash of the process
            try:
                os.replace(making, partial)
            except OSError:
                with suppress(OSError):  # report what stopped the renaming
                    file.close()
                raise
        except BaseException:
            with suppress(OSError):
                making.unlink(missing_ok=True)
            raise
        return cls(file, header, partial)

    def begin_step(self, row: StepRow) -> None:
        lead = {spec.name: spec.lead(self.header.items, len(self.header.branches)) for spec in self.header.signals}
        row.crc32 = {name: np.zeros(shape, np.uint32) for name, shape in lead.items()}
        row.nonfinite = {name: np.full(shape, layout.ABSENT, np.int64) for name, shape in lead.items()}
        row.created = {name: np.zeros(shape, np.int64) for name, shape in lead.items()}
        row.loss = {name: np.zeros(shape) for name, shape in lead.items()}
        self._row = row

    def write_map(self, spec: SignalSpec, item: int, branch: int, data: np.ndarray) -> None:
        """One chunk of the step that was begun, past the file's cache and type conversion."""
        self._with_room(spec.dataset).id.write_direct_chunk((self.steps_done, *_place(spec, item, branch), 0, 0), data)

    def note_map(self, spec: SignalSpec, item: int, branch: int, summary: MapSummary) -> None:
        """What is to stand in the step's row about a map that was written."""
        assert self._row is not None
        place = _place(spec, item, branch)
        self._row.crc32[spec.name][place] = summary.crc32
        self._row.nonfinite[spec.name][place] = summary.nonfinite
        self._row.created[spec.name][place] = summary.nonfinite_created
        self._row.loss[spec.name][place] = summary.storage_loss

    def end_step(self) -> None:
        """Write the row, then acknowledge the step: flush, counter, flush (tests showed counters on disk before their data)."""
        row, step = self._row, self.steps_done
        assert row is not None
        for spec in self.header.signals:
            self._fill_absent(spec, row)
        values, total = self._row_values(row), 0
        for name in self._row_names:
            total = zlib.crc32(self._write_row(name, values[name]), total)
        self._write_row(layout.STEP_SUM, total)
        self.file.flush()
        self._dataset("steps_done")[()] = step + 1
        self.file.flush()
        self.steps_done = step + 1
        self._row = None

    def _row_values(self, row: StepRow) -> dict[str, ArrayLike]:
        skipped = np.zeros(self.header.grid.count, np.int8) if row.skipped is None else row.skipped
        values: dict[str, ArrayLike] = {"step": self.steps_done, layout.SKIPPED: skipped}
        values |= {name: getattr(row, name) for name in ("timestep", "alpha", "sigma", "time_s", "peak_bytes")}
        for spec in self.header.signals:
            own = (row.crc32, row.nonfinite, row.created, row.loss)
            values |= {spec.dataset + suffix: rows[spec.name] for suffix, rows in zip(layout.ROW_COMPANIONS, own, strict=True)}
        return values

    def _fill_absent(self, spec: SignalSpec, row: StepRow) -> None:
        """NaN where nothing was recorded: space that was never written would read as zero.

        Not in taps, which may be large and recorded at few steps: there it stays a hole, marked by the count of -1.
        """
        if spec.is_tap:
            return
        for place in np.argwhere(row.nonfinite[spec.name] < 0):
            fill = np.full((spec.tokens, spec.channels), fill_value(spec.stored), storage_dtype(spec.stored))
            self._with_room(spec.dataset).id.write_direct_chunk((self.steps_done, *map(int, place), 0, 0), fill)
            row.crc32[spec.name][tuple(place)] = checksum(fill)

    def _write_row(self, name: str, values: ArrayLike) -> bytes:
        """One step of a small dataset; by its identifier, as h5py's indexing takes four times as long. The bytes written."""
        dataset = self._with_room(name)
        row = np.asarray(values, dataset.dtype, order="C")[None]  # (1, ...)
        place = dataset.id.get_space()
        place.select_hyperslab((self.steps_done,) + (0,) * (row.ndim - 1), row.shape)
        dataset.id.write(h5py.h5s.create_simple(row.shape), place, row)
        return row.tobytes()

    def _dataset(self, name: str) -> h5py.Dataset:
        if name not in self._datasets:
            self._datasets[name] = self.file[name]
        return self._datasets[name]

    def _with_room(self, name: str) -> h5py.Dataset:
        if self._capacity <= self.steps_done:
            self._grow()
        return self._dataset(name)

    def _grow(self) -> None:
        """Room for more steps than were foreseen; in place, so a kill amid the growth itself may cost the recording."""
        rows = max(1, min(self._capacity, layout.ROWS_PER_CHUNK))
        growing = self._growing()
        self._reserve(rows * sum(dataset.nbytes // self._capacity for dataset in growing))
        for dataset in growing:
            dataset.resize(self._capacity + rows, axis=0)
        self._capacity += rows

    def _reserve(self, size: int) -> None:
        """Claim disk before HDF5 makes objects: it must not be the one to find the disk full. Raises OSError if it is."""
        if not hasattr(os, "posix_fallocate"):  # macOS: growth is not guarded there
            return
        with self.path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size + GROWTH_SLACK)

    def _growing(self) -> list[h5py.Dataset]:
        names = [*self._row_names, layout.STEP_SUM, *(spec.dataset for spec in self.header.signals)]
        return [self._dataset(name) for name in names]

    def trim(self) -> None:
        """Give back the room of steps that never came."""
        if self._capacity > self.steps_done:
            for dataset in self._growing():
                dataset.resize(self.steps_done, axis=0)

    def set_provenance(self, section: str, text: str) -> None:
        if self.file[f"provenance/{section}"].dtype.itemsize < section_room(text, slack=0):
            self._reserve(section_room(text))
        write_section(self.file, section, text)

    def set_loss(self, spec: SignalSpec, loss: float) -> None:
        self.file[spec.dataset].attrs.modify("storage_loss", np.float64(loss))

    def set_end_reason(self, reason: str) -> None:
        self.file.attrs.modify("end_reason", reason_bytes(reason))

    def set_complete(self) -> None:
        """Everything before it is flushed first; the reason after it, so that no other order of the two is a sound file."""
        self.file.flush()
        self.file.attrs.modify("complete", np.int8(1))
        self.file.flush()
        self.set_end_reason(layout.COMPLETE)
        self.file.flush()

    def set_failed(self, reason: str) -> None:
        self.set_end_reason(reason)
        self.file.attrs.modify("complete", np.int8(0))

    def publish(self, path: Path) -> None:
        """Give the complete file its final name, while HDF5's lock still keeps others from the partial one."""
        if self._identity != _identity(self.path):
            raise RecordingError(f"{self.path} was replaced by another recorder; this recording is lost")
        os.replace(self.path, path)

    def close(self) -> None:
        self._datasets.clear()
        self.file.close()


def _place(spec: SignalSpec, item: int, branch: int) -> tuple[int, ...]:
    return (item, branch) if spec.branched else (item,)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has that name now."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
