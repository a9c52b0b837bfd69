"""Clips side by side in one, each under its name."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PER_ROW = 4
LEAST_WIDTH, FONT_PX, MARGIN = 224, 11, 4  # pixels; small clips are enlarged by a whole factor so that names fit
PAPER, INK = (255, 255, 255), (27, 34, 48)


def mosaic(clips: Mapping[str, np.ndarray]) -> np.ndarray:
    """name -> (frame, row, col, 3) uint8, all of one shape, becomes one clip; rows of four, sides even as encoders want them."""
    cells = [_titled(name, clip) for name, clip in clips.items()]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % min(PER_ROW, len(cells)))
    per_row = min(PER_ROW, len(cells))
    bands = [np.concatenate(cells[at : at + per_row], axis=2) for at in range(0, len(cells), per_row)]
    whole = np.concatenate(bands, axis=1)
    odd = [(0, 0), (0, whole.shape[1] % 2), (0, whole.shape[2] % 2), (0, 0)]
    return np.pad(whole, odd, constant_values=255)


def _titled(name: str, clip: np.ndarray) -> np.ndarray:
    """The clip, enlarged where it is small, with a white edge and its name above, in lines."""
    factor = max(1, -(-LEAST_WIDTH // clip.shape[2]))
    clip = clip.repeat(factor, axis=1).repeat(factor, axis=2)
    width = clip.shape[2]
    title = Image.new("RGB", (width + 2 * MARGIN, 3 * (FONT_PX + 2) + MARGIN), PAPER)
    font = ImageFont.load_default(FONT_PX)
    ImageDraw.Draw(title).multiline_text((MARGIN, 2), "\n".join(_lines(name, font, width)[:3]), INK, font, spacing=1)
    edged = np.pad(clip, [(0, 0), (0, MARGIN), (MARGIN, MARGIN), (0, 0)], constant_values=255)
    return np.concatenate([np.asarray(title)[None].repeat(len(clip), axis=0), edged], axis=1)


def _lines(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The name broken after commas and colons where it is too long for the width."""
    lines = [""]
    for part in name.replace(",", ",\0").replace(":", ":\0").split("\0"):
        if lines[-1] and font.getlength(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines
