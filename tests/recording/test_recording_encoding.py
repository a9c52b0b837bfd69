"""Counting values that are not finite by their bits, against NumPy's own test of every bit pattern."""

import numpy as np
import pytest

from janoscope.recording.encoding import count_nonfinite, decode

KINDS = {"float16": np.uint16, "bfloat16": np.uint16, "float32": np.uint32, "float64": np.uint64}


@pytest.mark.parametrize("name", KINDS)
def test_random_bits_are_counted_as_numpy_counts_them(name):
    bits = np.random.default_rng(0).integers(0, np.iinfo(KINDS[name]).max, (300, 401), KINDS[name], endpoint=True)
    bits[7, :3] = np.array([np.inf, -np.inf, np.nan], np.float32).view(np.uint32) >> 16 if name == "bfloat16" else bits[7, :3]
    values = bits if name == "bfloat16" else bits.view(name)
    assert count_nonfinite(values, name) == (~np.isfinite(decode(values, name))).sum() > 0


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_the_largest_numbers_are_finite_and_the_infinities_are_not(name):
    most = np.finfo(name).max
    values = np.array([[most, -most, 0, -0.0], [np.inf, -np.inf, np.nan, 1]], name)
    assert count_nonfinite(values[:1], name) == 0
    assert count_nonfinite(values, name) == 3
    assert count_nonfinite(values.T, name) == 3
    assert count_nonfinite(values[:0], name) == 0
