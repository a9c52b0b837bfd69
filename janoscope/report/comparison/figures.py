"""A comparison's figures: quality against FLOPs with a Pareto front for each method, and the images with their errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ...errors import InputError
from ...results.comparison import ComparisonFacts, Means, RunFacts, read_facts
from ...results.images import read_image
from ...results.writing import made_whole
from ..drawable import drawable
from ..drawing.error_scale import POWER, error_map, error_scale
from ..drawing.images import fitted
from ..drawing.style import ERROR_CMAP, INK, MUTED, add_grid, new_figure, styled
from ..drawing.svg import Drawing, to_svg
from ..page import interval, number, write_whole
from .document import comparison_page, mean_words

# they differ in lightness and marker too, so that they can be distinguished in grey
COLOURS = ("#243b63", "#eda128", "#b8436f", "#3d8b7d", "#7a5ea8", "#8b5a2b", "#5c6675", "#a3b54a")
MARKERS = "osD^vPX*"
GUIDANCE = ("guidance_scale", "true_cfg_scale")
PANEL_IN, CELL_PX = 1.45, 256


@dataclass(frozen=True)
class Front:
    """The rows of one method in order of compute. Arrays (row,); low, high: the interval's ends, NaN where unknown.

    on_front, bool: no other row of the method has as much quality for as little compute.
    """

    name: str
    compute: np.ndarray
    quality: np.ndarray
    low: np.ndarray
    high: np.ndarray
    on_front: np.ndarray


def render_comparison(directory: Path | str) -> list[Path]:
    """Write `report.html`, `figures/pareto.svg` and `figures/grid.png` beside a comparison.json; gives their paths.

    Raises InputError where the file is missing or not a comparison.
    """
    directory = Path(directory)
    facts = read_comparison(directory)
    images = {label: image for label, name in facts["pictures"].items() if (image := _image(directory, name)) is not None}
    (directory / "figures").mkdir(exist_ok=True)
    written = []
    with styled():
        drawing = pareto_drawing(facts)
        if drawing is not None:
            written.append(write_whole(directory / "figures" / "pareto.svg", drawing.svg))
        grid = directory / "figures" / "grid.png"
        if len(images) > 1:
            with made_whole(grid) as making:
                grid_figure(images, facts).savefig(making, dpi=200)
            written.append(grid)
    page = comparison_page(facts, caption(facts), drawing, images)
    return [*written, write_whole(directory / "report.html", page)]


def read_comparison(directory: Path) -> ComparisonFacts:
    """The content of a directory's comparison.json, as it can be drawn."""
    return drawable(read_facts(directory))


def fronts_of(facts: ComparisonFacts) -> list[Front]:
    """Mean PSNR against mean compute, the rows of a method that differ in numbers alone joined to a Pareto front."""
    rows: dict[str, list[tuple[float, float, float, float, bool]]] = {}
    for row in facts["rows"]:
        compute, quality = number(row["mean"]["compute"]), number(row["mean"]["psnr"])
        if compute is not None and quality is not None:
            low, high = interval(row["interval"]["psnr"]) or (np.nan, np.nan)
            rows.setdefault(row["front"], []).append((compute, quality, low, high, row.get("on_front", True)))
    return [_front(name, sorted(points)) for name, points in rows.items()]


def _front(name: str, points: Sequence[Sequence[float]]) -> Front:
    compute, psnr, low, high, on_front = np.array(points, dtype=float).T
    return Front(name, compute, psnr, low, high, on_front.astype(bool))


def draw_pareto(fronts: Sequence[Front], ax: Axes) -> Axes:
    """PSNR against FLOPs; up and to the left is better. A line joins a method's Pareto front; bars are intervals of the means."""
    for index, front in enumerate(fronts):
        # no pair of the two comes twice in 64 methods
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
        has_interval = np.isfinite(front.low)
        if has_interval.any():
            ends = np.stack([front.quality - front.low, front.high - front.quality])[:, has_interval]
            x, y = front.compute[has_interval], front.quality[has_interval]
            ax.errorbar(x, y, ends, fmt="none", ecolor=colour, alpha=0.4, linewidth=1)
        best = front.on_front
        ax.plot(front.compute[best], front.quality[best], color=colour, marker=marker, markersize=4.5, label=_broken(front.name))
        ax.plot(front.compute[~best], front.quality[~best], color=colour, marker=marker, markersize=3, linestyle="", alpha=0.5)
    ax.set_xlabel("FLOPs, share of the full run")
    ax.set_ylabel("PSNR against the full run (dB)")
    add_grid(ax, "both")
    ax.legend(fontsize=6.5, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def _broken(name: str, longest: int = 34) -> str:
    """A name in lines for the legend, broken before a comma's next option."""
    lines = [""]
    for part in name.replace(",", ",\0").split("\0"):
        if lines[-1] and len(lines[-1] + part) > longest:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def pareto_drawing(facts: ComparisonFacts) -> Drawing | None:
    """The plot as a drawing; None where no row has both compute and PSNR."""
    fronts = fronts_of(facts)
    if not fronts:
        return None
    figure, ax = new_figure(7.4, max(3.6, 0.22 * len(fronts) + 0.6))
    draw_pareto(fronts, ax)
    title = "PSNR against FLOPs, and each method's Pareto front"
    alt = "; ".join(f"{front.name}: {_front_words(front)}" for front in fronts)
    return Drawing("pareto", title, alt, to_svg(figure, title, caption(facts)), is_wide=True)


def _front_words(front: Front) -> str:
    return ", ".join(f"{psnr:.1f} dB at {compute:.0%}" for compute, psnr in zip(front.compute, front.quality, strict=True))


def caption(facts: ComparisonFacts) -> str:
    """Model, steps, size, guidance, prompts, seeds and device of a comparison."""
    runs: list[RunFacts] = next((row["runs"] for row in facts["rows"] if row["runs"]), [])
    prompts, seeds = {run["prompt"] for run in runs}, {run["seed"] for run in runs}
    steps = facts["steps"] or "default"
    call = facts.get("call", {})
    size = f", {call['width']} x {call['height']} pixels" if "width" in call and "height" in call else ""
    guidance = "".join(f", {key} {value:g}" for key, value in call.items() if key in GUIDANCE and isinstance(value, int | float))
    runs_of = f"{len(prompts)} prompt{'s' * (len(prompts) != 1)} x {len(seeds)} seed{'s' * (len(seeds) != 1)}"
    return f"{facts['model']}, {steps} steps{size}{guidance}, {runs_of}, {facts['dtype']} on {facts['device']}"


def grid_figure(images: Mapping[str, np.ndarray], facts: ComparisonFacts) -> Figure:
    """A column a method: its image (of a video a strip), and under it where it differs from the first, the full run."""
    frames = {label: fitted(strip(image), CELL_PX * (1 if len(image) == 1 else 3)) for label, image in images.items()}
    reference = next(iter(frames.values()))
    errors = [error_map(reference[None], frame[None])[0] for frame in frames.values()]
    most = error_scale(errors)
    means = {row["label"]: row["mean"] for row in facts["rows"]}
    width = PANEL_IN * (1 if len(next(iter(images.values()))) == 1 else 3)
    per_row = min(len(frames), round(6 * PANEL_IN / width))
    bands = -(-len(frames) // per_row)
    height = width * reference.shape[0] / reference.shape[1]
    figure = Figure(figsize=(per_row * width, bands * (2 * height + 0.55) + 0.35), layout="constrained")
    axes = figure.subplots(2 * bands, per_row, squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    for index, ((label, frame), error) in enumerate(zip(frames.items(), errors, strict=True)):
        band, column = divmod(index, per_row)
        axes[2 * band, column].imshow(frame)
        axes[2 * band, column].set_title(_words(label, means.get(label)), fontsize=5.5, color=INK)
        shown = axes[2 * band + 1, column].imshow(error, cmap=ERROR_CMAP, norm=PowerNorm(POWER, 0, most))
    bar = figure.colorbar(shown, ax=axes, orientation="horizontal", fraction=0.03, aspect=60, extend="max")
    bar.set_label("mean absolute difference to the full run (0..255)", color=MUTED)
    return figure


def strip(image: np.ndarray) -> np.ndarray:
    """An image (row, col, 3), or the first, middle and last frame of a video side by side."""
    if len(image) == 1:
        return np.asarray(image[0])
    return np.concatenate([image[0], image[len(image) // 2], image[-1]], axis=1)


def _words(label: str, mean: Means | None) -> str:
    name = label if len(label) < 27 else label[:12] + "…" + label[-13:]
    return f"{name}\n{', '.join(mean_words(mean))}"


def _image(directory: Path, name: str) -> np.ndarray | None:
    path = directory / "pictures" / Path(name).name  # the name only: a path in a file that someone sent could point anywhere
    try:
        return read_image(path) if path.is_file() else None
    except InputError:  # the page is drawn without it; `compare --resume` makes it again
        return None
