from dataclasses import replace
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from report_results import CLIP, make_results

from janoscope.grid import TokenGrid
from janoscope.plan import StepKind, TokenLevel, ladder
from janoscope.report.analysis.figures import analysis_figures, limits_of, map_panel, picture_panel, points_panel
from janoscope.report.analysis.importance import ImportanceMaps, draw_importance
from janoscope.report.analysis.view import read_view
from janoscope.report.drawing.curves import (
    Convergence,
    ProbeCurves,
    Separation,
    draw_convergence,
    draw_probe_curves,
    fill_band,
    level_quantiles,
)
from janoscope.report.drawing.maps import (
    LevelPanel,
    MapPanel,
    Marker,
    PicturePanel,
    draw_levels,
    draw_map,
    draw_picture,
    frame_left,
)
from janoscope.report.drawing.scatter import MOST_DOTS, MapPredicts, draw_map_predicts
from janoscope.report.drawing.step_schedule import ScheduleStrip, draw_schedule
from janoscope.report.drawing.style import KIND_COLOUR, LEVEL_COLOUR, SCORE_CMAP, UNKNOWN, new_panel, styled

STATIC, MODERATE, ACTIVE = TokenLevel


@pytest.fixture
def ax():
    with styled():
        yield Figure().add_subplot()


@pytest.fixture(scope="module")
def picture_results(tmp_path_factory):
    return read_view(make_results(tmp_path_factory.mktemp("picture")).directory)


@pytest.fixture(scope="module")
def clip_results(tmp_path_factory):
    return read_view(make_results(tmp_path_factory.mktemp("clip"), grid=CLIP).directory)


def words(ax):
    return [text.get_text() for text in ax.texts]


def test_probe_curves_are_the_values_in_the_levels_colours(ax):
    values = np.random.default_rng(0).random((3, 7))
    data = ProbeCurves(["A", "B", "C"], [STATIC, ACTIVE, ACTIVE], values, "rms", Separation(0.8125, (0.75, 0.875)))
    assert draw_probe_curves(data, ax) is ax
    for line, row, level in zip(ax.lines, values, data.levels, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), row)
        np.testing.assert_array_equal(line.get_xdata(), np.arange(7))
        assert line.get_color() == LEVEL_COLOUR[level]
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in ax.lines}) == 3
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "rms")
    assert sorted(words(ax)) == ["A", "AUROC 0.81 [0.75, 0.88]", "B", "C"]


def test_letters_at_the_ends_do_not_overlap(ax):
    data = ProbeCurves(["A", "B"], [STATIC, ACTIVE], np.array([[0.0, 1.0], [0.5, 1.0]]), "rms", Separation(None, None))
    draw_probe_curves(data, ax)
    heights = [text.xy[1] for text in ax.texts if text.get_text() in "AB"]
    assert abs(heights[0] - heights[1]) > 0.07
    assert "AUROC not defined" in words(ax)


def test_convergence_shows_median_and_quantiles_of_each_level(ax):
    values = np.arange(1.0, 45.0).reshape(4, 11)
    ranks = np.array([1] * 5 + [3] * 6)
    data = Convergence(values, ranks, "distance", first_step=1, steps=6, tolerance=0.1)
    draw_convergence(data, ax)
    lines = {line.get_label(): line for line in ax.lines}
    assert "moderate" not in lines  # no token of that level
    for level, tokens in ((STATIC, slice(0, 5)), (ACTIVE, slice(5, 11))):
        np.testing.assert_allclose(lines[level.value].get_ydata(), np.median(values[:, tokens], axis=1))
        np.testing.assert_array_equal(lines[level.value].get_xdata(), [1, 2, 3, 4])
        np.testing.assert_allclose(level_quantiles(data)[level][2], np.quantile(values[:, tokens], 0.9, axis=1))
    assert ax.get_xlim() == (-0.5, 5.5)


def test_a_band_on_a_log_scale_ends_where_it_is_zero(ax):
    fill_band(np.arange(4), np.array([1.0, 0.0, 0.5, 0.0]), np.array([4.0, 3.0, 2.0, 0.0]), "#000000", ax)
    corners = np.unique(ax.collections[0].get_paths()[0].vertices, axis=0)
    assert [tuple(corner) for corner in corners] == [(0, 1), (0, 4), (1, 0.5), (1, 3), (2, 0.5), (2, 2)]


def test_convergence_leaves_out_values_that_are_not_finite():
    values = np.array([[1.0, np.inf, 3.0], [np.nan, np.nan, np.inf]])
    low, middle, high = level_quantiles(Convergence(values, np.ones(3, int), "d"))[STATIC]
    assert (middle[0], low[0], high[0]) == (2.0, pytest.approx(1.2), pytest.approx(2.8))
    assert np.isnan(middle[1])


def test_ladder_has_a_coloured_cell_and_a_letter_a_step(ax):
    kinds = [
        StepKind.WARMUP,
        StepKind.REFRESH,
        StepKind.ACTIVE,
        StepKind.REUSE,
        StepKind.MODERATE,
        StepKind.COOLDOWN,
        StepKind.COOLDOWN,
    ]
    draw_schedule(ScheduleStrip(kinds, per_row=4), ax)
    cells = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert [to_hex(cell.get_facecolor()) for cell in cells] == [KIND_COLOUR[kind] for kind in kinds]
    letters = "".join(word for word in words(ax) if not word.isdigit())
    assert letters == ladder(kinds) == "WRa.mCC"
    assert [word for word in words(ax) if word.isdigit()] == ["0", "5", "6"]
    assert len({cell.get_y() for cell in cells}) == 2  # two rows


def test_map_without_a_picture_is_the_colour_map_itself(ax):
    values = np.array([[[0.0, 0.5, np.nan], [1.0, 0.25, 0.75]]])
    draw_map(MapPanel(values, (0.0, 1.0), "score", "gray"), ax)
    shown = ax.images[0].get_array()
    np.testing.assert_allclose(shown[..., 0], [[0, 0.5, to_rgb(UNKNOWN)[0]], [1, 0.25, 0.75]], atol=0.004)
    assert ax.child_axes[0].get_xlabel() == "score"
    assert ax.child_axes[0].get_xlim() == (0, 1)
    assert ax.images[0].get_extent() == [0, 3, 2, 0]


def test_every_colour_of_a_map_stands_in_its_colour_bar(ax):
    """Blended with a picture a value of 0 was drawn (32, 32, 35), and the bar's 0 was (1, 1, 6)."""
    draw_map(MapPanel(np.linspace(0, 1, 24).reshape(1, 4, 6), (0.0, 1.0), "score"), ax)
    shown = ax.images[0].get_array().reshape(-1, 3)
    bar = matplotlib.colormaps[SCORE_CMAP](np.linspace(0, 1, 256))[:, :3]
    assert np.abs(shown[:, None] - bar[None]).max(axis=-1).min(axis=1).max() < 1e-6


def labels_out_of(figure):
    """Words that reach over the figure's edge, and pairs of tick labels of one axis that overlap."""
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    boxes = [
        (text.get_text(), text.get_window_extent()) for text in figure.findobj(Text) if text.get_visible() and text.get_text()
    ]
    out = [words for words, box in boxes if box.x0 < -1 or box.x1 > width + 1 or box.y0 < -1 or box.y1 > height + 1]
    overlapping = []
    for axes in figure.findobj(Axes):
        ticks = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        overlapping += [pair for pair in pairwise(ticks) if pair[0].x1 > pair[1].x0]
    return out, overlapping


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.0, 3e-8), (0.0123, 0.0567), (0.0, 23.0), (0.0, 12345.0)])
@pytest.mark.parametrize("width", [2.0, 2.5, 3.3])
def test_no_tick_label_of_a_map_is_cut_or_lies_on_another(limits, width):
    with styled():
        figure, ax = new_panel(width, width, 0.56)
        draw_map(MapPanel(np.full((1, 4, 4), limits[1]), limits, "score"), ax)
        assert labels_out_of(figure) == ([], [])
        ticks = [float(label.get_text()) for label in ax.child_axes[0].get_xticklabels()]
        assert len(ticks) >= 2  # two numbers make a scale
        assert limits[0] <= ticks[0] < ticks[-1] <= limits[1]
        assert ax.child_axes[0].xaxis.get_offset_text().get_text() == ""


@pytest.mark.parametrize(("rows", "cols"), [(16, 16), (64, 64), (8, 32)])
@pytest.mark.parametrize("most", [1.0, 0.061, 3e-8])
def test_no_label_of_the_importance_figure_is_cut(rows, cols, most):
    maps = ImportanceMaps(
        np.full((rows, cols), most), np.full((4, rows, cols), most), [0, 3, 5, 49], 7, [0.4, None, -0.1, 0.2, 0.3]
    )
    with styled():
        width, height = maps.shape
        figure, ax = new_panel(7.4, 7.4 * height / width)
        draw_importance(maps, ax)
        assert labels_out_of(figure)[0] == []


def test_the_look_for_cut_labels_finds_one():
    with styled():
        figure, ax = new_panel(2.0, 2.0)
        ax.axis("off")
        ax.text(0.95, 0.5, "too far to the right")
        assert labels_out_of(figure)[0] == ["too far to the right"]


def test_levels_have_their_colours_and_a_line_where_they_change(ax):
    ranks = np.array([[[1, 1, 3], [1, 2, 3]]])
    draw_levels(LevelPanel(ranks), ax)
    shown = ax.images[0].get_array()
    for level in TokenLevel:
        assert (shown[ranks[0] == level.rank] == to_rgb(LEVEL_COLOUR[level])).all()
    segments = {tuple(map(tuple, line.astype(int))) for line in ax.collections[0].get_segments()}
    assert segments == {((1, 1), (2, 1)), ((2, 0), (2, 1)), ((1, 1), (1, 2)), ((2, 1), (2, 2))}


def test_markers_lie_in_the_middle_of_their_token(ax):
    picture = np.zeros((2, 10, 14, 3), np.uint8)
    draw_picture(PicturePanel(picture, (5, 7), [Marker("A", 0, 1, 2), Marker("B", 1, 4, 6)], (0, 2)), ax)
    at = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in ax.lines]
    assert at == [(2.5, 1.5), (frame_left(1, 7) + 6.5, 4.5)]
    assert words(ax) == ["A", "B", "frame 0", "frame 2"]


def test_scatter_shows_every_known_token_once(ax):
    score, outcome = np.arange(6.0), np.array([5.0, 4, np.nan, 2, 1, 0])
    draw_map_predicts(MapPredicts(score, outcome, np.array([1, 1, 1, 2, 3, 3]), "score", "cost", "Spearman -1.00"), ax)
    dots = np.concatenate([dots.get_offsets() for dots in ax.collections])
    np.testing.assert_array_equal(dots, [[0, 5], [1, 4], [3, 2], [4, 1], [5, 0]])
    assert [to_hex(dots.get_facecolor()[0]) for dots in ax.collections] == [LEVEL_COLOUR[level] for level in TokenLevel]
    assert words(ax) == ["Spearman -1.00"]


def test_scatter_thins_many_tokens(ax):
    many = np.arange(3.0 * MOST_DOTS)
    draw_map_predicts(MapPredicts(many, many, np.ones(many.size, int), "score", "cost"), ax)
    assert len(ax.collections[0].get_offsets()) == MOST_DOTS


def test_compared_maps_share_one_scale_and_others_do_not(picture_results):
    combined, enhanced = (map_panel(picture_results, f"complexity_{name}") for name in ("combined", "enhanced"))
    assert (
        combined.limits == enhanced.limits == (0.0, pytest.approx(picture_results.arrays["complexity_enhanced"].max(), abs=0.3))
    )
    assert map_panel(picture_results, "convergence_step").limits != combined.limits
    assert map_panel(picture_results, "ras_importance").limits[0] > 0


def test_limits_skip_what_is_not_finite():
    assert limits_of(np.array([np.nan, 2.0, np.inf]), np.array([5.0])) == (0.0, 5.0)
    assert limits_of(np.array([3.0, 5.0]), from_zero=False) == (3.0, 5.0)
    assert limits_of(np.array([np.nan])) == (0.0, 1.0)
    assert limits_of(np.zeros(2)) == (0.0, 1.0)


def test_picture_markers_are_the_points(picture_results):
    panel = picture_panel(picture_results)
    points = picture_results.facts["points"]
    assert [(mark.name, mark.row, mark.col) for mark in panel.markers] == [(p["name"], p["row"], p["col"]) for p in points]
    assert len(points) == 4
    np.testing.assert_array_equal(panel.image, picture_results.image)


def test_clip_shows_several_frames_with_their_own_values(clip_results):
    panel = map_panel(clip_results, "reuse_error")
    assert list(panel.frames) == [0, 1, 2]
    np.testing.assert_allclose(panel.values, clip_results.arrays["reuse_error"].reshape(3, 5, 7))
    assert not np.allclose(panel.values[0], panel.values[2])


@pytest.mark.parametrize("results", ["picture_results", "clip_results"])
def test_every_figure_is_made_and_made_the_same_twice(results, request):
    results = request.getfixturevalue(results)
    with styled():
        first, second = analysis_figures(results), analysis_figures(results)
    frames = ["points"] if results.grid.tokens[0] > 1 else []
    assert list(first) == [
        "picture", "schedule", "levels", "complexity_combined", "complexity_enhanced", "ras_importance", "convergence_step",
        "reuse_error", *frames, "probe_raw", "probe_converted", "x0_distance", "flow_velocity_change",
        "predicts_convergence_step", "predicts_reuse_error", "ras_steps", "x0_strip",
    ]  # fmt: skip
    assert {name: drawing.svg for name, drawing in first.items()} == {name: drawing.svg for name, drawing in second.items()}
    for drawing in first.values():
        assert results.caption() in drawing.svg  # a figure carries its origin
        assert drawing.alt


def test_figure_one_of_a_clip_shows_the_two_frames_that_the_analysis_chose(clip_results):
    panel = points_panel(clip_results)
    assert list(panel.frames) == clip_results.facts["shown_frames"] == [0, 1]
    np.testing.assert_array_equal(panel.image, clip_results.image[:2])
    points = [point for point in clip_results.facts["points"] if point["frame"] < 2]
    assert 0 < len(points) < 4
    assert [(mark.name, mark.frame, mark.row, mark.col) for mark in panel.markers] == [
        (point["name"], point["frame"], point["row"], point["col"]) for point in points
    ]


def test_figure_one_of_a_picture_is_the_picture(picture_results):
    assert points_panel(picture_results) is None


def test_curves_take_the_stored_bands_where_there_are_any(ax, picture_results):
    bands = picture_results.curve_bands("x0_distance")
    assert list(bands) == ["static", "moderate", "active", "all"]
    distance, ranks = picture_results.arrays["x0_distance"], picture_results.plan.ranks
    computed, stored = Convergence(distance, ranks, "d"), Convergence(distance, ranks, "d", bands=bands)
    for level, band in level_quantiles(computed).items():
        np.testing.assert_allclose(level_quantiles(stored)[level], band, rtol=1e-6)
    shifted = Convergence(distance, ranks, "d", bands={name: band + 1 for name, band in bands.items()})
    draw_convergence(shifted, ax)
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(lines["active"], bands["active"][1] + 1)
    np.testing.assert_allclose(lines["all"], np.median(distance, axis=1) + 1, rtol=1e-6)


def test_a_noise_model_shows_how_its_raw_output_changes_too(picture_results):
    facts = dict(picture_results.facts) | {"conversion": {**picture_results.facts["conversion"], "prediction_type": "epsilon"}}
    with styled():
        drawn = analysis_figures(replace(picture_results, result=replace(picture_results.result, facts=facts), recording=None))
        of_flow = analysis_figures(replace(picture_results, recording=None))
    assert set(drawn) - set(of_flow) == {"raw_change"}


def test_there_are_no_bands_where_the_analysis_stored_other_quantiles(clip_results):
    facts = dict(clip_results.facts) | {"curves": {"groups": ["static"] * 4, "quantiles": [0, 0.2, 0.5, 0.8, 1]}}
    assert replace(clip_results, result=replace(clip_results.result, facts=facts)).curve_bands("x0_distance") is None
    assert replace(clip_results, result=replace(clip_results.result, arrays={})).curve_bands("x0_distance") is None


def test_a_clips_picture_shows_the_frames_that_hold_points(tmp_path):
    long_clip = TokenGrid(channels=3, cells=(7, 10, 14), patch=(1, 2, 2))
    results = read_view(make_results(tmp_path, grid=long_clip).directory)
    places = [(1, 0, 3), (2, 4, 6), (5, 1, 1), (2, 2, 2)]
    results.facts["points"][:] = [
        {"name": name, "frame": frame, "row": row, "col": col, "level": "static"}
        for name, (frame, row, col) in zip("ABCD", places, strict=True)
    ]
    panel = picture_panel(results)
    assert list(panel.frames) == [1, 2, 5]
    assert [(mark.name, mark.frame) for mark in panel.markers] == [("A", 0), ("B", 1), ("C", 2), ("D", 1)]
    np.testing.assert_array_equal(panel.image, results.image[[1, 2, 5]])
    assert list(map_panel(results, "reuse_error").frames) == [0, 3, 6]
