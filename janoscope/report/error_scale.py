"""The colours of errors: one scale for all pictures that are compared."""

from collections.abc import Sequence

import matplotlib
import numpy as np

from .style import ERROR_CMAP

POWER = 0.5  # square root, so that small errors are seen beside large ones


def error_scale(errors: Sequence[np.ndarray]) -> float:
    """Where the scale ends (0..255): the middle one of the pictures' largest errors, so that the worst hides no other."""
    largest = [float(error.max()) for error in errors if error.any()]
    return max(1.0, float(np.median(largest))) if largest else 1.0


def shaded(error: np.ndarray, most: float) -> np.ndarray:
    """Errors of any shape in colour, uint8 (..., 3); what lies above the scale has its last colour."""
    colours = matplotlib.colormaps[ERROR_CMAP](np.clip(error / most, 0, 1) ** POWER)[..., :3]
    return np.asarray((255 * colours).round().astype(np.uint8))
