"""Reader of images and animated images, bounded: a small file cannot claim more pixels than are wanted."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageSequence

from ..decode import reason
from ..errors import InputError
from .writing import made_whole, write_png

PER_ROW = 4
LEAST_WIDTH, FONT_PX, MARGIN = 224, 11, 4  # pixels; small videos are enlarged by a whole factor so that names fit
PAPER, INK = (255, 255, 255), (27, 34, 48)


ENDINGS = (".png", ".webp", ".gif", ".mp4")  # a .png may be animated


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


def find_image(directory: Path, recording: Path | None, name: str) -> np.ndarray | None:
    """What the run decoded to, uint8 (frame, row, col, 3), from beside the recording or from the directory; None if not saved."""
    stem = Path(name or "run.h5").stem
    places = [recording.with_suffix(ending) for ending in ENDINGS] if recording else []
    places += [folder / (stem + ending) for folder in (directory, directory.resolve().parent) for ending in ENDINGS]
    path = next((place for place in places if place.is_file()), None)
    return None if path is None else read_image(path)


def read_image(path: Path) -> np.ndarray | None:
    """uint8 (frame, row, col, 3) of an image or video; None for a video that this installation cannot decode.

    Raises InputError where the file is no image.
    """
    if path.suffix == ".mp4":
        return _read_video(path)
    return read_frames(path, "Record again, or move it away.")


def _read_video(path: Path) -> np.ndarray | None:
    """Needs a decoder that is an extra; its absence costs the image beside the maps, not the report."""
    try:
        import imageio.v3

        frames = np.asarray(imageio.v3.imread(path))
    except (ImportError, OSError, RuntimeError, ValueError):
        return None
    return frames[..., :3].astype(np.uint8)


def save_frames(frames: np.ndarray, path: Path) -> Path:
    """An image as PNG; a video as animated PNG when the path ends in .png, else as mp4 (needs the `video` extra)."""
    if path.suffix.lower() == ".mp4":
        _save_mp4(frames, path)
        return path
    return write_png(path, frames)


def _save_mp4(frames: np.ndarray, path: Path) -> None:
    refuse_format(path)
    import imageio.v3 as imageio

    # the codec takes even sizes; padded, since the writer would resample all frames to multiples of 16
    rows, cols = (size % 2 for size in frames.shape[1:3])
    even = np.pad(frames, ((0, 0), (0, rows), (0, cols), (0, 0)), mode="edge")
    with made_whole(path) as making:
        imageio.imwrite(making, even, fps=8, plugin="FFMPEG", macro_block_size=2)


def output_name(path: Path, frames: np.ndarray) -> Path:
    """The decoded output beside `path`: .png for an image, .mp4 for a video, or .png (animated) without the video extra."""
    return path.with_suffix(".mp4" if len(frames) > 1 and _can_write_mp4() else ".png")


def refuse_format(path: Path) -> None:
    """Raise InputError for a name that `save_frames` could not write."""
    ending = path.suffix.lower()
    if ending not in (".png", ".mp4"):
        raise InputError(f"{path} ends in {ending or 'nothing'}; give a name that ends in .png or .mp4.")
    if ending == ".mp4" and not _can_write_mp4():
        raise InputError(f"{path} needs the video extra (pip install 'janoscope[video]'); or give a name that ends in .png.")


def _can_write_mp4() -> bool:
    return find_spec("imageio_ffmpeg") is not None


def mosaic(videos: Mapping[str, np.ndarray]) -> np.ndarray:
    """name -> (frame, row, col, 3) uint8, all of one shape, becomes one video; rows of four, sides even as encoders want them."""
    cells = [_titled(name, video) for name, video in videos.items()]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % min(PER_ROW, len(cells)))
    per_row = min(PER_ROW, len(cells))
    bands = [np.concatenate(cells[at : at + per_row], axis=2) for at in range(0, len(cells), per_row)]
    whole = np.concatenate(bands, axis=1)
    odd = [(0, 0), (0, whole.shape[1] % 2), (0, whole.shape[2] % 2), (0, 0)]
    return np.pad(whole, odd, constant_values=255)


def _titled(name: str, video: np.ndarray) -> np.ndarray:
    """The video, enlarged where it is small, with a white edge and its name above, in lines."""
    factor = max(1, -(-LEAST_WIDTH // video.shape[2]))
    video = video.repeat(factor, axis=1).repeat(factor, axis=2)
    width = video.shape[2]
    title = Image.new("RGB", (width + 2 * MARGIN, 3 * (FONT_PX + 2) + MARGIN), PAPER)
    font = ImageFont.load_default(FONT_PX)
    ImageDraw.Draw(title).multiline_text((MARGIN, 2), "\n".join(_lines(name, font, width)[:3]), INK, font, spacing=1)
    edged = np.pad(video, [(0, 0), (0, MARGIN), (MARGIN, MARGIN), (0, 0)], constant_values=255)
    return np.concatenate([np.asarray(title)[None].repeat(len(video), axis=0), edged], axis=1)


def _lines(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The name broken after commas and colons where it is too long for the width."""
    lines = [""]
    for part in name.replace(",", ",\0").replace(":", ":\0").split("\0"):
        if lines[-1] and font.getlength(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines
