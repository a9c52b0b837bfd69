"""Inward diffusion: quiet tiles beside a contour are raised, so that the inside of an outlined object is not called simple."""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError

# the official rules, float32 throughout as there
CONTOUR_DEVIATIONS = np.float32(0.3)  # contour: above mean + 0.3 standard deviations
RIM_REACH = 2.0  # a rim tile is near the contour within 2 tiles
RIM_SHARE = np.float32(0.3)  # share of the rim that must be near, inclusive: 3 of 10 passes
SMALLEST_REGION = 2  # tiles

# which tiles are neighbours of the middle one
CROSS = np.array([[False, True, False], [True, True, True], [False, True, False]])
SQUARE = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Enhancement:
    """How far (`distance`, tiles) and how much (`strength`, share of the contour's mean) a contour raises its neighbours."""

    strength: float = 0.8
    distance: float = 2.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.strength) and np.isfinite(self.distance) and self.distance > 0 and self.strength >= 0):
            raise InputError(f"{self} must have strength >= 0 and distance > 0; give None to leave the map as it is.")


def diffuse_inward(scores: np.ndarray, enhancement: Enhancement) -> np.ndarray:
    """Raise quiet regions near contours, each tile frame by itself.

    `scores` is (tile frame, tile row, tile col), scaled to 0..1; the result, float32, is never lower and not scaled again (it can
    exceed 1). Despite the name both sides of a contour are raised wherever a region's rim lies near it, as in the official code.

    Contour: above mean + 0.3 unbiased deviations. Candidates: below the mean and not in the outermost ring; their 8-connected
    regions of at least 2 tiles with at least 30 % of their 4-neighbour rim within 2 tiles of a contour are raised by
    strength * mean(contour) * exp(-d / (distance / 2)) where the Euclidean distance d to the contour is at most `distance`.
    From the code of chen-yy20/Jano at 7befec0; the published text does not give these rules.
    """
    scores = np.asarray(scores, dtype=np.float32)
    return np.stack([_diffuse_layer(layer, enhancement) for layer in scores])


def _diffuse_layer(layer: np.ndarray, enhancement: Enhancement) -> np.ndarray:
    from scipy import ndimage  # 0.2 s, which whoever only shows a plan does not need

    if layer.size < 2:  # a single tile has no unbiased deviation
        return layer.copy()
    # in float64 first, so that rounding makes neither contour nor low of tiles that are as high as the mean
    mean, deviation = np.float32(layer.mean(dtype=np.float64)), np.float32(layer.std(dtype=np.float64, ddof=1))
    contour, low = layer > mean + CONTOUR_DEVIATIONS * deviation, layer < mean
    if not contour.any() or not low.any():
        return layer.copy()
    away = ndimage.distance_transform_edt(~contour).astype(np.float32)
    raised = _regions_near(_inside(low), away) & (away <= enhancement.distance)
    gain = enhancement.strength * layer[contour].mean(dtype=np.float64) * np.exp(-away / (enhancement.distance / 2))
    return np.where(raised, layer + gain, layer).astype(np.float32)


def _inside(low: np.ndarray) -> np.ndarray:
    inner = np.zeros_like(low)
    inner[1:-1, 1:-1] = low[1:-1, 1:-1]
    return inner


def _regions_near(candidates: np.ndarray, away: np.ndarray) -> np.ndarray:
    """The 8-connected regions of candidates whose rim lies near the contour."""
    from scipy import ndimage

    labels, count = ndimage.label(candidates, structure=SQUARE)
    near_regions = np.zeros_like(candidates)
    for label in range(1, count + 1):
        region = labels == label
        rim = ndimage.binary_dilation(region, structure=CROSS) & ~region
        near = np.mean(away[rim] <= RIM_REACH, dtype=np.float32)
        if region.sum() >= SMALLEST_REGION and near >= RIM_SHARE:
            near_regions |= region
    return near_regions
