"""Which places of a sequence a partial call computes, by hand: 6 image tokens, of which 1 and 4 are computed."""

import numpy as np
import pytest
import torch

from janoscope.execution.rows import Rows
from janoscope.probe import load_probe, probe_paths

CPU = torch.device("cpu")
FLUX = load_probe(next(path for path in probe_paths() if path.stem == "flux")).execution


@pytest.fixture
def rows():
    return Rows(6, torch.tensor([1, 4]), FLUX)


@pytest.mark.parametrize(
    ("text", "where", "kept", "expected"),
    [
        (0, "first", None, [1, 4]),
        (1, "first", None, [0, 2, 5]),  # one token of text is text as well
        (3, "first", None, [0, 1, 2, 4, 7]),
        (3, "first", 1, [0, 4, 7]),  # the image still begins behind all three
        (3, "last", None, [1, 4, 6, 7, 8]),
        (3, "last", 1, [1, 4, 6]),
        (3, "none", None, [1, 4]),
    ],
)
def test_places_of_text_and_computed_tokens_in_a_joint_sequence(rows, text, where, kept, expected):
    assert rows.joint(text, where, CPU, kept).tolist() == expected
    assert rows.joint(text, where, CPU, kept).dtype == torch.int64


def test_text_first_and_text_last_are_not_taken_for_each_other(rows):
    first, last = (rows.joint(2, where, CPU).tolist() for where in ("first", "last"))
    assert (first, last) == ([0, 1, 3, 6], [1, 4, 6, 7])
    assert rows.joint(2, "first", CPU).tolist() == first, "asked again"


def test_skipped_tokens_are_the_others_in_order(rows):
    assert (rows.count, rows.skipped.count) == (2, 4)
    np.testing.assert_array_equal(rows.skipped.on_host, [0, 2, 3, 5])


def test_a_rotary_table_is_cut_once_and_forgotten_with_the_step(rows):
    cosine, sine = torch.arange(16.0).reshape(8, 2), -torch.arange(16.0).reshape(8, 2)  # two rows of text, then the image
    table = (cosine, sine)
    cut = rows.cut_rotary(table)
    assert [part[:, 0].tolist() for part in cut] == [[0, 2, 6, 12], [0, -2, -6, -12]]
    assert rows.cut_rotary(table) is cut
    assert rows.is_cut(cut)
    assert not rows.is_cut(table)
    others = rows.cut_for_skipped(cut, text_rows=1)
    assert others[0][:, 0].tolist() == [0, 4, 8, 10, 14]
    rows.forget_tables()
    assert not rows.has_tables
    assert rows.cut_rotary(table) is not cut
