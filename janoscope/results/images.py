"""Reader of images and animated images, bounded: a small file cannot claim more pixels than are wanted."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from ..decode import reason
from ..errors import InputError

MOST_PIXELS = 2**29  # of all frames together, 1.5 GiB: 81 frames at 720p are a seventh of it


def read_frames(path: Path, advice: str) -> np.ndarray:
    """uint8 (frame, row, col, 3) of an image file; InputError where it is none or claims more than `MOST_PIXELS`."""
    try:
        with Image.open(path) as opened:
            pixels = opened.width * opened.height * int(getattr(opened, "n_frames", 1))
            if pixels > MOST_PIXELS:
                raise ValueError(f"it claims {pixels} pixels, more than {MOST_PIXELS}")
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(opened)])
    except Exception as error:  # whatever Pillow raises on bytes that are no image, bombs included
        raise InputError(f"{path} cannot be read as an image: {reason(error)}. {advice}") from error
