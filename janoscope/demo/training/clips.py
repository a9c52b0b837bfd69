"""Procedural training clips: one emoji gliding to the right at constant speed before a still background.

To the right only: Wan's token positions are relative and its text does not modulate them, so small models did not learn to tell
left from right in some 8,000 steps. What matters here is that something moves and the rest does not.

Artwork and backgrounds are those of `scenes`. Every prompt has the same number of words, so that a pipeline that trims its
text to the prompt's length (Latte, with one prompt) and one that does not see the same thing.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .scenes import OBJECTS, SKIES, background

# object word -> (glyph, the colour word that belongs to it); the colours are far apart, so that obedience can be measured
CLIP_OBJECTS = {
    "strawberry": OBJECTS["strawberry"],
    "cat": OBJECTS["cat"],
    "tree": OBJECTS["tree"],
    "grapes": ("\U0001f347", "purple"),
    "pig": ("\U0001f437", "pink"),
}
CLIP_SKIES = ("blue", "sunset", "night")
# place word -> ground of `scenes`: a plain background, or one with a textured lower part
PLACES = {"sky": "none", "meadow": "grass", "beach": "sand"}
CLIP_WORDS = (
    "a",
    "moving",
    ",",
    *(colour for _, colour in CLIP_OBJECTS.values()),
    *CLIP_OBJECTS,
    "right",
    *CLIP_SKIES,
    *PLACES,
)
OVERSAMPLING = 4  # objects are placed on a grid this many times finer than pixels


@dataclass(frozen=True)
class MovingScene:
    object: str
    sky: str
    place: str

    def prompt(self) -> str:
        """For example "a red strawberry moving right, blue sky"."""
        return f"a {CLIP_OBJECTS[self.object][1]} {self.object} moving right, {self.sky} {self.place}"


def random_moving_scene(rng: np.random.Generator) -> MovingScene:
    return MovingScene(
        object=str(rng.choice(list(CLIP_OBJECTS))),
        sky=str(rng.choice(CLIP_SKIES)),
        place=str(rng.choice(list(PLACES), p=[0.5, 0.25, 0.25])),
    )


def _place(glyph: np.ndarray, x: int, y: int) -> tuple[np.ndarray, int, int]:
    """The fine glyph at fine offset (x, y) averaged to pixels: (block, left, top)."""
    n = OVERSAMPLING
    height, width = glyph.shape[0] + y % n, glyph.shape[1] + x % n
    block = np.zeros((-(-height // n) * n, -(-width // n) * n, 4), np.float32)
    block[y % n : height, x % n : width] = glyph
    return block.reshape(block.shape[0] // n, n, block.shape[1] // n, n, 4).mean((1, 3)), x // n, y // n


def draw_clip(scene: MovingScene, glyphs: dict[str, Image.Image], rng: np.random.Generator, size: int, frames: int) -> np.ndarray:
    """One clip of the scene: (frames, size, size, 3) uint8."""
    still = background(SKIES[scene.sky], PLACES[scene.place], rng, size)
    picture = glyphs[scene.object]
    fine = OVERSAMPLING * size
    scale = rng.uniform(0.40, 0.46) * fine / max(picture.size)
    shape = round(picture.width * scale), round(picture.height * scale)
    glyph = np.asarray(picture.resize(shape, Image.Resampling.LANCZOS)).astype(np.float32)
    glyph[..., :3] *= glyph[..., 3:] / 255 * rng.uniform(0.92, 1.06)
    room_x, room_y = fine - shape[0] - OVERSAMPLING, fine - shape[1] - OVERSAMPLING
    travel = rng.uniform(0.8, 1) * room_x
    first, y = rng.uniform(0, room_x - travel), round(rng.uniform(0.2, 0.8) * room_y)
    clip = np.repeat(still[None], frames, axis=0)
    for index, share in enumerate(np.linspace(0, 1, frames)):
        block, left, top = _place(glyph, round(first + travel * share), y)
        under = clip[index, top : top + block.shape[0], left : left + block.shape[1]]
        under *= 1 - block[..., 3:] / 255
        under += block[..., :3]
    return np.clip(clip, 0, 255).astype(np.uint8)
