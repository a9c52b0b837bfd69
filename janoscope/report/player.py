"""The player of a video: its frames as small images, the levels of each over them, stepped by a few lines of script.

Without script, and in print, the first frame stands there with its levels.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from ..plan import TokenLevel
from .analysis.view import AnalysisView
from .drawing.images import fitted
from .drawing.style import LEVEL_COLOUR

MOST_FRAMES = 48
LONGEST = 320  # pixels
MOST_BYTES = 1_500_000  # of all frames as they stand in the page
QUALITIES = (82, 60, 40)  # of the compression, tried in turn
FRAMES_A_SECOND = 8


@dataclass(frozen=True)
class Player:
    """frames: image of each as a data address. overlays: of each token frame. shown: (video frame, token frame) of each image."""

    frames: Sequence[str]
    overlays: Sequence[str]
    shown: Sequence[tuple[int, int]]
    width: int
    height: int
    video_frames: int
    rate: int = FRAMES_A_SECOND


def video_player(view: AnalysisView) -> Player | None:
    """None for an image, and where no video is available. Long videos are thinned evenly; the first and last frame stay."""
    if view.image is None or len(view.image) < 2:
        return None
    count = len(view.image)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int))
    video = [fitted(view.image[at], LONGEST) for at in chosen]
    height, width = video[0].shape[:2]
    last = view.grid.tokens[0] - 1
    shown = [(int(at), round(int(at) * last / (count - 1))) for at in chosen]
    frames, embedded = encode(video)
    overlays = [_png(level_colours(ranks)) for ranks in view.levels]
    return Player(frames, overlays, [shown[at] for at in embedded], width, height, count)


def encode(video: Sequence[np.ndarray]) -> tuple[list[str], list[int]]:
    """Data addresses of uint8 frames (row, col, 3), within MOST_BYTES, and which frames they are.

    Compressed more where the first try is too large, and thinned to every n-th frame where that is not enough.
    """
    for quality in QUALITIES:
        frames = [_webp(frame, quality) for frame in video]
        size = sum(map(len, frames))
        if size <= MOST_BYTES:
            return frames, list(range(len(frames)))
    stride = -(-size // MOST_BYTES)
    return frames[::stride], list(range(0, len(frames), stride))


def level_colours(ranks: np.ndarray) -> np.ndarray:
    """uint8 (row, col, 3) of the levels of one token frame."""
    palette = np.array([to_rgb(LEVEL_COLOUR[level]) for level in TokenLevel])
    return np.asarray((255 * palette[ranks - 1]).round().astype(np.uint8))


def _webp(frame: np.ndarray, quality: int) -> str:
    return _address(frame, "webp", quality=quality, method=4)


def _png(frame: np.ndarray) -> str:
    return _address(frame, "png", optimize=True)


def _address(frame: np.ndarray, kind: str, **options: int | bool) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format=kind.upper(), **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
