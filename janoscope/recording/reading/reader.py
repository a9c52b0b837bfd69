"""`open_recording` and `Recording`: a lazy, validated view of one file."""

import errno
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import h5py
import numpy as np

from ...errors import InputError, RecordingError
from .. import layout
from ..encoding import decode, fill_value
from ..layout import GUIDED, SignalSpec
from .stored import StoredRecording
from .structure import HDF5_ERRORS, Contents, Validator, reading
from .summary import RecordingSummary, describe, summary
from .verification import faults
from .xarray_view import to_xarray

if TYPE_CHECKING:
    import xarray

Index = int | slice


@dataclass(frozen=True)
class RecordedStep:
    """One step: `maps` holds (token, channel) float32 by signal."""

    index: int
    timestep: float
    alpha: float
    sigma: float
    maps: Mapping[str, np.ndarray]


class Recording(StoredRecording):
    """An open recording. Axes are always (step, item, branch, token, channel); values come as float32 unless raw=True.

    steps, planned_steps (None if unknown), items, branches, tokens, channels (of the latent), token_channels, grid,
    prediction_type, complete, end_reason, created, signals, provenance {section: {field: value}};
    format_version (major, minor); is_summed: whether checksums cover more than the maps (since 1.1); capacity: steps with room;
    timestep, alpha, sigma: float64 (step,); time_s: float64 (step, branch); peak_bytes: int64 (step,), -1 where not measured.
    Use as a context manager, or call `close`. Not for use from several threads at once.
    """

    def map(self, signal: str, step: int, item: int = 0, branch: str = GUIDED, *, raw: bool = False) -> np.ndarray:
        """One map, (token, channel) float32; a branch absent at that step is NaN.

        Args:
            signal: name of a core signal or a tap. step, item: indices; negative ones count from the end. branch: of `branches`.
            raw: the stored dtype unchanged (bfloat16 as uint16 bits).

        Raises:
            InputError: there is no such signal, step, item or branch.
            RecordingError: the file is damaged there.
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

    def verify(self) -> list[str]:
        """Every fault that shows when all bytes are compared with their checksums and counts; empty for a sound file.

        Files of format 1.0 have checksums of their maps only, see `is_summed`.
        """
        return faults(self)

    def to_xarray(self) -> "xarray.Dataset":
        """The root datasets as a lazy xarray.Dataset cut at the last whole step (needs the extra `janoscope[xarray]`)."""
        return to_xarray(self)

    def summary(self) -> RecordingSummary:
        """What `inspect --json` prints: sizes, dtypes, counts and provenance as JSON data."""
        return summary(self)

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return describe(self)

    def _core(self) -> list[str]:
        return [name for name in self.signals if name in layout.CORE_SIGNALS]

    def _read(self, signal: str, steps: Index, item: int, branch: str, tokens: Index, raw: bool) -> np.ndarray:
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


def open_recording(path: Path | str, *, partial: bool = False) -> Recording:
    """Open a recording after checking kind, version, structure and completeness, before any value is read.

    Args:
        path: of the file.
        partial: also accept a recording that did not finish, or is still being written (then up to its last whole step).

    Raises:
        RecordingError: one line, for everything that cannot be trusted.

    >>> with open_recording("run.h5") as recording:  # doctest: +SKIP
    ...     recording.map("model_output", step=0).shape
    (4096, 64)
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
