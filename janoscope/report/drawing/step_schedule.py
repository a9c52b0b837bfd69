"""The step schedule: one cell a step, in the colour and with the letter of what is computed there."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ...plan import StepKind
from ...plan.schedule import LETTERS
from .style import DARK_KINDS, INK, KIND_COLOUR, MUTED

GAP = 0.1  # between cells, in steps
ROW_HEIGHT = 1.75  # of a row of cells with its step numbers, in cells


@dataclass(frozen=True)
class ScheduleStrip:
    """kinds: one a step. per_row: cells in a row, so that long runs stay readable on a narrow page."""

    kinds: Sequence[StepKind]
    per_row: int = 25

    @property
    def rows(self) -> int:
        return -(-len(self.kinds) // self.per_row)

    @property
    def cols(self) -> int:
        return min(len(self.kinds), self.per_row)


def draw_schedule(data: ScheduleStrip, ax: Axes) -> Axes:
    """Cells from left to right, numbered from 0; W warm-up, R refresh, m moderate, a active, . reuse, C cool-down."""
    for step, kind in enumerate(data.kinds):
        row, col = divmod(step, data.per_row)
        x, y = col + GAP / 2, row * ROW_HEIGHT
        edge = MUTED if kind is StepKind.REUSE else "none"
        ax.add_patch(
            Rectangle((x, y), 1 - GAP, 1, facecolor=KIND_COLOUR[kind], edgecolor=edge, linewidth=0.6, gid=f"step-{step}")
        )
        ink = "white" if kind in DARK_KINDS else INK
        ax.text(col + 0.5, y + 0.5, LETTERS[kind], ha="center", va="center_baseline", color=ink, fontweight="bold")
        if step % 5 == 0 or step == len(data.kinds) - 1:
            ax.text(col + 0.5, y + 1.12, str(step), ha="center", va="top", color=MUTED, fontsize=6.5)
    ax.set(xlim=(0, data.cols), ylim=(data.rows * ROW_HEIGHT, -0.05), aspect="equal", anchor="NW")
    ax.axis("off")
    return ax
