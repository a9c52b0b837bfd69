"""The loss on data that no training step has drawn: a few fixed pictures or clips, stored so that no font is needed."""

from pathlib import Path

import numpy as np
import torch

from .recipes import Batch, Pipeline, Recipe

SEED = 20261123  # training draws from [seed, rank, step]; this stream is another one
REPEATS = 4  # noises and times an item is seen with


def draw_held_out(recipe: Recipe, path: Path, count: int = 12) -> None:
    """Draw `count` items and store pixels (uint8) and prompts."""
    size = recipe.stages[0].sizes[0]
    rng = np.random.default_rng(SEED)
    pixels, prompts = zip(*[recipe.pictures(rng, type(size)(size.pixels, 1)) for _ in range(count)], strict=True)
    np.savez_compressed(path, pixels=np.concatenate(pixels), prompts=np.array([prompt for (prompt,) in prompts]))


@torch.no_grad()
def held_out_loss(recipe: Recipe, pipe: Pipeline, path: Path) -> float:
    """Mean squared error over the stored items, each with REPEATS seeded noises and times, in the pipeline's precision."""
    with np.load(path) as stored:
        pixels, prompts = stored["pixels"], stored["prompts"].tolist()
    text_tokens = recipe.stages[0].sizes[0].text_tokens
    x0 = recipe.latents(pixels)
    errors = []
    for repeat in range(REPEATS):
        rng = np.random.default_rng([SEED, repeat])
        noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
        batch = Batch(x0, prompts, noise, recipe.sample_time(rng, len(prompts)), text_tokens)
        errors.append(recipe.error(pipe, batch))
    return torch.cat(errors).mean().item()
