"""The words of the training data and the tokenizers agree, and clips do what their prompts say."""

from itertools import product

import numpy as np
import pytest
from PIL import Image

from janoscope.demo.training.clips import (
    CLIP_OBJECTS,
    CLIP_SKIES,
    CLIP_WORDS,
    PLACES,
    MovingScene,
    draw_clip,
    random_moving_scene,
)
from janoscope.demo.training.pipeline import TEXT_TOKENS, word_tokenizer
from janoscope.demo.training.recipes import CLIP_TEXT_TOKENS
from janoscope.demo.training.scenes import GROUNDS, OBJECTS, SIZES, SKIES, Scene

IMAGE_PROMPTS = [Scene(*parts).prompt(style) for *parts, style in product(OBJECTS, SIZES, SKIES, GROUNDS, range(3))]
CLIP_PROMPTS = [MovingScene(*parts).prompt() for parts in product(CLIP_OBJECTS, CLIP_SKIES, PLACES)]


def square(colour: tuple[int, int, int]) -> dict[str, Image.Image]:
    return dict.fromkeys(CLIP_OBJECTS, Image.new("RGBA", (40, 30), (*colour, 255)))


def test_every_possible_image_prompt_is_known_and_fits():
    tokenizer = word_tokenizer()
    encoded = tokenizer(IMAGE_PROMPTS).input_ids
    assert len(IMAGE_PROMPTS) == 10 * 2 * 5 * 3 * 3
    assert tokenizer.unk_token_id not in {token for ids in encoded for token in ids}
    assert max(map(len, encoded)) <= TEXT_TOKENS


def test_every_possible_clip_prompt_is_known_and_of_one_length():
    tokenizer = word_tokenizer(CLIP_WORDS)
    encoded = tokenizer(CLIP_PROMPTS).input_ids
    assert len(CLIP_PROMPTS) == 5 * 3 * 3
    assert tokenizer.unk_token_id not in {token for ids in encoded for token in ids}
    assert {len(ids) for ids in encoded} == {CLIP_TEXT_TOKENS}


def test_a_word_outside_the_vocabulary_is_unknown():
    tokenizer = word_tokenizer(CLIP_WORDS)
    assert tokenizer.unk_token_id in tokenizer("a red zeppelin moving right, blue sky").input_ids


@pytest.mark.parametrize("words", [None, CLIP_WORDS])
def test_prompts_come_back_from_their_tokens(words):
    tokenizer = word_tokenizer() if words is None else word_tokenizer(words)
    prompt = (IMAGE_PROMPTS if words is None else CLIP_PROMPTS)[-1]
    decoded = tokenizer.decode(tokenizer(prompt).input_ids, skip_special_tokens=True)
    assert decoded.replace(" ,", ",") == prompt


def test_the_object_of_a_clip_moves_to_the_right():
    rng = np.random.default_rng(3)
    clip = draw_clip(MovingScene("cat", "night", "sky"), square((255, 255, 255)), rng, 32, 15)
    (row, col), (last_row, last_col) = (np.argwhere(frame.min(-1) > 150).mean(0) for frame in clip[[0, -1]])
    assert clip.shape == (15, 32, 32, 3)
    assert last_col - col > 9
    assert abs(last_row - row) < 1


def test_a_seed_gives_the_same_clip_again_and_another_seed_another():
    scene = random_moving_scene(np.random.default_rng(5))
    first, again, other = (draw_clip(scene, square((200, 30, 30)), np.random.default_rng(s), 32, 4) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
