"""PSNR and SSIM of 8-bit RGB images and videos, with the official evaluation's settings."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError

Image = ArrayLike  # PIL's images are among them

SSIM_WINDOW = 7  # scikit-image's default: a uniform window


def as_frames(image: Image) -> np.ndarray:
    """An image (row, col, 3), or a video (frame, row, col, 3), of uint8 RGB -> float64 (frame, row, col, 3) in 0..1.

    Takes arrays and PIL images. Raises InputError for another dtype or shape, since scaling a guess would change every figure.
    """
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3 or array.size == 0:
        raise InputError(
            f"an image of dtype {array.dtype} and shape {array.shape} cannot be measured; give 8-bit RGB, (row, col, 3) or "
            "(frame, row, col, 3)."
        )
    return np.asarray(array.reshape(-1, *array.shape[-3:]) / 255.0)


def pairs(reference: Image, other: Image) -> tuple[np.ndarray, np.ndarray]:
    """Both as frames; raises InputError naming both sizes where they differ. Nothing is resized and no video is cut short."""
    first, second = as_frames(reference), as_frames(other)
    if first.shape != second.shape:
        raise InputError(
            f"the reference has (frame, row, col) {first.shape[:3]}, the other {second.shape[:3]}; make both the same size."
        )
    return first, second


def mean_over_frames(measure: Callable[[np.ndarray, np.ndarray], float], reference: Image, other: Image) -> float:
    """Arithmetic mean of an image measure over the frames, as the official evaluation takes it, of decibels too."""
    return float(np.mean([measure(a, b) for a, b in zip(*pairs(reference, other), strict=True)]))


def psnr(reference: Image, other: Image) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels jointly, peak 1; `inf` where a frame is identical.

    Args:
        reference, other: 8-bit RGB, (row, col, 3) or (frame, row, col, 3); the mean over frames.

    Raises:
        InputError: another dtype or shape, or sizes that differ.

    >>> round(psnr(np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 51, np.uint8)), 4)  # 20 % of the peak
    13.9794
    """
    return mean_over_frames(_psnr, reference, other)


def ssim(reference: Image, other: Image) -> float:
    """Structural similarity, -1..1, 1 identical (Wang et al. 2004), with scikit-image's defaults.

    A 7x7 uniform window, per channel then mean, sample covariance, K1 .01, K2 .03. Arguments and errors as of `psnr`; a side of
    fewer than 7 pixels is refused.
    """
    return mean_over_frames(_ssim, reference, other)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a - b) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    from skimage.metrics import structural_similarity  # slow to import, so only where it is used

    if min(a.shape[:2]) < SSIM_WINDOW:
        raise InputError(
            f"SSIM looks through windows of {SSIM_WINDOW}x{SSIM_WINDOW} pixels; {a.shape[0]}x{a.shape[1]} is smaller."
        )
    return float(structural_similarity(a, b, win_size=SSIM_WINDOW, data_range=1.0, channel_axis=2))
