"""Read every byte once and compare with what the writer wrote down."""

from collections.abc import Callable

import numpy as np

from ...errors import RecordingError
from .. import layout
from ..attributes import read_attribute
from ..checksums import header_checksum, read_reason, row_bytes, row_checksum, row_names, section_is_sound
from ..encoding import checksum, count_nonfinite, fill_value, storage_dtype
from ..layout import SignalSpec
from .stored import StoredRecording
from .structure import reading

Check = Callable[[StoredRecording], list[str]]


def faults(recording: StoredRecording) -> list[str]:
    """One line a fault: checksums, non-finite counts, token places, axes, step numbers, timestep, how it ended."""
    checks: list[Check] = [_places, _axes, _steps]
    if recording.is_summed:
        checks += [_header, _rows, _sections, _ending, _losses]
    else:
        checks.append(_no_sums)
    checks += [lambda recording, name=name: _signal(recording, recording.spec(name)) for name in recording.signals]  # type: ignore[misc]
    messages: list[str] = []
    for check in checks:
        try:
            with reading(recording.path, "a part of it"):
                messages += check(recording)
        except RecordingError as error:
            messages.append(str(error))
    return messages


def _places(recording: StoredRecording) -> list[str]:
    messages = []
    for axis, stored, expected in zip(("frame", "row", "col"), recording.stored_places(), recording.grid.places(), strict=True):
        if not np.array_equal(stored, expected):
            messages.append(f"token_{axis} disagrees with the grid of {recording.grid.tokens} tokens")
    return messages


def _axes(recording: StoredRecording) -> list[str]:
    """Scales that count 0, 1, 2 ..."""
    names = ["item", "token", "channel"]
    names += [f"{recording.spec(n).dataset}_{axis}" for n in recording.signals if recording.spec(n).is_tap for axis in names[1:]]
    there = [name for name in names if name in recording.file]
    wrong = [name for name in there if not _counts_up(recording.file[name][()])]
    if not _counts_up(recording.stored_rows("step")):
        wrong.append("step")
    return [f"{name} is not 0, 1, 2 ..." for name in wrong]


def _counts_up(stored: np.ndarray) -> bool:
    return np.array_equal(stored, np.arange(len(stored)))


def _steps(recording: StoredRecording) -> list[str]:
    messages = []
    if not np.isfinite(recording.timestep).all():
        messages.append("timestep holds values that are not finite")
    if recording.complete and recording.planned_steps is not None and recording.steps < recording.planned_steps:
        messages.append(f"it says complete and holds {recording.steps} of {recording.planned_steps} planned steps")
    return messages


def _header(recording: StoredRecording) -> list[str]:
    if header_checksum(recording.file) == int(recording.file.attrs[layout.HEADER_SUM]):
        return []
    return ["an attribute or a branch name differs from what the file was made with: header_crc32 does not fit"]


def _rows(recording: StoredRecording) -> list[str]:
    """Small values step by step; and no more steps beyond the counter than the one that a stop may have left there."""
    file = recording.file
    names = row_names((recording.spec(name) for name in recording.signals), lambda name: name in file)
    rows = [row_bytes(name, recording.stored_rows(name)) for name in names]
    written = np.asarray(file[layout.STEP_SUM][()])
    messages = [
        f"step {step}: timestep, alpha, sigma, a count or another small value has changed: step_crc32 does not fit"
        for step in range(recording.steps)
        if row_checksum(row[step] for row in rows) != written[step]
    ]
    counted = max(recording.steps, int(file["steps_done"][()]))  # it may have grown since
    if beyond := np.flatnonzero(written[counted + 1 :]).tolist():
        messages.append(f"steps_done says {counted}, and step {counted + 1 + beyond[-1]} was written too")
    return messages


def _sections(recording: StoredRecording) -> list[str]:
    messages = []
    for section in layout.SECTIONS:
        text = recording.file[f"provenance/{section}"][()].decode("ascii", "replace")
        if not section_is_sound(text):
            messages.append(f"provenance/{section} has changed, or a stop tore it: section_crc32 does not fit")
    return messages


def _ending(recording: StoredRecording) -> list[str]:
    """How it ended, whether it is complete, and its length must agree."""
    stored = recording.file.attrs["end_reason"]
    reason, is_sound = read_reason(stored.decode("ascii", "replace") if isinstance(stored, bytes) else str(stored))
    messages = [] if is_sound else ["end_reason has changed: its crc32 does not fit"]
    # a stop may come between the mark and the reason
    if recording.complete and reason not in (layout.COMPLETE, layout.RUNNING):
        messages.append(f"it is marked complete and says that it ended otherwise: {reason}")
    if not recording.complete and reason == layout.COMPLETE:
        messages.append("it says that it was completed and is not marked so")
    if recording.complete and recording.capacity != recording.steps:
        messages.append(f"it is marked complete, steps_done says {recording.steps}, and it holds {recording.capacity}")
    return messages


def _losses(recording: StoredRecording) -> list[str]:
    """The attribute is the largest of the steps' losses once a recording was closed, and 0 before."""
    messages = []
    for name in recording.signals:
        written = float(read_attribute(recording.file[recording.spec(name).dataset], "storage_loss"))
        largest = recording.storage_loss(name) if recording.spec(name).cast else 0.0
        if written != largest and (recording.complete or written != 0):
            messages.append(f"{name}: storage_loss is {written}, the steps say {largest}")
    return messages


def _no_sums(recording: StoredRecording) -> list[str]:
    """A file of 1.0 has nothing of this; one that has it is newer than it says."""
    newer = layout.HEADER_SUM in recording.file.attrs or layout.STEP_SUM in recording.file
    return ["format_version has changed: it says 1.0, and checksums of 1.1 are there"] if newer else []


def _signal(recording: StoredRecording, spec: SignalSpec) -> list[str]:
    messages = []
    sums = recording.stored_rows(spec.dataset + "_crc32")
    written = recording.stored_rows(spec.dataset + "_nonfinite")
    created = recording.created_counts(spec.name)
    for place in np.ndindex(sums.shape):
        where = f"{spec.name} step {place[0]} item {place[1]}" + (
            f" branch {recording.branches[place[2]]}" if spec.branched else ""
        )
        if written[place] < layout.ABSENT:
            messages.append(f"{where}: the count of non-finite values is {written[place]}")
            continue
        if spec.is_tap and written[place] == layout.ABSENT:
            continue  # a hole
        try:
            data = recording.stored_map(spec, place)
        except RecordingError as error:
            messages.append(f"{where}: {error}")
            continue
        if checksum(data.astype(storage_dtype(spec.stored), copy=False)) != sums[place]:
            messages.append(f"{where}: checksum differs, the stored bytes have changed")
        elif written[place] == layout.ABSENT:
            if not _is_fill(data, spec):
                messages.append(f"{where}: the count says that nothing was recorded, and there are values")
        elif (count := count_nonfinite(data, spec.stored)) != written[place] + created[place]:
            messages.append(f"{where}: {count} non-finite values, the writer counted {written[place] + created[place]}")
    return messages


def _is_fill(data: np.ndarray, spec: SignalSpec) -> bool:
    """Whether a map is what the writer writes where a branch made no call."""
    fill = np.full((), fill_value(spec.stored), storage_dtype(spec.stored))
    bits = f"u{fill.itemsize}"
    return bool((np.ascontiguousarray(data).view(bits) == fill.view(bits)).all())
