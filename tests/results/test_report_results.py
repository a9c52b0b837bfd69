import json

import numpy as np
import pytest
from report_results import CLIP, make_results

from janoscope.errors import InputError
from janoscope.report.analysis.view import read_view
from janoscope.report.page import interval, number
from janoscope.results.analysis import ARRAYS, OPTIONAL


@pytest.fixture
def made(tmp_path):
    return make_results(tmp_path)


def change(made, name, **changes):
    path = made.directory / name
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(data))


def test_reads_every_file_of_an_analysis(made):
    results = read_view(made.directory)
    assert results.plan == made.plan
    assert set(results.arrays) == {*ARRAYS, *OPTIONAL}
    for name in results.arrays:
        np.testing.assert_array_equal(results.arrays[name], made.arrays[name])
    assert results.recording == made.recording.resolve()
    np.testing.assert_array_equal(results.image, made.picture)
    assert results.caption() == "tiny/flow, 13 steps, 176 x 112 px, seed 3, janoscope 0.1.0"


def test_an_animated_png_gives_every_frame(tmp_path):
    made = make_results(tmp_path, grid=CLIP)
    results = read_view(made.directory)
    np.testing.assert_array_equal(results.image, made.picture)
    assert "112 x 80 px, 3 frames" in results.caption()


def test_a_tile_map_becomes_a_token_map(made):
    results = read_view(made.directory)
    tokens = results.token_map("complexity_combined")
    assert tokens.shape == (1, 7, 11)
    for row, col in ((0, 0), (6, 10), (3, 5)):  # a tile of 4 cells is 2 tokens wide
        assert tokens[0, row, col] == pytest.approx(made.arrays["complexity_combined"][0, row // 2, col // 2])


def test_goes_on_without_recording_and_picture(made):
    made.recording.unlink()
    made.recording.with_suffix(".png").unlink()
    results = read_view(made.directory)
    assert results.recording is None
    assert results.image is None


def test_a_path_inside_a_result_file_cannot_point_elsewhere(made, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    made.recording.rename(elsewhere / "run.h5")
    change(made, "analysis.json", recording=str(elsewhere / "run.h5"))
    assert read_view(made.directory).recording is None
    assert read_view(made.directory, elsewhere / "run.h5").recording == elsewhere / "run.h5"


@pytest.mark.parametrize("name", ["analysis.json", "analysis.npz", "plan.json"])
def test_names_the_file_that_is_missing(made, name):
    (made.directory / name).unlink()
    with pytest.raises(InputError, match=rf"holds no {name}, so it is no finished analysis[;.] [rR]un `janoscope analyze` again"):
        read_view(made.directory)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("analysis.json", "{", "is not JSON"),
        ("analysis.json", "[]", "its schema is 'list', not 'janoscope-analysis/2'"),
        (
            "analysis.json",
            '{"schema": "janoscope-analysis/9"}',
            "its schema is 'janoscope-analysis/9', not",
        ),
        ("analysis.json", '{"schema": "janoscope-analysis/2"}', "lacks 'complexity', 'convergence'"),
        ("analysis.npz", "no archive", "analysis.npz cannot be read"),
        ("apply.json", "{", "apply.json is not JSON"),
        ("../run.png", "no picture", "cannot be read as an image"),
    ],
)
def test_a_damaged_file_is_one_sentence(made, name, content, message):
    (made.directory / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_view(made.directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"channels": 3, "cells": [1, 16, 22], "patch": [1, 2, 2]}}, "has grid .* plan.json beside it"),
        ({"complexity": {"tile": [1, 4]}}, "a list of 3 is needed"),
        ({"complexity": {"tile": [1, 0, 4]}}, "malformed tile or point"),
        ({"complexity": {"tile": [1, -4, 4]}}, "sizes are at least 1"),
        ({"points": [{"name": "A", "frame": 0, "row": 7, "col": 0, "level": "static"}]}, "lies outside the grid"),
        ({"points": [{"name": "A", "frame": 0, "row": 0, "col": 0, "level": "busy"}]}, "malformed tile or point"),
        ({"points": []}, "point_raw has shape"),
    ],
)
def test_refuses_facts_that_do_not_fit_each_other(made, changes, message):
    change(made, "analysis.json", **changes)
    with pytest.raises(InputError, match=message):
        read_view(made.directory)


@pytest.mark.parametrize(
    "name",
    ["reuse_error", "x0_distance", "complexity_spatial", "timestep", "ras_importance_steps", "curve_raw_change_quantiles"],
)
def test_refuses_an_array_of_another_run(made, name):
    arrays = made.arrays | {name: made.arrays[name][:-1] if name != "timestep" else np.zeros(40)}
    np.savez(made.directory / "analysis.npz", **arrays)
    with pytest.raises(InputError, match=f"{name} has shape|has 40 steps, the plan 13"):
        read_view(made.directory)


def test_refuses_an_array_that_needs_pickle(made):
    np.savez(made.directory / "analysis.npz", **made.arrays | {"reuse_error": np.array([{}], dtype=object)})
    with pytest.raises(InputError, match="cannot be read"):
        read_view(made.directory)


def test_numbers_that_are_not_defined_are_none():
    assert [number(value) for value in (1, 0.5, None, float("nan"), float("inf"), True, "3")] == [
        1.0,
        0.5,
        None,
        None,
        None,
        None,
        None,
    ]
    assert interval([0, 1.5]) == (0.0, 1.5)
    assert [interval(value) for value in (None, [1], [None, 2], [float("nan"), 1], "ab")] == [None] * 5
