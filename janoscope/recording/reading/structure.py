"""Look at a file before trusting it: kind, version, then every object, all before any recorded value is read.

HDF5 follows what a file says: links and virtual datasets into other files, external raw storage, shapes of terabytes.
Nothing of that belongs in a recording, so only what `docs/format.md` lists, as hard links, is let through.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ...errors import JanoscopeError, RecordingError
from ...grid import TokenGrid
from .. import layout
from ..attributes import Attribute, read_attribute
from ..checksums import read_reason
from ..encoding import BFLOAT16
from ..layout import SignalSpec
from .hdf5_heap import heaps_are_sound

FILTERS = {"shuffle": 2, "fletcher32": 3, "gzip": 1, "lzf": 32000}  # what plain h5py reads
MAX_INFLATION = 2048  # deflate cannot exceed about 1030
MAX_ABSENCE = 64  # most of a data set may be branches that were absent, but not all of it
MAX_NAMES = 100_000
MAX_AXIS = 1 << 31
MAX_TEXT = 64 << 20  # bytes of one provenance section
HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError, AttributeError)
PER_STEP = {"step": "i", "timestep": "f", "alpha": "f", "sigma": "f", "peak_bytes": "i", "time_s": "f"}
PLACES = ("token_frame", "token_row", "token_col")
SCALES = ("item", "branch", "token", "channel")


@dataclass(frozen=True)
class Contents:
    """What a validated file holds; `capacity` is the length of its step axis, `steps` the part that counts."""

    grid: TokenGrid
    prediction_type: str
    branches: tuple[str, ...]
    items: int
    planned_steps: int | None
    steps: int
    signals: tuple[SignalSpec, ...]
    complete: bool
    end_reason: str
    created: str
    version: tuple[int, int]  # of the format
    capacity: int

    @property
    def is_summed(self) -> bool:
        """Whether its small values, attributes and provenance have checksums: since format 1.1."""
        return self.version >= (1, 1)


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """One place where what h5py raises becomes one line about the file."""
    try:
        yield
    except JanoscopeError:
        raise
    except HDF5_ERRORS as error:
        text = " ".join(str(error).split())[:300]
        raise RecordingError(
            f"{path.name}: {what} cannot be read: {text or type(error).__name__}. The file is damaged; copy or record it again."
        ) from error


class Validator:
    """Checks of one open file; every refusal is a RecordingError of one line."""

    def __init__(self, file: h5py.File, path: Path) -> None:
        self.file, self.path = file, path
        self.size = path.stat().st_size

    def contents(self) -> Contents:
        with reading(self.path, "its structure"):
            if not heaps_are_sound(self.path):
                raise self._refuse("its text heap is broken")
            version = self._kind_and_version()
            names = self._walk()
            return self._contents(names, version)

    def _refuse(self, what: str) -> RecordingError:
        return RecordingError(f"{self.path.name} is refused: {what}. Only files as docs/format.md describes are opened.")

    def _kind_and_version(self) -> tuple[int, int]:
        if "janoscope_format" not in self.file.attrs or self._text_attribute(self.file, "janoscope_format") != layout.FORMAT:
            raise RecordingError(
                f"{self.path.name} is an HDF5 file but no janoscope recording; pass a file that `janoscope record` wrote."
            )
        version = self._text_attribute(self.file, "format_version")
        numbers = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", version)
        if numbers is None or numbers[1] != layout.FORMAT_VERSION.partition(".")[0]:
            raise RecordingError(
                f"{self.path.name} has format version {version!r}; this janoscope reads {layout.FORMAT_VERSION}. "
                "Open it with the version that wrote it."
            )
        return int(numbers[1]), int(numbers[2])

    # attributes

    def _attribute(self, owner: h5py.HLObject, name: str, kinds: str) -> Attribute:
        if name not in owner.attrs:
            raise self._refuse(f"attribute {name} is missing")
        about = owner.attrs.get_id(name)
        if about.dtype.kind not in kinds:
            raise self._refuse(f"attribute {name} is {about.dtype} of shape {about.shape}")
        try:
            return read_attribute(owner, name)
        except ValueError as error:
            raise self._refuse(str(error)) from error

    def _text_attribute(self, owner: h5py.HLObject, name: str) -> str:
        value = self._attribute(owner, name, "SO")
        if not isinstance(value, str | bytes):
            raise self._refuse(f"attribute {name} is no text")
        return value.decode("ascii", "replace") if isinstance(value, bytes) else value

    # objects

    def _walk(self) -> set[str]:
        """All dataset names; only hard links, only the groups that the format knows."""
        datasets: set[str] = set()
        groups = [("", self.file)]
        while groups:
            prefix, group = groups.pop()
            if len(group) > MAX_NAMES:
                raise self._refuse(f"group /{prefix} has {len(group)} members")
            for name in group:
                full = f"{prefix}{name}"
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise self._refuse(f"{full} is a {type(link).__name__}, which may lead out of the file")
                kind = group.get(name, getclass=True)
                if kind is h5py.Group and not prefix and name in (layout.TAPS_GROUP, "provenance"):
                    groups.append((f"{name}/", group[name]))
                elif kind is h5py.Dataset:
                    self._dataset(full, group[name])
                    datasets.add(full)
                else:
                    raise self._refuse(f"{full} is a {getattr(kind, '__name__', kind)} that the format does not know")
        return datasets

    def _dataset(self, name: str, dataset: h5py.Dataset) -> None:
        if dataset.is_virtual or dataset.external:
            raise self._refuse(f"{name} takes its values from another file")
        dtype = dataset.dtype
        if dtype.kind not in "iufS":
            raise self._refuse(f"{name} has type {dtype}")
        if dataset.shape is None or any(size > MAX_AXIS for size in dataset.shape):
            raise self._refuse(f"{name} has shape {dataset.shape}")
        filters = self._filters(name, dataset)
        stored = dataset.id.get_storage_size()
        if stored > self.size:
            raise self._refuse(f"{name} claims {stored} bytes in a file of {self.size}")
        unit = math.prod(dataset.chunks) * dtype.itemsize if dataset.chunks else dataset.nbytes
        if unit > min(layout.MAX_MAP_BYTES, self.size * (MAX_INFLATION if filters else 1)):
            raise self._refuse(f"{name} claims {unit} bytes in one piece, in a file of {self.size}")
        if dataset.nbytes > (stored + unit) * (MAX_INFLATION if filters else 1) * (1 if dataset.chunks is None else MAX_ABSENCE):
            raise self._refuse(f"{name} claims {dataset.nbytes} bytes and stores {stored}")

    def _filters(self, name: str, dataset: h5py.Dataset) -> int:
        properties = dataset.id.get_create_plist()
        codes = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
        if unknown := set(codes) - set(FILTERS.values()):
            raise self._refuse(f"{name} needs HDF5 filter {min(unknown)}; known: {', '.join(FILTERS)}")
        return len(codes)

    # the whole

    def _contents(self, names: set[str], version: tuple[int, int]) -> Contents:
        needed = {
            "steps_done",
            *PER_STEP,
            *PLACES,
            *SCALES,
            *layout.REQUIRED_SIGNALS,
            *(f"provenance/{s}" for s in layout.SECTIONS),
        }
        if version >= (1, 1):
            needed.add(layout.STEP_SUM)
        if missing := needed - names:
            raise self._refuse(f"{', '.join(sorted(missing))} missing")
        grid = self._grid()
        self._expect("steps_done", (), "i")
        steps = int(self.file["steps_done"][()])
        branches = self._branches()
        items = self._expect("item", (None,), "i")[0]
        self._expect("token", (grid.count,), "i")
        self._expect("channel", (grid.token_channels,), "i")
        for name in PLACES:
            self._expect(name, (grid.count,), "i")
        for name, kind in PER_STEP.items():
            self._expect_steps(name, steps, (len(branches),) if name == "time_s" else (), kind)
        if layout.STEP_SUM in names:
            self._expect_steps(layout.STEP_SUM, steps, (), "u")
        if layout.SKIPPED in names:
            self._expect_steps(layout.SKIPPED, steps, (grid.count,), "i")
        for section in layout.SECTIONS:
            self._expect(f"provenance/{section}", (), "S")
        signals = tuple(self._signal(name, names, grid, items, len(branches), steps) for name in self._signal_names(names))
        planned = int(self._attribute(self.file, "planned_steps", "i"))
        if planned > layout.MAX_STEPS:
            raise self._refuse(f"it says that {planned} steps were planned, above {layout.MAX_STEPS}")
        if version >= (1, 1):
            self._attribute(self.file, layout.HEADER_SUM, "u")
        return Contents(
            grid,
            self._text_attribute(self.file, "prediction_type"),
            branches,
            items,
            planned if planned > 0 else None,
            steps,
            signals,
            int(self._attribute(self.file, "complete", "iu")) == 1,
            read_reason(self._text_attribute(self.file, "end_reason"))[0],
            self._text_attribute(self.file, "created"),
            version,
            self.file["step"].shape[0],
        )

    def _grid(self) -> TokenGrid:
        text = self._text_attribute(self.file, "grid")
        try:
            table = json.loads(text)
            sizes = [table["channels"], *table["cells"], *table["patch"]]
            if len(sizes) != 7 or not all(type(size) is int and 0 < size < MAX_AXIS for size in sizes):
                raise ValueError("sizes")
            return TokenGrid.from_json(table)
        except (ValueError, KeyError, TypeError, RecursionError, JanoscopeError) as error:
            raise self._refuse(f"attribute grid is {text[:80]!r}") from error

    def _branches(self) -> tuple[str, ...]:
        count = self._expect("branch", (None,), "S")[0]
        if not 0 < count <= 64:
            raise self._refuse(f"branch has {count} names")
        names = tuple(
            name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in self.file["branch"][()]
        )
        if layout.GUIDED not in names or len(set(names)) != len(names):
            raise self._refuse(f"branches are {names}, without 'guided' or with doubles")
        return names

    def _expect(self, name: str, shape: tuple[int | None, ...], kinds: str) -> tuple[int, ...]:
        dataset = self.file[name]
        fits = len(dataset.shape) == len(shape) and all(w is None or w == s for w, s in zip(shape, dataset.shape, strict=True))
        if not fits or dataset.dtype.kind not in kinds:
            raise self._refuse(f"{name} is {dataset.dtype} {dataset.shape}, expected shape {shape}")
        if dataset.dtype.itemsize > MAX_TEXT:
            raise self._refuse(f"{name} is {dataset.dtype.itemsize} bytes of text")
        return tuple(dataset.shape)

    def _expect_steps(self, name: str, steps: int, lead: tuple[int, ...], kinds: str) -> h5py.Dataset:
        shape = self._expect(name, (None, *lead), kinds)
        if not 0 <= steps <= shape[0]:
            raise self._refuse(f"{name} holds {shape[0]} steps and steps_done says {steps}")
        return self.file[name]

    def _signal_names(self, names: set[str]) -> list[str]:
        fixed = needed_names(names)
        taps = sorted(n.partition("/")[2] for n in names if n.startswith("taps/") and not n.endswith(layout.COMPANIONS))
        signals = [name for name in layout.CORE_SIGNALS if name in names] + taps
        for name in taps:
            layout.check_signal_name(name)
        allowed = fixed | {layout.dataset_path(s) + suffix for s in signals for suffix in ("", *layout.COMPANIONS)}
        if strange := names - allowed:
            raise self._refuse(f"it holds {sorted(strange)[0]}, which the format does not know")
        return signals

    def _signal(self, name: str, names: set[str], grid: TokenGrid, items: int, branches: int, steps: int) -> SignalSpec:
        path = layout.dataset_path(name)
        lead = (items, branches) if layout.BRANCHED.get(name, True) else (items,)
        own = (grid.count, grid.token_channels) if name in layout.CORE_SIGNALS else (None, None)
        dataset = self._expect_steps(path, steps, (*lead, *own), "fu")  # type: ignore[arg-type]
        bits = "janoscope_dtype" in dataset.attrs
        if bits and (self._text_attribute(dataset, "janoscope_dtype") != BFLOAT16 or dataset.dtype != np.uint16):
            raise self._refuse(f"{name} is {dataset.dtype} with an unknown janoscope_dtype")
        if not bits and dataset.dtype.name not in ("float16", "float32", "float64"):
            raise self._refuse(f"{name} is {dataset.dtype}, no floating point")
        for suffix, kind in layout.ROW_COMPANIONS.items():
            if suffix not in layout.CAST_COMPANIONS or path + suffix in names:
                if path + suffix not in names:
                    raise self._refuse(f"{path}{suffix} is missing")
                self._expect_steps(path + suffix, steps, lead, kind[1])
        tokens, channels = dataset.shape[-2:]
        return SignalSpec(
            name, tokens, channels, self._text_attribute(dataset, "source_dtype"), BFLOAT16 if bits else dataset.dtype.name
        )


def needed_names(names: set[str]) -> set[str]:
    """Datasets that are not part of a signal."""
    provenance = {name for name in names if name.startswith("provenance/") and name.partition("/")[2] in layout.SECTIONS}
    return {"steps_done", *PER_STEP, *PLACES, *SCALES} | provenance | (names & {layout.SKIPPED, layout.STEP_SUM})
