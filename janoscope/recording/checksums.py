"""What is summed in a recording beside the maps, and how: the same functions write the sums and verify them.

Each sum is written in one piece with what it covers, or before it counts, so that a file is right wherever its writer stops:
one a step over its small values (`step_crc32`, written before `steps_done`), one over everything that is fixed when the file is
made (attribute `header_crc32`), one in each provenance section, as its last field, and one at the end of an `end_reason` in free
words.
"""

import re
import zlib
from collections.abc import Callable, Iterable

import h5py
import numpy as np
from numpy.typing import ArrayLike

from . import layout
from .attributes import read_attribute
from .layout import SignalSpec

_REASON_SUM = " (crc32 {:08x})"
_SUMMED_REASON = re.compile(r"(.*) \(crc32 ([0-9a-f]{8})\)", re.S)


def row_names(signals: Iterable[SignalSpec], has: Callable[[str], bool]) -> list[str]:
    """Small per-step datasets in the order in which `step_crc32` sums their bytes. has: whether the file has a dataset."""
    names = list(layout.PER_STEP)
    for spec in sorted(signals, key=lambda spec: spec.dataset):
        names += [spec.dataset + suffix for suffix in layout.ROW_COMPANIONS]
    return [name for name in names if has(name)]


def row_bytes(name: str, values: ArrayLike) -> np.ndarray:
    """One or more rows of a small dataset in the type in which they are stored and summed."""
    suffix = next((suffix for suffix in layout.ROW_COMPANIONS if name.endswith(suffix)), "")
    kind = layout.ROW_COMPANIONS[suffix] if suffix else layout.PER_STEP[name]
    return np.asarray(values, kind, order="C")


def row_checksum(rows: Iterable[np.ndarray]) -> int:
    """crc32 over the bytes of one step's row of every dataset of `row_names`, one after the other."""
    total = 0
    for row in rows:
        total = zlib.crc32(np.ascontiguousarray(row).tobytes(), total)
    return total


def header_checksum(file: h5py.File) -> int:
    """crc32 over a line `/path@attribute=value` for each attribute of `layout.FIXED_ATTRIBUTES` that the file's objects carry.

    Objects and attributes in the order of their names; numbers in decimal.
    """
    lines = [
        f"/@{name}={_plain(read_attribute(file, name))}" for name in sorted(layout.FIXED_ROOT_ATTRIBUTES) if name in file.attrs
    ]
    for path, dataset in sorted(_datasets(file).items()):
        there = [name for name in layout.FIXED_ATTRIBUTES if name in dataset.attrs]
        lines += [f"/{path}@{name}={_plain(read_attribute(dataset, name))}" for name in there]
    lines.append("branch=" + ",".join(_plain(name) for name in file["branch"][()]))
    return zlib.crc32("\n".join(lines).encode("utf-8", "surrogateescape"))


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Of the root, of taps and of provenance."""
    datasets: dict[str, h5py.Dataset] = {}
    for prefix, group in (("", file), *((f"{name}/", file[name]) for name in (layout.TAPS_GROUP, "provenance") if name in file)):
        datasets |= {prefix + name: item for name, item in group.items() if isinstance(item, h5py.Dataset)}
    return datasets


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return str(value.item() if isinstance(value, np.generic) else value)


def sum_section(text: str) -> str:
    """The JSON object of a provenance section with the crc32 of its text as its last field."""
    body = text.rstrip()[:-1]
    comma = ", " if body.strip() != "{" else ""
    return f'{body}{comma}"{layout.SECTION_SUM}": "{zlib.crc32(text.encode("ascii")):08x}"}}'


def section_is_sound(text: str) -> bool | None:
    """Whether a section's text fits the sum that it carries; None where it carries none."""
    match = re.search(rf'(, )?"{layout.SECTION_SUM}": "([0-9a-f]{{8}})"}}$', text)
    return None if match is None else zlib.crc32((text[: match.start()] + "}").encode("utf-8", "replace")) == int(match[2], 16)


def sum_reason(reason: str) -> str:
    """How a recording ended as it lies on file: one of `layout.END_REASONS` as it is, other text with its crc32."""
    text = " ".join(reason.split()).encode("ascii", "replace").decode("ascii")
    if text in layout.END_REASONS:
        return text
    text = text[: layout.END_REASON_BYTES - len(_REASON_SUM.format(0))]
    return text + _REASON_SUM.format(zlib.crc32(text.encode("ascii")))


def read_reason(stored: str) -> tuple[str, bool]:
    """(the reason without its sum, whether it is one of `layout.END_REASONS` or fits its sum)."""
    match = _SUMMED_REASON.fullmatch(stored)
    if match is None:
        return stored, stored in layout.END_REASONS
    return match[1], zlib.crc32(match[1].encode("utf-8", "replace")) == int(match[2], 16)
