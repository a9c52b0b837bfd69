"""Procedural training pictures: one emoji over a smooth sky and, perhaps, a textured ground.

The artwork is Noto Color Emoji (Apache-2.0), drawn from the installed font (Debian: `fonts-noto-color-emoji`).
Skies converge early and objects late, which is what a diffusion oscilloscope needs to look at.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = "NotoColorEmoji.ttf"
FONT_SIZE = 109  # the only bitmap size in the font

Colour = tuple[int, int, int]

# object word -> (glyph, the colour word that belongs to it)
OBJECTS = {
    "apple": ("\U0001f34e", "red"),
    "strawberry": ("\U0001f353", "red"),
    "ladybug": ("\U0001f41e", "red"),
    "car": ("\U0001f697", "red"),
    "tangerine": ("\U0001f34a", "orange"),
    "pineapple": ("\U0001f34d", "yellow"),
    "cat": ("\U0001f431", "yellow"),
    "fish": ("\U0001f420", "yellow"),
    "tree": ("\U0001f333", "green"),
    "eggplant": ("\U0001f346", "purple"),
}
# sky word -> (top, bottom) in RGB 0..255
SKIES: dict[str, tuple[Colour, Colour]] = {
    "blue": ((90, 150, 235), (190, 220, 250)),
    "sunset": ((120, 70, 150), (250, 170, 110)),
    "night": ((10, 12, 45), (40, 50, 110)),
    "gray": ((130, 135, 145), (205, 205, 210)),
    "mint": ((110, 200, 180), (215, 245, 225)),
}
GROUNDS = ("none", "grass", "sand")
SIZES = ("small", "large")
FILLER = ("a", "on", "under", "sky", ",")
WORDS = (*FILLER, *SIZES, *dict.fromkeys(colour for _, colour in OBJECTS.values()), *OBJECTS, *GROUNDS[1:], *SKIES)


@dataclass(frozen=True)
class Scene:
    object: str
    size: str
    sky: str
    ground: str

    def prompt(self, style: int = 0) -> str:
        """The scene in words; `style` 0..2 picks one of the phrasings the model has seen."""
        colour = OBJECTS[self.object][1]
        thing = f"a {self.size} {self.object}" if style == 2 else f"a {self.size} {colour} {self.object}"
        ground = "" if self.ground == "none" else f" on {self.ground}"
        return f"{thing}{ground} under a {self.sky} sky" if style == 1 else f"{thing}{ground}, {self.sky} sky"


def random_scene(rng: np.random.Generator) -> Scene:
    return Scene(
        object=str(rng.choice(list(OBJECTS))),
        size=str(rng.choice(SIZES)),
        sky=str(rng.choice(list(SKIES))),
        ground=str(rng.choice(GROUNDS, p=[0.4, 0.35, 0.25])),
    )


def load_glyphs(objects: dict[str, tuple[str, str]] = OBJECTS) -> dict[str, Image.Image]:
    """RGBA picture of every object, cropped to its ink."""
    try:
        font = ImageFont.truetype(FONT, FONT_SIZE)
    except OSError as error:
        raise SystemExit(f"{FONT} is not installed; training draws with it. Install Debian's fonts-noto-color-emoji.") from error
    glyphs = {}
    for name, (glyph, _) in objects.items():
        canvas = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
        ImageDraw.Draw(canvas).text((0, 0), glyph, font=font, embedded_color=True)
        glyphs[name] = canvas.crop(canvas.getbbox())
    return glyphs


def _smooth_noise(rng: np.random.Generator, size: int, knots: int) -> np.ndarray:
    coarse = rng.standard_normal((knots, knots)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def _ground_texture(kind: str, rng: np.random.Generator, size: int) -> np.ndarray:
    noise: np.ndarray = rng.standard_normal((size, size)).astype(np.float32)
    if kind == "grass":  # blades: noise smeared downwards
        noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 2, 0)) / 1.7
        base, contrast = (70, 135, 45), (22, 30, 14)
    else:
        noise = 0.75 * noise + 0.5 * _smooth_noise(rng, size, 16)
        base, contrast = (205, 170, 110), (18, 17, 14)
    return np.asarray(base, np.float32) + noise[..., None] * np.asarray(contrast, np.float32)


def background(sky: tuple[Colour, Colour], ground: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """A sky between its two colours and, below a wavy horizon, the ground: (size, size, 3) float32 in 0..255."""
    top, bottom = (np.asarray(colour, np.float32) + rng.normal(0, 6, 3) for colour in sky)
    height = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    picture: np.ndarray = np.asarray(top * (1 - height) + bottom * height, np.float32) * np.ones((1, size, 1), np.float32)
    if rng.random() < 0.35:
        picture += 9 * _smooth_noise(rng, size, 4)[..., None]  # faint clouds
    if ground != "none":
        horizon = int(size * rng.uniform(0.62, 0.8))
        rough = horizon + 1.5 * _smooth_noise(rng, size, 5)[:1]
        cover = np.clip(np.arange(size)[:, None] - rough, 0, 1)[..., None]
        picture = picture * (1 - cover) + _ground_texture(ground, rng, size) * cover
    return picture


def draw(scene: Scene, glyphs: dict[str, Image.Image], rng: np.random.Generator, size: int) -> np.ndarray:
    """One picture of the scene: (size, size, 3) uint8."""
    picture = background(SKIES[scene.sky], scene.ground, rng, size)
    share = rng.uniform(0.34, 0.42) if scene.size == "small" else rng.uniform(0.5, 0.6)
    glyph = glyphs[scene.object]
    scale = share * size / max(glyph.size)
    width, height = max(4, round(glyph.width * scale)), max(4, round(glyph.height * scale))
    glyph = glyph.resize((width, height), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    rgba = np.asarray(glyph).astype(np.float32)
    opacity, rgb = rgba[..., 3:] / 255, rgba[..., :3] * rng.uniform(0.9, 1.08)
    left, top = rng.integers(1, size - width), rng.integers(1, size - height)
    under = picture[top : top + height, left : left + width]
    picture[top : top + height, left : left + width] = under * (1 - opacity) + rgb * opacity
    return np.clip(picture, 0, 255).astype(np.uint8)
