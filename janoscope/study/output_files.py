"""Names of what a command will write: which it may take, and which ending a decoded output gets."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError


def refuse_existing(path: Path, force: bool) -> None:
    """Raise before any work is done, not after it."""
    if path.exists() and not force:
        raise InputError(f"{path} exists already; choose another name with -o, or pass --force to replace it.")


def output_name(path: Path, frames: np.ndarray) -> Path:
    """The decoded output beside `path`: .png for a picture, .mp4 for a clip, or .png (animated) without the video extra."""
    return path.with_suffix(".mp4" if len(frames) > 1 and _mp4_writer() is not None else ".png")


def refuse_format(path: Path) -> None:
    """Raise InputError for a name that `save_frames` could not write."""
    ending = path.suffix.lower()
    if ending not in (".png", ".mp4"):
        raise InputError(f"{path} ends in {ending or 'nothing'}; give a name that ends in .png or .mp4.")
    if ending == ".mp4" and _mp4_writer() is None:
        raise InputError(f"{path} needs the video extra (pip install 'janoscope[video]'); or give a name that ends in .png.")


def _mp4_writer() -> Any:
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    return imageio_ffmpeg
