"""Pictures: the decoded picture or clip beside a recording, as arrays."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..results.images import read_frames

ENDINGS = (".png", ".webp", ".gif", ".mp4")  # a .png may be animated


def find_picture(directory: Path, recording: Path | None, name: str) -> np.ndarray | None:
    """What the run decoded to, uint8 (frame, row, col, 3), from beside the recording or from the directory; None if not saved."""
    stem = Path(name or "run.h5").stem
    places = [recording.with_suffix(ending) for ending in ENDINGS] if recording else []
    places += [folder / (stem + ending) for folder in (directory, directory.resolve().parent) for ending in ENDINGS]
    found = next((place for place in places if place.is_file()), None)
    return None if found is None else read_picture(found)


def read_picture(path: Path) -> np.ndarray | None:
    """uint8 (frame, row, col, 3) of a picture or clip; None for a video that this installation cannot decode.

    Raises InputError where the file is no picture.
    """
    if path.suffix == ".mp4":
        return _read_video(path)
    return read_frames(path, "Record again, or move it away.")


def _read_video(path: Path) -> np.ndarray | None:
    """Needs a decoder that is an extra; its absence costs the picture under the maps, not the report."""
    try:
        import imageio.v3

        frames = np.asarray(imageio.v3.imread(path))
    except (ImportError, OSError, RuntimeError, ValueError):
        return None
    return frames[..., :3].astype(np.uint8)


def frame_of(picture: np.ndarray, token_frame: int, token_frames: int) -> np.ndarray:
    """The picture frame (row, col, 3) shown with a token frame: first with first, last with last, evenly between."""
    last = len(picture) - 1
    at = 0 if token_frames == 1 else round(token_frame * last / (token_frames - 1))
    return np.asarray(picture[at])


def resized(frame: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Area means of a uint8 picture (row, col, 3) at another size."""
    return np.asarray(Image.fromarray(frame).resize((cols, rows), Image.Resampling.BOX))


def fitted(frame: np.ndarray, longest: int) -> np.ndarray:
    """The picture, made smaller where its longer side exceeds `longest` pixels; small files, nothing enlarged."""
    rows, cols = frame.shape[:2]
    scale = longest / max(rows, cols)
    return frame if scale >= 1 else resized(frame, max(1, round(rows * scale)), max(1, round(cols * scale)))
