"""MS-SSIM: structural similarity over five scales (Wang, Simoncelli, Bovik 2003)."""

import numpy as np

from ..errors import InputError
from .pixels import Image, as_frames, mean_over_frames

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2; fine to coarse
RADIUS, DEVIATION = 5, 1.5  # an 11x11 Gaussian window
K1, K2 = 0.01, 0.03
LEAST_SIDE = (2 * RADIUS + 1) * 2 ** (len(WEIGHTS) - 1)  # 176: the coarsest scale still holds one window


def ms_ssim(reference: Image, other: Image) -> float:
    """Multi-scale structural similarity of 8-bit RGB, 1 identical; the mean over channels, then over frames.

    Contrast and structure at every scale, luminance at the coarsest, each to its weight; 2x2 means between the scales; only
    windows that lie inside the image count. A negative mean contrast term counts as 0. Raises InputError where a side is under
    176 pixels: with fewer scales the figure would be another quantity under the same name.
    """
    rows, cols = as_frames(reference).shape[1:3]
    if min(rows, cols) < LEAST_SIDE:
        raise InputError(
            f"MS-SSIM needs {LEAST_SIDE} pixels on each side for its {len(WEIGHTS)} scales; {rows}x{cols} is smaller."
        )
    return mean_over_frames(_ms_ssim, reference, other)


def _ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    factors = []  # per scale, (channel,)
    for scale, weight in enumerate(WEIGHTS):
        luminance, contrast = similarity_maps(a, b)
        coarsest = scale == len(WEIGHTS) - 1
        mean = (luminance * contrast if coarsest else contrast).mean(axis=(0, 1))
        factors.append(np.maximum(mean, 0.0) ** weight)
        a, b = _halved(a), _halved(b)
    return float(np.prod(factors, axis=0).mean())


def similarity_maps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance term and contrast-structure term, (row, col, channel) without the border that windows overhang."""
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a = _blurred(a * a) - mean_a**2
    var_b = _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    c1, c2 = K1**2, K2**2  # the data range is 1
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    contrast = (2 * covariance + c2) / (var_a + var_b + c2)
    inside = np.s_[RADIUS:-RADIUS, RADIUS:-RADIUS]
    return luminance[inside], contrast[inside]


def _blurred(image: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(image, sigma=DEVIATION, radius=RADIUS, axes=(0, 1)))


def _halved(image: np.ndarray) -> np.ndarray:
    """2x2 means; an odd last row or column is dropped."""
    even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    return np.asarray((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4)
