"""Read every byte once and compare with what the writer noted."""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import RecordingError
from .encoding import checksum, count_nonfinite, storage_dtype
from .layout import SignalSpec

if TYPE_CHECKING:
    from .reader import Recording


def faults(recording: "Recording") -> list[str]:
    """One line a fault: checksums, non-finite counts, token places, step numbers, timestep."""
    found = _small(recording)
    for name in recording.signals:
        try:
            found += _signal(recording, recording.spec(name))
        except RecordingError as error:
            found.append(str(error))
    return found


def _small(recording: "Recording") -> list[str]:
    found = []
    for axis, stored, expected in zip(("frame", "row", "col"), recording.stored_places(), recording.grid.places(), strict=True):
        if not np.array_equal(stored, expected):
            found.append(f"token_{axis} disagrees with the grid of {recording.grid.tokens} tokens")
    if not np.array_equal(recording.stored_rows("step"), np.arange(recording.steps)):
        found.append("step is not 0, 1, 2 ...")
    if not np.isfinite(recording.timestep).all():
        found.append("timestep holds values that are not finite")
    if recording.complete and recording.planned_steps is not None and recording.steps < recording.planned_steps:
        found.append(f"it says complete and holds {recording.steps} of {recording.planned_steps} planned steps")
    return found


def _signal(recording: "Recording", spec: SignalSpec) -> list[str]:
    found = []
    sums = recording.stored_rows(spec.dataset + "_crc32")
    noted = recording.stored_rows(spec.dataset + "_nonfinite")
    created = recording.created_counts(spec.name)
    for place in np.ndindex(sums.shape):
        if spec.is_tap and noted[place] < 0:
            continue  # a hole
        where = f"{spec.name} step {place[0]} item {place[1]}" + (
            f" branch {recording.branches[place[2]]}" if spec.branched else ""
        )
        try:
            data = recording.stored_map(spec, place)
        except RecordingError as error:
            found.append(f"{where}: {error}")
            continue
        if checksum(data.astype(storage_dtype(spec.stored), copy=False)) != sums[place]:
            found.append(f"{where}: checksum differs, the stored bytes have changed")
            continue
        met, expected = count_nonfinite(data, spec.stored), noted[place] + created[place]
        if noted[place] >= 0 and met != expected:
            found.append(f"{where}: {met} non-finite values, the writer counted {expected}")
    return found
