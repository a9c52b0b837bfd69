"""Images: the decoded image or video beside a recording, as arrays."""

import numpy as np
from PIL import Image


def frame_of(image: np.ndarray, token_frame: int, token_frames: int) -> np.ndarray:
    """The frame (row, col, 3) shown with a token frame: first with first, last with last, evenly between."""
    last = len(image) - 1
    at = 0 if token_frames == 1 else round(token_frame * last / (token_frames - 1))
    return np.asarray(image[at])


def resized(frame: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Area means of a uint8 image (row, col, 3) at another size."""
    return np.asarray(Image.fromarray(frame).resize((cols, rows), Image.Resampling.BOX))


def fitted(frame: np.ndarray, longest: int) -> np.ndarray:
    """The image, made smaller where its longer side exceeds `longest` pixels; small files, nothing enlarged."""
    rows, cols = frame.shape[:2]
    scale = longest / max(rows, cols)
    return frame if scale >= 1 else resized(frame, max(1, round(rows * scale)), max(1, round(cols * scale)))
