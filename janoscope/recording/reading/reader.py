"""`open_recording` and `Recording`: a lazy, validated view of one file, which reads what is asked for and no more."""

import errno
import json
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from ...errors import InputError, RecordingError
from .. import layout
from ..attributes import read_attribute
from ..encoding import decode, fill_value
from ..layout import GUIDED, SignalSpec
from ..provenance import PROVENANCE_FIELDS, UNKNOWN
from .structure import HDF5_ERRORS, Contents, Validator, reading
from .summary import describe, summary


@dataclass(frozen=True)
class RecordedStep:
    """One step: `maps` holds (token, channel) float32 by signal."""

    index: int
    timestep: float
    alpha: float
    sigma: float
    maps: Mapping[str, np.ndarray]


class Section(dict[str, Any]):
    """One provenance section; a field that nobody recorded reads "unknown"."""

    def __missing__(self, field: str) -> str:
        return UNKNOWN


class Recording:
    """An open recording. Axes are always (step, item, branch, token, channel); values come as float32 unless raw=True.

    steps, planned_steps (None if unknown), items, branches, tokens, channels (of the latent), token_channels, grid,
    prediction_type, complete, end_reason, created, signals, provenance {section: {field: value}};
    format_version (major, minor); is_summed: whether checksums cover more than the maps (since 1.1); capacity: steps with room;
    timestep, alpha, sigma: float64 (step,); time_s: float64 (step, branch); peak_bytes: int64 (step,), -1 where not measured.
    Use as a context manager, or call `close`. Not for use from several threads at once.
    """

    def __init__(self, path: Path, file: h5py.File, contents: Contents) -> None:
        self.path = path
        self._file = file
        self.grid, self.prediction_type = contents.grid, contents.prediction_type
        self.branches, self.items = contents.branches, contents.items
        self.steps, self.planned_steps = contents.steps, contents.planned_steps
        self.complete, self.end_reason, self.created = contents.complete, contents.end_reason, contents.created
        self.format_version, self.is_summed = contents.version, contents.is_summed
        self.capacity = contents.capacity
        self.tokens, self.channels, self.token_channels = self.grid.count, self.grid.channels, self.grid.token_channels
        self._specs = {spec.name: spec for spec in contents.signals}
        self.signals = tuple(self._specs)
        rows = {name: self.stored_rows(name) for name in ("timestep", "alpha", "sigma", "time_s", "peak_bytes")}
        self.timestep, self.alpha, self.sigma = rows["timestep"], rows["alpha"], rows["sigma"]
        self.time_s, self.peak_bytes = rows["time_s"], rows["peak_bytes"]
        self.provenance: dict[str, Section] = {section: self._section(section) for section in layout.SECTIONS}

    # values

    def map(self, signal: str, step: int, item: int = 0, branch: str = GUIDED, *, raw: bool = False) -> np.ndarray:
        """One map, (token, channel) float32; a branch absent at that step is NaN.

        raw: the stored dtype unchanged (bfloat16 as uint16 bits). Raises InputError for a place that does not exist,
        RecordingError if the file is damaged there.
        """
        return self._read(signal, _index(step, self.steps, "step"), item, branch, slice(None), raw)

    def curve(self, signal: str, token: int, item: int = 0, branch: str = GUIDED, *, raw: bool = False) -> np.ndarray:
        """One token at every step, (step, channel) float32; reads only that token's bytes."""
        at = _index(token, self.spec(signal).tokens, "token")
        return self._read(signal, slice(0, self.steps), item, branch, at, raw)

    def read(
        self, signal: str, item: int = 0, branch: str = GUIDED, steps: slice = slice(None), *, raw: bool = False
    ) -> np.ndarray:
        """A signal over steps, (step, token, channel) float32."""
        start, stop, stride = steps.indices(self.steps)
        if stride < 1:
            raise InputError(f"steps {steps} run backwards; read forwards and turn the array.")
        return self._read(signal, slice(start, max(start, stop), stride), item, branch, slice(None), raw)

    def latents(self, signal: str, item: int = 0, branch: str = GUIDED, steps: slice = slice(None)) -> np.ndarray:
        """A core signal as latents, (step, channel, frame, row, col) float32."""
        if self.spec(signal).is_tap:
            raise InputError(
                f"{signal} is a tap with axes of its own, no latent; use read. Latent signals: {', '.join(self._core())}."
            )
        return self.grid.unpack(self.read(signal, item, branch, steps))

    def iter_steps(
        self, signals: tuple[str, ...] = layout.REQUIRED_SIGNALS, item: int = 0, branch: str = GUIDED
    ) -> Iterator[RecordedStep]:
        """Step by step, holding one step in memory."""
        for step in range(self.steps):
            maps = {name: self.map(name, step, item, branch if self.spec(name).branched else GUIDED) for name in signals}
            yield RecordedStep(step, float(self.timestep[step]), float(self.alpha[step]), float(self.sigma[step]), maps)

    @property
    def skipped(self) -> np.ndarray | None:
        """Of a recording of an accelerated run: bool (step, token), true where a token was not computed; else None."""
        return self.stored_rows(layout.SKIPPED) != 0 if layout.SKIPPED in self.file else None

    # accounts

    def spec(self, signal: str) -> SignalSpec:
        """Sizes and dtypes of one signal."""
        if signal not in self._specs:
            raise InputError(f"{self.path.name} has no signal {signal!r}; it has {', '.join(self.signals)}.")
        return self._specs[signal]

    def present(self, signal: str) -> np.ndarray:
        """Where something was recorded: bool (step, item, branch), or (step, item) for signals without branches."""
        return self.stored_rows(self.spec(signal).dataset + "_nonfinite") != layout.ABSENT

    def nonfinite(self, signal: str) -> int:
        """Non-finite values that the model itself gave."""
        counts = self.stored_rows(self.spec(signal).dataset + "_nonfinite")
        return int(counts[counts >= 0].sum())

    def nonfinite_created(self, signal: str) -> int:
        """Values that were finite until they were stored in a narrower dtype."""
        return int(self.created_counts(signal).sum())

    def created_counts(self, signal: str) -> np.ndarray:
        """Non-finite values that storing created, by chunk: int64 (step, item, branch) or (step, item)."""
        spec = self.spec(signal)
        if spec.dataset + "_nonfinite_created" in self.file:
            return self.stored_rows(spec.dataset + "_nonfinite_created")
        return np.zeros((self.steps, *spec.lead(self.items, len(self.branches))), np.int64)

    def storage_loss(self, signal: str) -> float:
        """Largest absolute difference that storing caused; 0 where the source's dtype was kept."""
        rows = self.spec(signal).dataset + "_storage_loss"
        if rows in self.file:
            return float(self.stored_rows(rows).max(initial=0.0))
        with reading(self.path, f"storage_loss of {signal}"):
            dataset = self._file[self.spec(signal).dataset]
            return float(read_attribute(dataset, "storage_loss")) if "storage_loss" in dataset.attrs else 0.0

    def stored_rows(self, name: str) -> np.ndarray:
        """A small per-step dataset up to the last whole step, as stored."""
        with reading(self.path, name):
            return np.asarray(self.file[name][: self.steps])

    def stored_places(self) -> tuple[np.ndarray, ...]:
        """Frame, row and col of every token as the file says, for `verify`."""
        with reading(self.path, "token places"):
            return tuple(np.asarray(self.file[name][()]) for name in ("token_frame", "token_row", "token_col"))

    def stored_map(self, spec: SignalSpec, place: tuple[int, ...]) -> np.ndarray:
        """One chunk exactly as it lies on file."""
        with reading(self.path, f"{spec.name} at {place}"):
            return np.asarray(self.file[spec.dataset][place])

    def verify(self) -> list[str]:
        """Every fault found by reading all bytes against their checksums and counts; empty for a sound file.

        Files of format 1.0 have checksums of their maps only, see `is_summed`.
        """
        from .verification import faults

        return faults(self)

    def to_xarray(self) -> Any:
        """The root datasets as a lazy xarray.Dataset cut at the last whole step (needs the extra `janoscope[xarray]`)."""
        from .xarray_view import to_xarray

        return to_xarray(self)

    def summary(self) -> dict[str, Any]:
        """What `inspect --json` prints: sizes, dtypes, counts and provenance as JSON data."""
        return summary(self)

    # the file

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return describe(self)

    def _core(self) -> list[str]:
        return [name for name in self.signals if name in layout.CORE_SIGNALS]

    @property
    def file(self) -> h5py.File:
        """The validated handle; raises InputError once closed."""
        if not self._file:
            raise InputError(f"{self.path.name} was closed; open it again to read.")
        return self._file

    def _read(self, signal: str, steps: Any, item: int, branch: str, tokens: Any, raw: bool) -> np.ndarray:
        spec = self.spec(signal)
        lead = (_index(item, self.items, "item"), *self._branch_index(spec, branch))
        with reading(self.path, f"{signal} at step {steps}"):
            stored = np.asarray(self.file[spec.dataset][(steps, *lead, tokens)])
            filled = np.asarray(self._file[spec.dataset + "_nonfinite"][(steps, *lead)]) == layout.ABSENT
            stored[filled] = fill_value(spec.stored)
            return stored if raw else decode(stored, spec.stored).astype(np.float32, copy=False)

    def _branch_index(self, spec: SignalSpec, branch: str) -> tuple[int, ...]:
        if not spec.branched:
            if branch != GUIDED:
                raise InputError(f"{spec.name} has no branch axis; leave branch out.")
            return ()
        if branch not in self.branches:
            raise InputError(f"{self.path.name} has no branch {branch!r}; it has {', '.join(self.branches)}.")
        return (self.branches.index(branch),)

    def _section(self, name: str) -> Section:
        """A torn section is an error in a finished file; in an unfinished one only its fields are lost."""
        try:
            text = self._file[f"provenance/{name}"][()]
            fields = json.loads(text)
            if isinstance(fields, dict):
                fields.pop(layout.SECTION_SUM, None)
                return Section({**dict.fromkeys(PROVENANCE_FIELDS[name], UNKNOWN), **fields})
            raise ValueError("no JSON object")
        except (*HDF5_ERRORS, RecursionError) as error:
            if not self.complete:
                return Section(dict.fromkeys(PROVENANCE_FIELDS[name], UNKNOWN))
            raise RecordingError(
                f"{self.path.name}: provenance/{name} is not JSON; the file is damaged. Copy or record it again."
            ) from error


def open_recording(path: Path | str, *, partial: bool = False) -> Recording:
    """Open a recording after checking kind, version, structure and completeness, before any value is read.

    partial: also accept a recording that did not finish, or is still being written (then up to its last whole step).
    Raises RecordingError, one line, for everything that cannot be trusted.
    """
    path = Path(path)
    _check_exists(path)
    file = _open_file(path)
    try:
        contents = Validator(file, path).contents()
        if not contents.complete and not partial:
            raise RecordingError(_unfinished(path, contents))
        return Recording(path, file, contents)
    except BaseException:
        file.close()
        raise


def _check_exists(path: Path) -> None:
    if path.is_dir():
        raise RecordingError(f"{path} is a folder, not a recording; name a file in it.")
    if path.is_file():
        return
    if path.exists():  # a FIFO would be waited for
        raise RecordingError(f"{path} is no regular file; copy the recording to one and name that.")
    partial = layout.partial_path(path)
    if partial.exists():
        raise RecordingError(
            f"{path} does not exist, but {partial.name} does, a recording that did not finish; open that with --partial."
        )
    raise RecordingError(f"{path} does not exist; check the name.")


def _open_file(path: Path) -> h5py.File:
    try:
        try:
            return h5py.File(path, "r", rdcc_nbytes=0)  # without a cache HDF5 reads only the token's bytes of a chunk
        except BlockingIOError:
            return h5py.File(path, "r", rdcc_nbytes=0, locking=False)  # still being written
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            return h5py.File(path, "r", rdcc_nbytes=0, locking=False)
    except HDF5_ERRORS as error:
        text = str(error)
        if "signature" in text:
            why = "is empty" if path.stat().st_size == 0 else "is not an HDF5 file"
            raise RecordingError(f"{path.name} {why}; pass a file that `janoscope record` wrote.") from error
        if "truncated" in text:
            raise RecordingError(
                f"{path.name} is cut short ({path.stat().st_size} bytes); copy it again from where it came."
            ) from error
        raise RecordingError(f"{path.name} cannot be opened: {' '.join(text.split())[:200]}. Check the file.") from error


def _unfinished(path: Path, contents: Contents) -> str:
    planned = f" of {contents.planned_steps}" if contents.planned_steps else ""
    reason = "still being written, or its process died" if contents.end_reason == layout.RUNNING else contents.end_reason
    return (
        f"{path.name} stopped at step {contents.steps}{planned}; a finished recording is needed ({reason}). "
        "Record again, or pass --partial (partial=True)."
    )


def _index(value: int, size: int, name: str) -> int:
    try:
        at = operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} {value!r} is no whole number.") from error
    if not -size <= at < size:
        raise InputError(f"{name} {at} does not exist; legal: 0 to {size - 1}.")
    return at % size
