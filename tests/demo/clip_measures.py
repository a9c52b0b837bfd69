"""What a clip shows, measured without a network: where its object is, how it moves, its colour, how still the rest is.

Clips are (frame, row, col, 3) in 0..1. The measures were set up on drawn clips; `test_clip_measures.py` holds them to that.
"""

import numpy as np
from scipy.ndimage import binary_dilation, uniform_filter

DIRECTIONS = {"left": -1, "right": 1}  # pixels to the right
# mean colour of the drawn objects, RGB 0..255
COLOURS = {
    "red": (212, 89, 42),
    "yellow": (227, 172, 48),
    "green": (118, 159, 43),
    "purple": (141, 90, 154),
    "pink": (238, 188, 162),
}


def object_mask(clip: np.ndarray, threshold: float = 0.16) -> np.ndarray:
    """Where the clip departs from the usual colour of its row: the sky is a vertical gradient, the object covers under half."""
    usual = np.median(clip, axis=(0, 2), keepdims=True)
    distance = np.abs(clip - usual).mean(-1)
    return uniform_filter(distance, size=(1, 3, 3)) > threshold


def motion(clip: np.ndarray) -> np.ndarray:
    """Displacement (right, down) in pixels of the object's centre from the first three frames to the last three."""
    mask = object_mask(clip)
    centres = [np.argwhere(part).mean(0)[[2, 1]] if part.any() else np.full(2, np.nan) for part in (mask[:3], mask[-3:])]
    return centres[1] - centres[0]


def moves(clip: np.ndarray, direction: str, least_px: float = 4.0) -> bool:
    """At least `least_px` along the named direction, and more than twice as far along it as across."""
    moved = motion(clip)
    along, across = moved[0] * DIRECTIONS[direction], abs(moved[1])
    return bool(along >= least_px and along > 2 * across)


def background_flicker(clip: np.ndarray) -> float:
    """Standard deviation over time, averaged over the pixels the object never comes near; 1.0 if there are none."""
    near = binary_dilation(object_mask(clip).any(0), iterations=2)
    return float(clip[:, ~near].std(0).mean()) if (~near).mean() > 0.1 else 1.0


def object_colour(clip: np.ndarray) -> str | None:
    """The nearest of COLOURS to the object's mean colour; None where no object is seen."""
    mask = object_mask(clip, 0.25)
    if not mask.any():
        return None
    mean = 255 * clip[mask].mean(0)
    return min(COLOURS, key=lambda name: float(np.square(mean - COLOURS[name]).sum()))
