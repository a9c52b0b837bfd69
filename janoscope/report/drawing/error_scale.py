"""The colours of errors: one scale for all images that are compared."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image

from .maps import LONGEST
from .style import ERROR_CMAP

POWER = 0.5  # square root, so that small errors are seen beside large ones


def error_scale(errors: Sequence[np.ndarray]) -> float:
    """Where the scale ends (0..255): the median of the images' largest errors, so that the worst hides no other."""
    largest = [float(error.max()) for error in errors if error.any()]
    return max(1.0, float(np.median(largest))) if largest else 1.0


def shaded(error: np.ndarray, most: float) -> np.ndarray:
    """Errors of any shape in colour, uint8 (..., 3); what lies above the scale has its last colour."""
    colours = matplotlib.colormaps[ERROR_CMAP](np.clip(error / most, 0, 1) ** POWER)[..., :3]
    return np.asarray((255 * colours).round().astype(np.uint8))


def error_map(reference: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Mean absolute difference over the channels, (frame, row, col), in units of 8-bit colour."""
    return np.asarray(np.abs(reference.astype(np.float64) - output).mean(axis=-1))


def reduced(values: np.ndarray) -> np.ndarray:
    """Area means (frame, row, col) at the size of an embedded image, where it is larger."""
    rows, cols = values.shape[1:]
    scale = min(1.0, LONGEST / max(rows, cols))
    size = (max(1, round(cols * scale)), max(1, round(rows * scale)))
    frames = [Image.fromarray(frame.astype(np.float32)).resize(size, Image.Resampling.BOX) for frame in values]
    return np.stack([np.asarray(frame) for frame in frames])
