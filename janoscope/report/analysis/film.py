"""The film strip: the estimate of the final image step by step, in colours that a least-squares fit reads out.

No decoder is at hand here. The last x0 estimate and the decoded image give the best affine map from a latent cell's channels to
the mean colour of the pixels that it covers; the same map then shows every earlier estimate. A preview, cell by cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from ...conversion import PathPoint, to_x0
from ...errors import InputError
from ...recording import Recording, open_recording
from ..drawing.images import frame_of, resized
from ..drawing.style import MUTED
from .view import AnalysisView

GAP = 0.06  # between frames, of a frame's width


@dataclass(frozen=True)
class FilmStrip:
    """steps: (frame,). frames: (frame, row, col, 3) in 0..1. fit: share of the image's variance that the colours explain."""

    steps: Sequence[int]
    frames: np.ndarray
    fit: float


def draw_x0_strip(data: FilmStrip, ax: Axes) -> Axes:
    """Frames side by side, the step under each."""
    rows, cols = data.frames.shape[1:3]
    pitch = cols * (1 + GAP)
    for at, (step, frame) in enumerate(zip(data.steps, data.frames, strict=True)):
        left = at * pitch
        ax.imshow(frame, extent=(left, left + cols, rows, 0), interpolation="none")
        ax.text(left + cols / 2, rows * 1.04, str(step), ha="center", va="top", color=MUTED)
    ax.set(xlim=(0, len(data.steps) * pitch - cols * GAP), ylim=(rows * 1.18, 0), aspect="equal", anchor="NW")
    ax.axis("off")
    return ax


def read_film(view: AnalysisView, count: int = 8) -> FilmStrip | None:
    """Estimates at about `count` steps, first and last among them, of the middle frame; None without recording or image."""
    if view.recording is None or view.image is None:
        return None
    steps = film_steps(view, count)
    with open_recording(view.recording, partial=True) as recording:
        _check_same(recording, view)
        latents = np.stack([_estimate(recording, view, step) for step in steps])
    middle = view.grid.cells[0] // 2
    image = np.stack([_cells_of(view, frame) for frame in range(view.grid.cells[0])])
    colours, fit = fit_colours(latents[-1], image)
    return FilmStrip(steps, np.stack([to_colours(latent[:, middle], colours) for latent in latents]), fit)


def film_steps(view: AnalysisView, count: int) -> list[int]:
    """Steps spread evenly over those at which x0 is known: an epsilon prediction says nothing about it where alpha is 0."""
    known = np.arange(view.steps)
    if view.facts["conversion"]["prediction_type"] == "epsilon":
        known = known[view.arrays["alpha"] > 0]
    chosen = np.unique(np.linspace(0, known.size - 1, min(count, known.size)).round().astype(int))
    return [int(step) for step in known[chosen]]


def fit_colours(latent: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, float]:
    """Affine map (channel + 1, 3) from latent (channel, frame, row, col) to image (frame, row, col, 3) in 0..1, and its R^2."""
    design, target = _design(latent), image.reshape(-1, 3)
    colours = np.linalg.lstsq(design, target, rcond=None)[0]
    spread = ((target - target.mean(axis=0)) ** 2).sum()
    left = ((target - design @ colours) ** 2).sum()
    return colours, float(1 - left / spread) if spread > 0 else 1.0


def to_colours(latent: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Latent (channel, ...) -> colours (..., 3), clipped to 0..1."""
    return np.clip(_design(latent) @ colours, 0, 1).reshape(*latent.shape[1:], 3)


def _design(latent: np.ndarray) -> np.ndarray:
    flat = latent.reshape(len(latent), -1).T.astype(np.float64)
    return np.hstack([flat, np.ones((len(flat), 1))])


def _check_same(recording: Recording, view: AnalysisView) -> None:
    if recording.grid != view.grid or recording.steps < view.steps:
        raise InputError(
            f"{recording.path.name} has {recording.steps} steps on {recording.grid}, its analysis {view.steps} on "
            f"{view.grid}; analyze this recording again."
        )


def _estimate(recording: Recording, view: AnalysisView, step: int) -> np.ndarray:
    """x0 estimate (channel, frame, row, col) of the first item."""
    conversion, grid = view.facts["conversion"], view.grid
    output = recording.map("model_output", step)
    point = PathPoint(float(view.arrays["alpha"][step]), float(view.arrays["sigma"][step]))
    x0 = to_x0(output, recording.map("sample", step), prediction=conversion["prediction_type"], point=point)
    return np.asarray(grid.unpack(x0))


def _cells_of(view: AnalysisView, frame: int) -> np.ndarray:
    frames, rows, cols = view.grid.cells
    assert view.image is not None
    return resized(frame_of(view.image, frame, frames), rows, cols) / 255
