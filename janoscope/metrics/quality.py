"""All measures of one pair at once, for tables: what cannot be measured is None, with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import InputError
from .perceptual import Lpips
from .pixels import Image, psnr, ssim
from .scales import ms_ssim


@dataclass(frozen=True)
class Quality:
    """psnr in dB (inf: identical), ssim and ms_ssim (1: identical), lpips (0: identical). missing: why a measure is None."""

    psnr: float
    ssim: float
    ms_ssim: float | None
    lpips: float | None
    missing: Mapping[str, str] = field(default_factory=dict)


def quality(reference: Image, other: Image, lpips: Lpips | None = None) -> Quality:
    """Compare an image or video (8-bit RGB) with its reference. lpips: from `load_lpips`; None leaves LPIPS out."""
    first, second = psnr(reference, other), ssim(reference, other)  # refuse what no measure can take before any is excused
    missing: dict[str, str] = {}
    scales: float | None = None
    try:
        scales = ms_ssim(reference, other)
    except InputError as error:
        missing["ms_ssim"] = str(error)
    if lpips is None:
        missing["lpips"] = "left out; it needs the optional package lpips."
    return Quality(first, second, scales, None if lpips is None else lpips(reference, other), missing)
