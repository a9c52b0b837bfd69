"""demo:latte does what it is asked: the object has the named colour, and the epsilon loss is the one its README states.

Bar: 6 of 8 prompts; nearest of five colours, so chance is 1.6. Weights drawn at random must miss it.
"""

import json

import numpy as np
import pytest
import torch
from clip_measures import object_colour
from diffusers import DDIMScheduler, LattePipeline

import janoscope  # noqa: F401 - diffusers looks for the VAE's class on it
from janoscope.demo.training.export import MODELS, default_call
from janoscope.demo.training.held_out import held_out_loss
from janoscope.demo.training.pipeline import latte_pipeline
from janoscope.demo.training.recipes import RECIPES

DIRECTORY = MODELS / "latte"
PROMPTS = {
    "a red strawberry moving right, blue sky": "red",
    "a yellow cat moving right, night sky": "yellow",
    "a green tree moving right, night sky": "green",
    "a purple grapes moving right, blue sky": "purple",
    "a pink pig moving right, night sky": "pink",
    "a red strawberry moving right, night meadow": "red",
    "a green tree moving right, blue sky": "green",
    "a yellow cat moving right, blue beach": "yellow",
}
BAR = 6


def clips_of(pipe: LattePipeline, steps: int) -> list[np.ndarray]:
    """Prompts one by one, seeds 0..7."""
    pipe.set_progress_bar_config(disable=True)
    call = {**default_call("latte"), "num_inference_steps": steps, "output_type": "np"}
    return [
        np.asarray(pipe(prompt=prompt, generator=torch.Generator().manual_seed(seed), **call).frames[0])
        for seed, prompt in enumerate(PROMPTS)
    ]


def count_obeyed(clips: list[np.ndarray]) -> int:
    return sum(object_colour(clip) == colour for clip, colour in zip(clips, PROMPTS.values(), strict=True))


@pytest.fixture(scope="module")
def pipe() -> LattePipeline:
    return LattePipeline.from_pretrained(DIRECTORY)


def test_the_model_predicts_epsilon_for_ddim_with_linear_betas(pipe):
    assert type(pipe.scheduler) is DDIMScheduler
    assert (pipe.scheduler.config.prediction_type, pipe.scheduler.config.beta_schedule) == ("epsilon", "linear")


def test_clips_show_the_named_colour(pipe):
    clips = clips_of(pipe, steps=20)
    assert {clip.shape for clip in clips} == {(16, 32, 32, 3)}
    assert count_obeyed(clips) >= BAR


def test_random_weights_miss_the_bar():
    torch.manual_seed(0)
    pipe = latte_pipeline()
    torch.nn.init.normal_(pipe.transformer.proj_out.weight, std=0.05)  # training starts it at zero
    assert count_obeyed(clips_of(pipe, steps=4)) < BAR


def test_the_stated_held_out_loss_is_that_of_the_weights(pipe):
    stated = json.loads((DIRECTORY / "held_out.json").read_text())["loss"]
    assert f"{stated:.6f}" in (DIRECTORY / "README.md").read_text()
    assert held_out_loss(RECIPES["latte"](), pipe, DIRECTORY / "held_out.npz") == pytest.approx(stated, rel=0.05)


def test_random_weights_miss_the_stated_held_out_loss():
    torch.manual_seed(0)
    stated = json.loads((DIRECTORY / "held_out.json").read_text())["loss"]
    assert held_out_loss(RECIPES["latte"](), latte_pipeline(), DIRECTORY / "held_out.npz") > 3 * stated
