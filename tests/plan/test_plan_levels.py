import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from janoscope.errors import InputError
from janoscope.grid import TokenGrid
from janoscope.plan import Policy, TokenLevel, highest, random_scores, token_ranks
from janoscope.plan.levels import cut_by_quantile, cut_by_threshold, ranks_of, spread, vote, words_of

GOLDEN = Path(__file__).parents[1] / "golden"
MAPS = sorted(GOLDEN.glob("jano_*.npz"))
TABLE = {"name": "p", "warmup": 3, "cooldown": 1, "intervals": {"static": 4, "moderate": 2}}


def policy_of(**more):
    return Policy.from_table(TABLE | {"tile": [1, 2, 2], "thresholds": {"static": 0.2, "moderate": 0.6}} | more, "test")


def threshold_cases():
    with np.load(GOLDEN / "threshold_cases.npz") as data:
        for name, info in json.loads(str(data["info"])).items():
            yield name, info["static_thresh"], info["medium_thresh"], data[f"{name}_scores"], data[f"{name}_levels"]


def test_thresholds_give_the_official_levels_at_and_beside_each_threshold():
    names = []
    for name, static, moderate, scores, levels in threshold_cases():
        np.testing.assert_array_equal(cut_by_threshold(scores, static, moderate), levels, err_msg=name)
        names.append(name)
    assert sorted(names) == ["decimal", "equal", "inverted", "quarter_half"]


def test_control_equality_going_up_is_told_apart_in_every_case():
    for name, static, moderate, scores, levels in threshold_cases():
        up = np.where(scores >= np.float32(moderate), 3, np.where(scores >= np.float32(static), 2, 1))
        assert (up != levels).any(), name


def test_control_comparing_in_float64_is_told_apart():
    # float32(0.6) lies above 0.6: a score of exactly that value must stay below the threshold
    _, static, moderate, scores, levels = next(case for case in threshold_cases() if case[0] == "decimal")
    wide = scores.astype(np.float64)
    assert (np.where(wide > moderate, 3, np.where(wide > static, 2, 1)) != levels).any()


@pytest.mark.parametrize("path", MAPS, ids=lambda path: path.stem)
def test_levels_of_tiles_cells_and_tokens_match_the_official_masks(path):
    with np.load(path) as data:
        params = json.loads(str(data["params"]))
        tiles = data["enhanced"].reshape(data["grid"])
        ranks = cut_by_threshold(tiles, params["static_thresh"], params["medium_thresh"])
        cells = spread(ranks, tuple(params["block"]), (params["T"], params["H"], params["W"]))
        np.testing.assert_array_equal(ranks.ravel(), data["block_mask"])
        np.testing.assert_array_equal(cells, data["latent_mask"])
        rules = {
            "tokens_majority": ("majority", params["patch"]),
            "tokens_majority_p222": ("majority", (2, 2, 2)),
            "tokens_packed": ("packed", (1, 2, 2)),
            "tokens_max_p222": ("maximum", (2, 2, 2)),
        }
        for key in rules.keys() & set(data.files):
            rule, patch = rules[key]
            np.testing.assert_array_equal(vote(cells, TokenGrid(1, cells.shape, tuple(patch)), rule), data[key], err_msg=key)


def test_every_golden_map_and_every_token_rule_was_met():
    keys = [key for path in MAPS for key in np.load(path).files if key.startswith("tokens_")]
    assert len(MAPS) == 10
    assert Counter(keys) == {"tokens_majority": 10, "tokens_packed": 6, "tokens_majority_p222": 1, "tokens_max_p222": 1}


def test_control_ties_that_go_up_fail_on_the_misaligned_clip():
    with np.load(GOLDEN / "jano_video_misaligned.npz") as data:
        cells = data["latent_mask"]
        for key, patch in (("tokens_majority", (1, 2, 2)), ("tokens_majority_p222", (2, 2, 2))):
            grid = TokenGrid(1, cells.shape, patch)
            assert (4 - vote((4 - cells).astype(np.int8), grid, "majority") != data[key]).any(), (
                key
            )  # levels mirrored: ties go up


def test_the_three_rules_on_patches_told_apart_by_hand():
    grid = TokenGrid(1, (1, 2, 6), (1, 2, 2))
    cells = np.array([[[1, 3, 1, 2, 2, 2], [3, 1, 3, 3, 2, 2]]], dtype=np.int8)  # 2:2 of 1 and 3 | 1,2,3,3 | all 2
    assert vote(cells, grid, "majority").tolist() == [1, 3, 2]
    assert vote(cells, grid, "maximum").tolist() == [3, 3, 2]
    with pytest.raises(InputError, match='2 of 3 tokens hold cells of two levels, which tokens = "packed" forbids'):
        vote(cells, grid, "packed")
    assert vote(np.full((1, 2, 6), 2, dtype=np.int8), grid, "packed").tolist() == [2, 2, 2]


def test_quantiles_are_cumulative_and_their_counts_exact():
    scores = np.array([[0.9, 0.1, 0.5, 0.3, 0.7], [0.2, 0.8, 0.0, 0.6, 0.4]])
    ranks = cut_by_quantile(scores, 0.3, 0.6)
    assert ranks.tolist() == [[3, 1, 2, 2, 3], [1, 3, 1, 3, 2]]
    assert np.bincount(cut_by_quantile(np.zeros(10), 0.3, 0.6)).tolist() == [0, 3, 3, 4]  # ties do not change the budget
    assert cut_by_quantile(scores, 0.0, 0.0).tolist() == [[3] * 5] * 2
    assert cut_by_quantile(scores, 1.0, 1.0).tolist() == [[1] * 5] * 2


def test_token_scores_are_scaled_before_they_are_cut_and_tile_scores_are_not():
    grid = TokenGrid(1, (1, 2, 10), (1, 2, 2))
    token_scores = np.array([10.0, 11.0, 12.0, 14.0, 20.0])  # scaled: 0, .1, .2, .4, 1
    assert token_ranks(token_scores, policy_of(), grid).tolist() == [1, 1, 1, 2, 3]
    assert token_ranks(token_scores.reshape(1, 1, 5), policy_of(), grid).tolist() == [3] * 5


def test_a_policy_of_quantiles_cuts_by_both_of_them():
    table = {key: value for key, value in policy_of().to_json().items() if key != "thresholds"}
    policy = Policy.from_table(table | {"quantiles": {"static": 0.4, "moderate": 0.8}}, "test")
    found = token_ranks(np.array([10.0, 11.0, 12.0, 14.0, 20.0]), policy, TokenGrid(1, (1, 2, 10), (1, 2, 2)))
    assert (found.tolist(), found.dtype) == ([1, 1, 2, 2, 3], np.int8)


def test_refuses_scores_of_another_shape_and_names_both():
    grid = TokenGrid(1, (1, 4, 6), (1, 2, 2))
    with pytest.raises(
        InputError, match=r"shape \(1, 3, 3\) fit neither the \(1, 2, 3\) tiles of \(1, 2, 2\) latent cells nor the 6 tokens"
    ):
        token_ranks(np.zeros((1, 3, 3)), policy_of(), grid)


def test_refuses_scores_that_are_not_finite():
    scores = np.array([0.0, np.nan, np.inf, 1.0, 0.5, 0.5])
    with pytest.raises(InputError, match="2 of 6 scores are not finite"):
        token_ranks(scores, policy_of(), TokenGrid(1, (1, 4, 6), (1, 2, 2)))


def test_words_and_ranks_are_inverse():
    words = (TokenLevel.ACTIVE, TokenLevel.STATIC, TokenLevel.MODERATE)
    assert ranks_of(words).tolist() == [3, 1, 2]
    assert words_of(ranks_of(words)) == words


def test_a_batch_shares_the_highest_level_of_its_items():
    assert highest([np.array([1, 2, 3, 1]), np.array([2, 1, 1, 1])]).tolist() == [2, 2, 3, 1]


def test_random_scores_repeat_with_the_seed_only():
    assert random_scores((1, 3, 5), 7).shape == (1, 3, 5)
    np.testing.assert_array_equal(random_scores((1, 3, 5), 7), random_scores((1, 3, 5), 7))
    assert (random_scores((1, 3, 5), 7) != random_scores((1, 3, 5), 8)).all()
