"""What the bundled models are trained on: three recipes for the one trainer.

A recipe builds its untrained pipeline, draws batches of procedural data and measures the network's error on them.
Flow models (image, video): x_t = (1 - t) x0 + t eps, target eps - x0; t in 0..1.
Latte: x_t = sqrt(abar) x0 + sqrt(1 - abar) eps, target eps; t the scheduler's timestep, 0..999.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image

from ..vae import ClipShuffleVAE, PixelShuffleVAE
from .clips import CLIP_OBJECTS, draw_clip, random_moving_scene
from .pipeline import (
    LATTE_FRAMES,
    LATTE_TEXT_TOKENS,
    TEXT_TOKENS,
    image_pipeline,
    latte_pipeline,
    latte_scheduler,
    video_pipeline,
)
from .scenes import draw, load_glyphs, random_scene

Pipeline = Any  # diffusers imports lazily, which hides its classes from type checkers
Glyphs = dict[str, Image.Image]

PROMPT_DROPOUT = 0.1
CLIP_PIXELS = 32
CLIP_TEXT_TOKENS = 9  # every clip prompt is eight words and an end
VIDEO_FRAMES = 15  # eight latent frames
ABAR_FLOOR = 0.005  # of Latte's loss weight


@dataclass(frozen=True)
class Size:
    """One shape of batch: pixels along a side, pictures or clips per process, text tokens the network is shown.

    noise_shift above 1 draws noisier times (flow models): with four times the pixels, what stands where is settled earlier.
    """

    pixels: int
    count: int
    text_tokens: int = TEXT_TOKENS
    noise_shift: float = 1.0


@dataclass(frozen=True)
class Stage:
    """A stretch of training with its own learning-rate cycle; its `sizes` take turns."""

    name: str
    steps: int
    peak: float
    sizes: tuple[Size, ...]


@dataclass(frozen=True)
class Batch:
    """Clean latents and noise of one shape, first axis the item; prompts, "" where dropped; time (item,)."""

    x0: torch.Tensor
    prompts: list[str]
    noise: torch.Tensor
    time: torch.Tensor
    text_tokens: int = TEXT_TOKENS


class Recipe(Protocol):
    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the pipeline's components that learn."""

    @property
    def stages(self) -> tuple[Stage, ...]: ...

    def build(self) -> Pipeline: ...

    def pictures(self, rng: np.random.Generator, size: Size) -> tuple[np.ndarray, list[str]]:
        """Pixels (item, [frame,] row, col, 3) uint8 and their prompts, some dropped."""

    def latents(self, pixels: np.ndarray) -> torch.Tensor: ...

    def sample_time(self, rng: np.random.Generator, count: int) -> torch.Tensor: ...

    def error(self, pipe: Pipeline, batch: Batch) -> torch.Tensor:
        """Mean squared error of the prediction, one number an item: (item,) float32."""

    def weight(self, time: torch.Tensor) -> torch.Tensor:
        """What the errors are multiplied with in training: (item,)."""


def draw_batch(recipe: Recipe, rng: np.random.Generator, size: Size) -> Batch:
    pixels, prompts = recipe.pictures(rng, size)
    x0 = recipe.latents(pixels)
    noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
    time = recipe.sample_time(rng, size.count)
    if size.noise_shift != 1:
        time = size.noise_shift * time / (1 + (size.noise_shift - 1) * time)
    return Batch(x0, prompts, noise, time, size.text_tokens)


def _flow_time(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Half logit-normal, half uniform: without the uniform share the velocity stays noisy in the last steps."""
    logit_normal = 1 / (1 + np.exp(-rng.standard_normal(count)))
    return torch.from_numpy(np.where(rng.random(count) < 0.5, logit_normal, rng.random(count)).astype(np.float32))


def _per_item(time: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return time.reshape(-1, *[1] * (like.ndim - 1))


def _noised(batch: Batch) -> torch.Tensor:
    t = _per_item(batch.time, batch.x0)
    return (1 - t) * batch.x0 + t * batch.noise


def _squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (prediction.float() - target).square().flatten(1).mean(1)


def _moving_clips(rng: np.random.Generator, size: Size, frames: int, glyphs: Glyphs) -> tuple[np.ndarray, list[str]]:
    scenes = [random_moving_scene(rng) for _ in range(size.count)]
    clips = np.stack([draw_clip(scene, glyphs, rng, size.pixels, frames) for scene in scenes])
    return clips, ["" if rng.random() < PROMPT_DROPOUT else scene.prompt() for scene in scenes]


def _to_network(pixels: np.ndarray) -> torch.Tensor:
    """Colour axis to the second place, 0..255 to -1..1."""
    return torch.from_numpy(pixels).movedim(-1, 1).float() / 127.5 - 1


class ImageRecipe:
    trained = ("transformer", "text_encoder", "text_encoder_2")
    stages = (
        Stage("256 tokens", 4400, 1.0, (Size(64, 8),)),
        Stage("1024 tokens", 560, 0.3, (Size(128, 3), Size(64, 6))),
        Stage("1024 tokens, noisier", 1100, 0.5, (Size(128, 4, noise_shift=3.0), Size(64, 6))),
    )

    def build(self) -> Pipeline:
        return image_pipeline()

    def sample_time(self, rng: np.random.Generator, count: int) -> torch.Tensor:
        return _flow_time(rng, count)

    @cached_property
    def glyphs(self) -> Glyphs:
        return load_glyphs()

    def pictures(self, rng: np.random.Generator, size: Size) -> tuple[np.ndarray, list[str]]:
        scenes = [random_scene(rng) for _ in range(size.count)]
        pictures = np.stack([draw(scene, self.glyphs, rng, size.pixels) for scene in scenes])
        return pictures, ["" if rng.random() < PROMPT_DROPOUT else scene.prompt(int(rng.integers(3))) for scene in scenes]

    def latents(self, pixels: np.ndarray) -> torch.Tensor:
        latents = PixelShuffleVAE().encode(_to_network(pixels)).latents
        return FluxPipeline._pack_latents(latents, *latents.shape)

    def error(self, pipe: Pipeline, batch: Batch) -> torch.Tensor:
        ids = pipe.tokenizer(
            batch.prompts, padding="max_length", max_length=batch.text_tokens, truncation=True, return_tensors="pt"
        ).input_ids
        side = round(batch.x0.shape[1] ** 0.5)
        prediction = pipe.transformer(
            hidden_states=_noised(batch),
            timestep=batch.time,
            encoder_hidden_states=pipe.text_encoder_2(ids)[0],
            pooled_projections=pipe.text_encoder(ids).pooler_output,
            txt_ids=torch.zeros(batch.text_tokens, 3),
            img_ids=pipe._prepare_latent_image_ids(len(ids), side, side, "cpu", torch.float32),
        ).sample
        return _squared_error(prediction, batch.noise - batch.x0)

    def weight(self, time: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(time)


class VideoRecipe:
    trained = ("transformer", "text_encoder")
    # What moves where is settled between t = 0.97 and 0.9, where an object's tokens together stand out of the noise and single
    # ones do not yet; two of three small batches are therefore very noisy.
    stages = (
        Stage(
            "512 tokens, noisier",
            5000,
            1.5,
            (Size(CLIP_PIXELS, 2, noise_shift=6), Size(CLIP_PIXELS, 2, noise_shift=6), Size(CLIP_PIXELS, 2, noise_shift=1.5)),
        ),
        Stage("512 tokens", 1000, 0.6, (Size(CLIP_PIXELS, 4, noise_shift=4), Size(CLIP_PIXELS, 4))),
        Stage("512 tokens, again", 1200, 1.0, (Size(CLIP_PIXELS, 2, noise_shift=6), Size(CLIP_PIXELS, 4))),
    )

    def build(self) -> Pipeline:
        return video_pipeline()

    def sample_time(self, rng: np.random.Generator, count: int) -> torch.Tensor:
        return _flow_time(rng, count)

    @cached_property
    def glyphs(self) -> Glyphs:
        return load_glyphs(CLIP_OBJECTS)

    def pictures(self, rng: np.random.Generator, size: Size) -> tuple[np.ndarray, list[str]]:
        return _moving_clips(rng, size, VIDEO_FRAMES, self.glyphs)

    def latents(self, pixels: np.ndarray) -> torch.Tensor:
        return ClipShuffleVAE().encode(_to_network(pixels)).latents

    def error(self, pipe: Pipeline, batch: Batch) -> torch.Tensor:
        words, _ = pipe.encode_prompt(batch.prompts, do_classifier_free_guidance=False, max_sequence_length=batch.text_tokens)
        prediction = pipe.transformer(
            hidden_states=_noised(batch), timestep=1000 * batch.time, encoder_hidden_states=words
        ).sample
        return _squared_error(prediction, batch.noise - batch.x0)

    def weight(self, time: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(time)


class LatteRecipe:
    trained = ("transformer", "text_encoder")
    # LattePipeline trims the text of a single prompt and pads that of several; an eighth of the steps shows the padding
    sizes = (*[Size(CLIP_PIXELS, 2, CLIP_TEXT_TOKENS)] * 7, Size(CLIP_PIXELS, 2, LATTE_TEXT_TOKENS))
    stages = (Stage("1024 tokens", 2400, 1.5, sizes), Stage("1024 tokens, again", 1500, 1.2, sizes))

    def build(self) -> Pipeline:
        return latte_pipeline()

    @cached_property
    def abar(self) -> torch.Tensor:
        return latte_scheduler().alphas_cumprod

    @cached_property
    def glyphs(self) -> Glyphs:
        return load_glyphs(CLIP_OBJECTS)

    def pictures(self, rng: np.random.Generator, size: Size) -> tuple[np.ndarray, list[str]]:
        return _moving_clips(rng, size, LATTE_FRAMES, self.glyphs)

    def latents(self, pixels: np.ndarray) -> torch.Tensor:
        frames = PixelShuffleVAE().encode(_to_network(pixels).transpose(1, 2).flatten(0, 1)).latents
        return frames.unflatten(0, pixels.shape[:2]).transpose(1, 2)

    def sample_time(self, rng: np.random.Generator, count: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, len(self.abar), count))

    def error(self, pipe: Pipeline, batch: Batch) -> torch.Tensor:
        # the pipeline's own unconditional text is that of the negative prompt, which it leaves unmasked
        words, empty = pipe.encode_prompt(batch.prompts, do_classifier_free_guidance=True, clean_caption=False)
        dropped = torch.tensor([prompt == "" for prompt in batch.prompts])
        words = torch.where(_per_item(dropped, words), empty, words)[:, : batch.text_tokens]
        abar = _per_item(self.abar[batch.time], batch.x0)
        prediction = pipe.transformer(
            hidden_states=abar.sqrt() * batch.x0 + (1 - abar).sqrt() * batch.noise,
            timestep=batch.time,
            encoder_hidden_states=words,
        ).sample
        return _squared_error(prediction.chunk(2, dim=1)[0], batch.noise)

    def weight(self, time: torch.Tensor) -> torch.Tensor:
        """About 1 / abar, which weighs the error of eps as that of v: unweighted, high noise, where colour and motion are
        decided, hardly counts."""
        return 0.1 / (self.abar[time] + ABAR_FLOOR)


RECIPES: dict[str, Callable[[], Recipe]] = {"image": ImageRecipe, "video": VideoRecipe, "latte": LatteRecipe}
