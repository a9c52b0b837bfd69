"""The stored form of a recording: what lies in the validated file, as it lies there, for whoever reads, prints or verifies it."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...errors import InputError, RecordingError
from .. import layout
from ..attributes import read_attribute
from ..layout import SignalSpec
from ..provenance import PROVENANCE_FIELDS, UNKNOWN
from .structure import HDF5_ERRORS, Contents, reading


class Section(dict[str, Any]):
    """One provenance section, JSON values by field; a field that nobody recorded reads "unknown"."""

    def __missing__(self, field: str) -> str:
        return UNKNOWN


class StoredRecording:
    """An open, validated file: facts, small per-step rows, and chunks as stored. `Recording` reads values out of it."""

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

    @property
    def file(self) -> h5py.File:
        """The validated handle; raises InputError once closed."""
        if not self._file:
            raise InputError(f"{self.path.name} was closed; open it again to read.")
        return self._file

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._file.close()

    @property
    def skipped(self) -> np.ndarray | None:
        """Of a recording of an accelerated run: bool (step, token), true where a token was not computed; else None."""
        return self.stored_rows(layout.SKIPPED) != 0 if layout.SKIPPED in self.file else None

    def spec(self, signal: str) -> SignalSpec:
        """Sizes and dtypes of one signal. Raises InputError for a signal that the file does not have."""
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
        """Largest absolute difference that storing caused; 0 where it is stored in the source's dtype."""
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
