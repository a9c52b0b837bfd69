"""Inward diffusion against the official arrays, and what they tell apart."""

import json

import numpy as np
import pytest
from golden_inputs import GOLDEN
from scipy import ndimage

from janoscope.analysis import Enhancement, diffuse_inward, enhancement
from janoscope.errors import InputError

CASES = np.load(GOLDEN / "enhance_cases.npz")
INFO = json.loads(str(CASES["info"]))


def error(name):
    enhanced = diffuse_inward(CASES[f"{name}_in"], Enhancement(INFO[name]["d_strength"], INFO[name]["d_distance"]))
    assert enhanced.dtype == np.float32
    return np.abs(enhanced - CASES[f"{name}_out"]).max()


def test_golden_file_holds_all_cases():
    assert len(INFO) == 21


@pytest.mark.parametrize("name", sorted(INFO))
def test_golden_case(name):
    assert error(name) < 1e-5


def test_golden_tells_biased_from_unbiased_deviation(monkeypatch):
    monkeypatch.setattr(enhancement, "CONTOUR_DEVIATIONS", np.float32(0.3 * np.sqrt(24 / 25)))  # what ddof=0 would give on 5x5
    assert max(error(f"unbiased_std_{n}") for n in range(3)) > 1e-2


def test_golden_tells_four_from_eight_neighbours(monkeypatch):
    monkeypatch.setattr(enhancement, "SQUARE", ndimage.generate_binary_structure(2, 1))
    assert error("diagonal_pair") > 1e-2
    assert error("straight_pair") < 1e-5


def test_golden_tells_a_strict_share_from_an_inclusive_one(monkeypatch):
    monkeypatch.setattr(enhancement, "RIM_SHARE", np.float32(0.3001))
    assert error("ratio_exact_030") > 1e-2


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7])
def test_constant_map_stays_whatever_its_value(value):
    scores = np.full((2, 7, 11), value, dtype=np.float32)
    np.testing.assert_array_equal(diffuse_inward(scores, Enhancement()), scores)


def test_the_result_is_float32_whether_something_is_raised_or_not():
    for scores in (np.full((1, 3, 3), 0.5), np.random.default_rng(1).random((1, 9, 11))):
        assert diffuse_inward(scores, Enhancement()).dtype == np.float32


def test_layers_do_not_see_each_other():
    scores = np.random.default_rng(1).random((3, 9, 11)).astype(np.float32)
    alone = np.concatenate([diffuse_inward(scores[k : k + 1], Enhancement()) for k in range(3)])
    np.testing.assert_array_equal(diffuse_inward(scores, Enhancement()), alone)


def test_refuses_settings_without_sense():
    for bad in ({"distance": 0}, {"strength": -1}, {"strength": float("nan")}):
        with pytest.raises(InputError, match="strength >= 0 and distance > 0"):
            Enhancement(**bad)
