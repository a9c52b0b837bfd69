"""Figures of the analysis: which data go into which panel, at which size and scale, with which words beside them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes

from ...plan import StepKind, TokenLevel
from ..drawing.curves import Convergence, ProbeCurves, Separation, draw_convergence, draw_probe_curves
from ..drawing.images import frame_of
from ..drawing.maps import GAP, LevelPanel, MapPanel, Marker, PicturePanel, draw_levels, draw_map, draw_picture
from ..drawing.scatter import MapPredicts, draw_map_predicts
from ..drawing.step_schedule import ROW_HEIGHT, ScheduleStrip, draw_schedule
from ..drawing.style import SCORE_CMAP, TIME_CMAP, new_figure, new_panel
from ..drawing.svg import Drawing, to_svg
from ..page import interval, number
from .film import FilmStrip, draw_x0_strip, read_film
from .importance import draw_importance, importance_maps, importance_words
from .view import AnalysisView

Data = TypeVar("Data")

MOST_FRAMES = 3
MOST_POINT_FRAMES = 4
PANEL_IN = 3.3
SMALL_IN = 2.5  # four in a row
BAR_ROOM_IN = 0.56
CURVE_IN = (4.2, 2.5)


@dataclass(frozen=True)
class MapKind:
    """A map of the report: its array, words, colours; the array that it shares a scale with; whether the scale begins at 0."""

    name: str
    title: str
    quantity: str
    cmap: str
    beside: str = ""
    from_zero: bool = True


MAPS = (
    MapKind("complexity_combined", "Complexity before enhancement", "complexity, 0..1", SCORE_CMAP, "complexity_enhanced"),
    MapKind(
        "complexity_enhanced", "Complexity, enhanced", "complexity after inward diffusion", SCORE_CMAP, "complexity_combined"
    ),
    # only the order of its values counts, which a scale from 0 would hide
    MapKind("ras_importance", "RAS importance", "spread of the coming update", SCORE_CMAP, from_zero=False),
    MapKind("convergence_step", "Convergence step", "step from which it is settled", TIME_CMAP),
    MapKind("reuse_error", "Reuse error", "rms error of a reused velocity", TIME_CMAP),
)
TARGETS = {"convergence_step": "convergence step", "reuse_error": "reuse error (rms velocity error)"}


def analysis_figures(view: AnalysisView) -> dict[str, Drawing]:
    """Every figure of the analysis by name; what cannot be drawn from the files at hand is left out."""
    makers = (_picture, _schedule, _levels, _maps, _points, _probes, _convergence, _predicts, _importance, _film)
    return {drawing.name: drawing for maker in makers for drawing in maker(view)}


def drawing(
    view: AnalysisView, name: str, title: str, alt: str, size: tuple[float, float], data: Data,
    draw: Callable[[Data, Axes], Axes], wide: bool = False,
) -> Drawing:  # fmt: skip
    """One panel on a figure of its own: axes that fill it for images, with labels around them for curves."""
    bare = draw not in (draw_probe_curves, draw_convergence, draw_map_predicts)
    figure, ax = new_panel(*size, BAR_ROOM_IN if draw is draw_map else 0.0) if bare else new_figure(*size)
    draw(data, ax)
    return Drawing(name, title, alt, to_svg(figure, title, view.caption()), wide)


def map_frames(view: AnalysisView) -> list[int]:
    """Token frames that the maps show: all of an image, first, middle and last of a video."""
    frames = view.grid.tokens[0]
    return sorted({round(at) for at in np.linspace(0, frames - 1, min(frames, MOST_FRAMES))})


def image_frames(view: AnalysisView, frames: list[int]) -> np.ndarray | None:
    """The decoded image at these token frames, (frame, row, col, 3)."""
    if view.image is None:
        return None
    return np.stack([frame_of(view.image, frame, view.grid.tokens[0]) for frame in frames])


def panel_size(view: AnalysisView, frames: int, single: float = PANEL_IN) -> tuple[float, float]:
    """Inches of a map: an image's height follows its shape, a video's frames share a wide figure."""
    _, rows, cols = view.grid.tokens
    width = single if frames == 1 else 2.3 * frames
    return width, width / (frames + GAP * (frames - 1)) * rows / cols * (1 if frames == 1 else 1.1)


def limits_of(*values: np.ndarray, from_zero: bool = True) -> tuple[float, float]:
    """One colour scale for several maps: from 0, or their smallest finite value, to their largest."""
    finite = np.concatenate([value[np.isfinite(value)].ravel() for value in values])
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    low = min(0.0, low) if from_zero else low
    return (low, high) if high > low else (low, low + 1.0)


def level_panel(view: AnalysisView) -> LevelPanel:
    frames = map_frames(view)
    return LevelPanel(view.levels[frames], frames)


def map_panel(view: AnalysisView, name: str) -> MapPanel:
    """The panel of one of MAPS, on a colour scale that holds all frames, and the map it is compared with."""
    frames, kind = map_frames(view), next(kind for kind in MAPS if kind.name == name)
    together = [view.token_map(other) for other in (name, kind.beside) if other]
    limits = limits_of(*together, from_zero=kind.from_zero)
    return MapPanel(view.token_map(name)[frames], limits, kind.quantity, kind.cmap, frames)


def points_panel(view: AnalysisView) -> PicturePanel | None:
    """The two frames of figure 1 with the points in them; None for an image, which has one and shows it with the plan."""
    frames = [int(frame) for frame in view.facts.get("shown_frames") or ()]
    return _marked(view, frames) if view.grid.tokens[0] > 1 and frames else None


def picture_panel(view: AnalysisView) -> PicturePanel | None:
    """The image with the points; of a video the frames that the maps show, unless a point lies in another."""
    points = view.facts["points"]
    frames, with_points = map_frames(view), sorted({int(point["frame"]) for point in points})
    if not set(with_points) <= set(frames):
        frames = with_points[:MOST_POINT_FRAMES]
    return _marked(view, frames)


def _marked(view: AnalysisView, frames: list[int]) -> PicturePanel | None:
    """These token frames of the decoded image with the points that lie in them."""
    image = image_frames(view, frames)
    if image is None:
        return None
    markers = [
        Marker(str(point["name"]), frames.index(point["frame"]), int(point["row"]), int(point["col"]))
        for point in view.facts["points"]
        if point["frame"] in frames
    ]
    return PicturePanel(image, view.grid.tokens[1:], markers, frames)


def _picture(view: AnalysisView) -> Iterator[Drawing]:
    data = picture_panel(view)
    if data is not None:
        places = ", ".join(f"{mark.name} at row {mark.row}, column {mark.col}" for mark in data.markers)
        alt = f"The decoded image, with points {places} (token units)." if places else "The decoded image."
        size = panel_size(view, len(data.frames))
        title = "Video" if view.grid.tokens[0] > 1 else "Image"
        yield drawing(view, "picture", title, alt, size, data, draw_picture, len(data.frames) > 1)


def _points(view: AnalysisView) -> Iterator[Drawing]:
    data = points_panel(view)
    if data is not None:
        where = ", ".join(f"{mark.name} in frame {data.frames[mark.frame]}" for mark in data.markers)
        title = f"Frames {' and '.join(map(str, data.frames))}" if len(data.frames) > 1 else f"Frame {data.frames[0]}"
        alt = f"{title} of the video; points {where}." if where else f"{title} of the video."
        yield drawing(view, "points", title, alt, panel_size(view, len(data.frames)), data, draw_picture, True)


def _schedule(view: AnalysisView) -> Iterator[Drawing]:
    data = ScheduleStrip(view.plan.step_kind, 30)
    counted = ", ".join(f"{count} {kind}" for kind in StepKind if (count := view.plan.step_kind.count(kind)))
    width = max(2.0, 0.24 * data.cols)
    yield drawing(
        view, "schedule", "Step schedule", f"A cell for each of {len(data.kinds)} steps: {counted}.",
        (width, 0.24 * ROW_HEIGHT * data.rows), data, draw_schedule, True,
    )  # fmt: skip


def _levels(view: AnalysisView) -> Iterator[Drawing]:
    data = level_panel(view)
    shares = ", ".join(f"{view.tokens_at(level).mean():.0%} {level}" for level in TokenLevel)
    size = panel_size(view, len(data.frames))
    yield drawing(
        view, "levels", "Token levels", f"Map of the token levels: {shares}.", size, data, draw_levels, len(data.frames) > 1
    )


def _maps(view: AnalysisView) -> Iterator[Drawing]:
    for kind in MAPS:
        if kind.name not in view.arrays:
            continue
        data = map_panel(view, kind.name)
        low, high = data.limits
        alt = f"{kind.title} ({kind.quantity}) as a map over the tokens, colour scale {low:.3g} to {high:.3g}."
        size = panel_size(view, len(data.frames), PANEL_IN if kind.name == "complexity_enhanced" else SMALL_IN)
        yield drawing(view, kind.name, kind.title, alt, size, data, draw_map, len(data.frames) > 1)


def _probes(view: AnalysisView) -> Iterator[Drawing]:
    points = view.facts["points"]
    if not points:
        return
    unit, reduction = view.facts["conversion"].get("time_unit", "unit of time"), view.facts.get("reduction", "rms")
    panels = (
        ("raw", "point_raw", "Raw model output", f"raw output, {reduction}"),
        ("converted", "point_velocity", "Flow velocity", f"flow velocity per {unit}, {reduction}"),
    )
    levels = [TokenLevel(point["level"]) for point in points]
    for which, name, title, quantity in panels:
        estimate = view.facts["separation"].get(which) or {}
        separation = Separation(number(estimate.get("auroc")), interval(estimate.get("interval")))
        data = ProbeCurves([str(point["name"]) for point in points], levels, view.arrays[name], quantity, separation)
        alt = f"{title} over the steps at points {', '.join(data.names)}; {separation}."
        yield drawing(view, f"probe_{which}", title, alt, CURVE_IN, data, draw_probe_curves)


def _convergence(view: AnalysisView) -> Iterator[Drawing]:
    kinds = view.plan.step_kind
    policy = view.plan.policy
    cached = (policy.warmup, len(kinds) - policy.cooldown) if StepKind.REFRESH in kinds and not policy.is_step_level else None
    tolerance = number(view.facts["convergence"].get("tolerance"))
    panels = [
        ("x0_distance", "x0_distance", "Distance of x0 to its last estimate", "rms distance (latent units)", 0, tolerance),
        ("flow_velocity_change", "velocity_change", "Change of the flow velocity", "relative change per step", 1, None),
    ]
    if not view.is_flow:
        panels.append(("raw_change", "raw_change", "Change of the raw output", "rms change per step", 1, None))
    for name, curve, title, quantity, first, line in panels:
        bands = view.curve_bands(curve)
        data = Convergence(view.arrays[name], view.plan.ranks, quantity, first, view.steps, cached, line, bands)
        alt = f"{title} over the steps for static, moderate and active tokens: median and middle 80 %."
        yield drawing(view, name, title, alt, CURVE_IN, data, draw_convergence)


def _predicts(view: AnalysisView) -> Iterator[Drawing]:
    score = view.token_map("complexity_enhanced").ravel()
    for target, words in TARGETS.items():
        data = MapPredicts(
            score,
            view.shown_tokens(view.arrays[target]),
            view.plan.ranks,
            "complexity, enhanced",
            words,
            _spearman(view, target),
        )
        alt = f"Complexity after the warm-up against {words}, one dot a token. {data.spearman}"
        yield drawing(
            view, f"predicts_{target}", f"Complexity and {target.replace('_', ' ')}", alt, CURVE_IN, data, draw_map_predicts
        )


def _spearman(view: AnalysisView, target: str) -> str:
    """Spearman of the jano map at the plan's own warm-up, as text; empty where it was not measured."""
    for row in view.facts["map_predicts"]:
        if (row.get("map"), row.get("target"), row.get("warmup")) == ("jano", target, view.plan.policy.warmup):
            value, between = number(row.get("spearman")), interval(row.get("interval"))
            if value is not None:
                return f"Spearman {value:.2f}" + ("" if between is None else f" [{between[0]:.2f}, {between[1]:.2f}]")
    return ""


def _importance(view: AnalysisView) -> Iterator[Drawing]:
    data = importance_maps(view)
    if data is not None:
        width, height = data.shape
        steps = ", ".join(map(str, data.steps))
        alt = f"JANO map after {data.warmup} steps and RAS importance at steps {steps}. {importance_words(view)}"
        title = "JANO map, and RAS importance over the run"
        inches = min(9.0, 1.5 * (len(data.steps) + 1))
        yield drawing(view, "ras_steps", title, alt, (inches, inches * height / width), data, draw_importance, True)


def _film(view: AnalysisView) -> Iterator[Drawing]:
    data: FilmStrip | None = read_film(view)
    if data is not None:
        rows, cols = data.frames.shape[1:3]
        width = 9.0
        height = width / (len(data.steps) * 1.06) * rows / cols * 1.18
        alt = f"The estimate of the final image at steps {', '.join(map(str, data.steps))}."
        title = f"x0 estimates; the colours explain {data.fit:.0%} of the image's variance"
        yield drawing(view, "x0_strip", title, alt, (width, height), data, draw_x0_strip, True)
