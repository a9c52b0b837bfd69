"""Metrics: how near an image or video is to its reference. 8-bit RGB arrays in, numbers out; knows no models, plans or files.

The reference comes first everywhere. Settings are those of the official evaluation, so that figures can be laid beside published
ones.
"""

from .perceptual import Lpips, load_lpips
from .pixels import as_frames, psnr, ssim
from .quality import Quality, quality
from .scales import ms_ssim

__all__ = ["Lpips", "Quality", "as_frames", "load_lpips", "ms_ssim", "psnr", "quality", "ssim"]
