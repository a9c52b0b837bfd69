"""Models with two networks, of which each makes a part of the steps (Wan 2.2): which steps are whose."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...recording import Recording, open_recording
from .space import Span

TRAIN_TIMESTEPS = 1000  # where a scheduler's config does not say


def expert_spans(timesteps: np.ndarray, boundary: float | None, scheduler: Mapping[str, object]) -> list[Span]:
    """The steps of each network: all, or those before and after a boundary, below which the second expert takes over.

    boundary: as a share of the training timesteps, as Wan's `boundary_ratio` is. scheduler: its description.
    """
    steps = len(timesteps)
    if boundary is None:
        return [Span(0, steps)]
    config = scheduler.get("config")
    timesteps_in_all = config.get("num_train_timesteps", TRAIN_TIMESTEPS) if isinstance(config, Mapping) else TRAIN_TIMESTEPS
    first = int((timesteps >= boundary * timesteps_in_all).sum())
    spans = [Span(0, first, "transformer"), Span(first, steps, "transformer_2")]
    return [span for span in spans if len(span)]


def recorded_boundary(recording: Recording) -> float | None:
    """Where the recorded pipeline's second network took over; None for one network, and for recordings that do not say."""
    boundary = recording.provenance["capture"].get("boundary")
    return boundary if isinstance(boundary, float) else None


def spans_of_recording(recording: Recording, boundary: float | None = None) -> list[Span]:
    """The steps of each network of a recording. boundary: for one that does not say it itself."""
    recorded = recorded_boundary(recording)
    return expert_spans(
        np.array(recording.timestep), boundary if recorded is None else recorded, recording.provenance["scheduler"]
    )


def common_boundary(paths: Sequence[Path]) -> float | None:
    """The boundary that the recordings say; InputError where they differ."""
    boundaries = {}
    for path in paths:
        with open_recording(path) as recording:
            boundaries[recorded_boundary(recording)] = path.name
    if len(boundaries) > 1:
        where = ", ".join(f"{name}: {value}" for value, name in boundaries.items())
        raise InputError(
            f"the recordings are of models whose experts change over at different places ({where}); take them apart."
        )
    return next(iter(boundaries), None)
