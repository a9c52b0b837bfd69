"""demo:video does what it is asked: the object glides in the named direction before a background that stays.

Bar: 6 of 8 prompts for each claim. Weights drawn at random and the opposite direction must miss it.
"""

import json

import numpy as np
import pytest
import torch
from clip_measures import background_flicker, moves
from diffusers import WanPipeline

import janoscope  # noqa: F401 - diffusers looks for the VAE's class on it
from janoscope.demo.training.export import MODELS, default_call
from janoscope.demo.training.held_out import held_out_loss
from janoscope.demo.training.pipeline import video_pipeline
from janoscope.demo.training.recipes import RECIPES

DIRECTORY = MODELS / "video"
PROMPTS = (
    "a red strawberry moving right, blue sky",
    "a yellow cat moving right, night sky",
    "a green tree moving right, night sky",
    "a purple grapes moving right, blue sky",
    "a pink pig moving right, night meadow",
    "a red strawberry moving right, night beach",
    "a purple grapes moving right, blue beach",
    "a yellow cat moving right, sunset sky",
)
BAR = 6
FLICKER = 0.03  # of 0..1; drawn clips stay below 0.016, noise is above 0.2


def clips_of(pipe: WanPipeline, steps: int) -> np.ndarray:
    """Seeds 0..7, all prompts at once."""
    pipe.set_progress_bar_config(disable=True)
    call = {**default_call("video"), "num_inference_steps": steps, "output_type": "np"}
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    return pipe(prompt=list(PROMPTS), generator=generators, **call).frames


@pytest.fixture(scope="module")
def pipe() -> WanPipeline:
    return WanPipeline.from_pretrained(DIRECTORY)


@pytest.fixture(scope="module")
def clips(pipe: WanPipeline) -> np.ndarray:
    return clips_of(pipe, steps=25)


@pytest.fixture(scope="module")
def random_clips() -> np.ndarray:
    torch.manual_seed(0)
    pipe = video_pipeline()
    torch.nn.init.normal_(pipe.transformer.proj_out.weight, std=0.05)  # training starts it at zero
    return clips_of(pipe, steps=6)


def count_moving(clips: np.ndarray, direction: str = "right") -> int:
    return sum(moves(clip, direction) for clip in clips)


def count_still(clips: np.ndarray) -> int:
    return sum(background_flicker(clip) < FLICKER for clip in clips)


def test_clips_have_the_size_of_the_default_call(clips):
    assert clips.shape == (8, 15, 32, 32, 3)


def test_objects_move_in_the_named_direction(clips):
    assert count_moving(clips) >= BAR


def test_the_background_stays(clips):
    assert count_still(clips) >= BAR


def test_the_opposite_direction_misses_the_bar(clips):
    assert count_moving(clips, "left") < BAR
    assert count_moving(clips[:, ::-1]) < BAR


def test_random_weights_miss_both_bars(random_clips):
    assert count_moving(random_clips) < BAR
    assert count_still(random_clips) < BAR


def test_the_stated_held_out_loss_is_that_of_the_weights(pipe):
    stated = json.loads((DIRECTORY / "held_out.json").read_text())["loss"]
    assert f"{stated:.6f}" in (DIRECTORY / "README.md").read_text()
    assert held_out_loss(RECIPES["video"](), pipe, DIRECTORY / "held_out.npz") == pytest.approx(stated, rel=0.05)


def test_random_weights_miss_the_stated_held_out_loss():
    torch.manual_seed(0)
    stated = json.loads((DIRECTORY / "held_out.json").read_text())["loss"]
    assert held_out_loss(RECIPES["video"](), video_pipeline(), DIRECTORY / "held_out.npz") > 3 * stated
