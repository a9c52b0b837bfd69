"""The measures that judge the trained models are themselves judged on drawn clips, and refuse wrong ones."""

import numpy as np
import pytest
from clip_measures import COLOURS, DIRECTIONS, background_flicker, motion, moves, object_colour
from PIL import Image

from janoscope.demo.training.clips import CLIP_OBJECTS, PLACES, MovingScene, draw_clip


def square_clip(colour: str, place: str = "sky") -> np.ndarray:
    glyphs = dict.fromkeys(CLIP_OBJECTS, Image.new("RGBA", (60, 60), (*COLOURS[colour], 255)))
    return draw_clip(MovingScene("cat", "night", place), glyphs, np.random.default_rng(2), 32, 16) / 255


@pytest.mark.parametrize("place", PLACES)
def test_motion_is_seen_in_its_direction_only(place):
    clip = square_clip("red", place)
    assert [word for word in DIRECTIONS if moves(clip, word)] == ["right"]
    assert [word for word in DIRECTIONS if moves(clip[::-1], word)] == ["left"]


def test_a_still_object_does_not_move():
    clip = np.repeat(square_clip("red")[:1], 16, axis=0)
    assert np.abs(motion(clip)).max() == 0
    assert not any(moves(clip, word) for word in DIRECTIONS)


@pytest.mark.parametrize("colour", COLOURS)
def test_the_colour_of_a_square_is_named(colour):
    assert object_colour(square_clip(colour)) == colour


def test_flicker_sees_a_background_that_changes_and_not_an_object_that_moves():
    clip = square_clip("red")
    shimmering = np.clip(clip + np.random.default_rng(0).normal(0, 0.05, clip.shape), 0, 1)
    assert background_flicker(clip) < 0.002
    assert background_flicker(shimmering) > 0.03


def test_noise_has_no_colour_and_no_direction():
    noise = np.clip(np.random.default_rng(0).normal(0.5, 0.5, (16, 32, 32, 3)), 0, 1)
    assert not any(moves(noise, word) for word in DIRECTIONS)
    assert background_flicker(noise) > 0.2
