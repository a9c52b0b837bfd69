"""The README image: what was generated, the map, the levels and the step schedule, on one page."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...plan import TokenLevel
from ...results.writing import made_whole
from ..drawing.maps import draw_levels, draw_map, draw_picture
from ..drawing.step_schedule import ROW_HEIGHT, ScheduleStrip, draw_schedule
from ..drawing.style import INK, LEVEL_COLOUR, MUTED, styled
from .figures import level_panel, map_panel, picture_panel
from .view import AnalysisView, read_view

WIDTH_IN = 11.0
MARGIN_IN = 0.25
GAP_IN = 0.3
TITLE_IN = 0.3
BAR_IN = 0.5  # room below the images for the colour bar and the key of the levels
CAPTION_IN = 0.3
DPI = 160


def draw_hero(view: AnalysisView, figure: Figure) -> Figure:
    """Image, complexity map, levels and step schedule; without a decoded image the maps alone.

    The figure is made as wide as WIDTH_IN and as high as what it holds.
    """
    image, levels = picture_panel(view), level_panel(view)
    panels = 3 if image else 2
    width = (WIDTH_IN - 2 * MARGIN_IN - (panels - 1) * GAP_IN) / panels
    _, rows, cols = view.grid.tokens
    frames = len(levels.frames)
    tall = width * rows / cols / frames
    strip = ScheduleStrip(view.plan.step_kind, len(view.plan.step_kind))
    cells = min(0.4 * strip.cols, WIDTH_IN - 2 * MARGIN_IN)  # a few steps do not become huge cells
    strip_tall = cells / strip.cols * ROW_HEIGHT
    foot = CAPTION_IN + strip_tall + TITLE_IN + BAR_IN
    figure.set_size_inches(WIDTH_IN, foot + tall + TITLE_IN)
    axes = [_place(figure, MARGIN_IN + at * (width + GAP_IN), foot, width, tall) for at in range(panels)]
    if image:
        draw_picture(image, axes[0]).set_title("image, with points" if image.markers else "image")
    draw_map(map_panel(view, "complexity_enhanced"), axes[-2]).set_title(f"complexity after {view.plan.policy.warmup} steps")
    draw_levels(levels, axes[-1]).set_title("token levels")
    _name_levels(view, axes[-1], tall)
    draw_schedule(strip, _place(figure, MARGIN_IN, CAPTION_IN, cells, strip_tall)).set_title("what each step computes")
    predicted = view.plan.predicted
    words = f"{view.caption()}; predicted {predicted.compute:.0%} of the FLOPs, FLOP ratio {predicted.flop_ratio:.2f}"
    figure.text(MARGIN_IN / WIDTH_IN, 0.1 / figure.get_figheight(), words, va="bottom", fontsize=6.5, color=MUTED)
    return figure


def render_hero(directory: Path | str, out_png: Path | str) -> Path:
    """Save the README image of an analysis directory as PNG; returns its path. Errors as in `render_analysis`."""
    view, path = read_view(Path(directory)), Path(out_png)
    with styled():
        figure = draw_hero(view, Figure())
        with made_whole(path) as making:
            figure.savefig(making, format="png", dpi=DPI, facecolor="white", metadata={"Title": view.caption(), "Software": None})
    return path


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    wide, tall = figure.get_size_inches()
    return figure.add_axes((left / wide, bottom / tall, width / wide, height / tall))


def _name_levels(view: AnalysisView, ax: Axes, tall_in: float) -> None:
    """The colour key below the levels, with each one's share of the tokens."""
    below = -0.08 / tall_in
    for at, level in enumerate(TokenLevel):
        share = f"{level} {view.tokens_at(level).mean():.0%}"
        ax.text(at / 3, below, "■", transform=ax.transAxes, color=LEVEL_COLOUR[level], va="top", fontsize=9)
        ax.text(at / 3 + 0.045, below, share, transform=ax.transAxes, color=INK, va="top", fontsize=8)
