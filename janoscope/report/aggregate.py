"""The page of several analyses together: how tokens converge and how well maps predict, with intervals over recordings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from ..plan import TokenLevel
from ..results.aggregate import AggregateFacts, read_stored
from .analysis.view import verdict_of
from .drawable import drawable
from .drawing.curves import fill_band, log_axis, step_axis
from .drawing.style import INK, LEVEL_COLOUR, add_grid, new_figure, styled
from .drawing.svg import Drawing, to_svg
from .page import Cell, Table, count, environment, figure, number, remove_stale, sentence, span, text_asset, write_whole

PREDICTED = {"compute": "FLOPs, share of full", "speedup": "FLOP ratio"}
FIGURES = "aggregate-figures"  # a directory of its own: an analysis may lie in the same place
GROUPS = (*(level.value for level in TokenLevel), "all")
GROUP_COLOUR = {level.value: LEVEL_COLOUR[level] for level in TokenLevel} | {"all": INK}
SIZE_IN = (4.2, 2.5)
# name in aggregate.npz, title, axis label, step of its first value
CURVES = (
    ("curve_x0_distance", "Distance of x0 to its last estimate", "rms distance (latent units)", 0),
    ("curve_velocity_change", "Change of the flow velocity", "relative change per step", 1),
    ("curve_raw_change", "Change of the raw output", "rms change per step", 1),
)


@dataclass(frozen=True)
class MeanCurves:
    """values: (group, step), means over recordings. interval: (bound, group, step), None for one recording."""

    values: np.ndarray
    interval: np.ndarray | None
    quantity: str
    first_step: int


def render_aggregate(directory: Path | str) -> Path:
    """Write `aggregate.html` and `aggregate-figures/*.svg` beside an aggregate.json; gives the page's path.

    Raises InputError where a file is missing, damaged or of another kind.
    """
    directory = Path(directory)
    facts, arrays = read_aggregate(directory)
    with styled():
        drawings = list(curve_drawings(facts, arrays))
    folder = directory / FIGURES
    if drawings:
        folder.mkdir(exist_ok=True)
    for drawing in drawings:
        write_whole(folder / f"{drawing.name}.svg", drawing.svg)
    remove_stale(folder, [drawing.name for drawing in drawings])
    text = environment().get_template("aggregate.html.j2").render(
        facts=facts,
        verdict=verdict_of(facts),
        warnings=[sentence(note) for note in facts["notes"]],
        drawings=drawings,
        tables={table.name: table for table in aggregate_tables(facts)},
        caption=caption(facts),
        style=text_asset("report.css"),
        script=text_asset("report.js"),
    )  # fmt: skip
    return write_whole(directory / "aggregate.html", text)


def read_aggregate(directory: Path) -> tuple[AggregateFacts, dict[str, np.ndarray]]:
    """aggregate.json, and the arrays of aggregate.npz; none where the recordings' curves cannot be compared."""
    facts, arrays = read_stored(directory)
    return drawable(facts), arrays


def curve_drawings(facts: AggregateFacts, arrays: Mapping[str, np.ndarray]) -> Iterator[Drawing]:
    """A figure a curve that the aggregate holds."""
    for name, title, quantity, first in CURVES:
        if name not in arrays:
            continue
        data = MeanCurves(arrays[name], arrays.get(f"{name}_interval"), quantity, first)
        drawn, ax = new_figure(*SIZE_IN)
        draw_mean_curves(data, ax)
        words = "with 95 % intervals over recordings" if data.interval is not None else "of one recording, without interval"
        alt = f"{title} over the steps: median token of each level and of all, mean over recordings, {words}."
        yield Drawing(name, title, alt, to_svg(drawn, title, caption(facts)))


def draw_mean_curves(data: MeanCurves, ax: Axes) -> Axes:
    """A line a group, its interval as a band, on a log scale; groups without tokens are left out."""
    steps = data.first_step + np.arange(data.values.shape[1])
    for at, group in enumerate(GROUPS):
        if not np.isfinite(data.values[at]).any():
            continue
        colour, dashes = GROUP_COLOUR[group], "-" if group != "all" else (0, (1.2, 1.4))
        if data.interval is not None and group != "all":
            low, high = data.interval[:, at]
            fill_band(steps, low, high, colour, ax)
        ax.plot(steps, data.values[at], color=colour, linestyle=dashes, label=group)
    log_axis(data.values, ax)
    ax.set_ylabel(data.quantity)
    step_axis(ax, 0, int(steps[-1]) + 1)
    add_grid(ax)
    ax.legend(
        frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, handlelength=1.4, columnspacing=1.2
    )
    return ax


def caption(facts: AggregateFacts) -> str:
    """Models, policies and the number of recordings."""
    columns = zip(*((row.get("model"), row.get("policy"), row.get("steps")) for row in facts["recordings"]), strict=True)
    models, policies, steps = (", ".join(dict.fromkeys(map(str, column))) for column in columns)
    return f"{models}, {steps} steps, policy {policies}, {len(facts['recordings'])} recordings; janoscope"


def aggregate_tables(facts: AggregateFacts) -> list[Table]:
    makers = (recording_table, separation_table, level_table, predicted_table)
    predictions = (prediction_table(facts, "map_predicts", ("map", "warmup")), prediction_table(facts, "ras_predicts", ("step",)))
    return [*(maker(facts) for maker in makers), *predictions]


def recording_table(facts: AggregateFacts) -> Table:
    names = ("recording", "model", "prompt", "seed", "steps", "policy")
    recordings: Sequence[Mapping[str, object]] = facts["recordings"]
    rows = [[Cell("–" if row.get(name) is None else str(row[name]), number(row.get(name))) for name in names]
            for row in recordings]  # fmt: skip
    return Table("recordings", "Recordings", names, rows)


def separation_table(facts: AggregateFacts) -> Table:
    separation = facts["separation"]
    signals = (("raw model output", separation["raw"]), ("flow velocity", separation["converted"]))
    rows = [[Cell(words), *_estimate(estimate, "auroc")] for words, estimate in signals]
    return Table("separation", "Active against static tokens", ("signal", "AUROC", "95% interval", "recordings"), rows)


def level_table(facts: AggregateFacts) -> Table:
    """When the median token of each level settles, and its reuse error."""
    by_level = facts["convergence"]["by_level"]
    levels = {"static": by_level["static"], "moderate": by_level["moderate"], "active": by_level["active"],
              "all": facts["convergence"]["whole_run"]}  # fmt: skip
    rows = [
        [Cell(name, at, GROUP_COLOUR[name]), count(levels[name]["tokens"]),
         *_estimate(levels[name]["convergence_step_median"], "mean")[:2],
         *_estimate(levels[name]["velocity_convergence_step_median"], "mean")[:2],
         *_estimate(levels[name]["reuse_error_median"], "mean")[:2]]
        for at, name in enumerate(GROUPS)
    ]  # fmt: skip
    heads = ("level", "tokens", "x0 converges at", "interval", "velocity converges at", "interval", "reuse error", "interval")
    return Table("levels", "Median token of each level, mean over recordings; 95% intervals", heads, rows)


def predicted_table(facts: AggregateFacts) -> Table:
    means: dict[str, Mapping[str, object]] = {}
    for name, estimate in facts["predicted"].items():
        if name == "cache_bytes":
            ends = [_mib(end) for end in estimate["interval"] or ()]
            means["cache (MiB)"] = {**estimate, "mean": _mib(estimate["mean"]), "interval": ends or None}
        else:
            means[PREDICTED.get(name, name)] = estimate
    rows = [[Cell(name), *_estimate(estimate, "mean")] for name, estimate in means.items()]
    return Table("predicted", "Predictions of the plans", ("quantity", "mean", "95% interval", "recordings"), rows)


def _mib(count: float | None) -> float | None:
    return None if count is None else count / 2**20


def prediction_table(facts: AggregateFacts, section: Literal["map_predicts", "ras_predicts"], keys: Sequence[str]) -> Table:
    """How well each early map predicts the outcomes, as in an analysis, with intervals over recordings."""
    stored: Sequence[Mapping[str, object]] = facts[section]
    rows = [
        [*(figure(row[key], "g") if key != "map" else Cell(str(row[key])) for key in keys),
         Cell(str(row["target"]).replace("_", " ")), figure(row["spearman"], ".2f"), span(row["interval"]),
         figure(row["agreement"], ".0%"), span(row["agreement_interval"], ".0%"), figure(row["recordings"], "g")]
        for row in stored
    ]  # fmt: skip
    title = "Prediction by each map" if section == "map_predicts" else "RAS importance, negated, at steps over the run"
    heads = [*(key.replace("warmup", "warm-up") for key in keys), "outcome", "Spearman", "interval", "same class", "interval"]
    return Table(section.replace("_", "-"), f"{title}; 95% intervals", [*heads, "recordings"], rows)


def _estimate(estimate: Mapping[str, object], name: str) -> tuple[Cell, Cell, Cell]:
    """A mean, its interval, and how many recordings have it."""
    return figure(estimate.get(name)), span(estimate.get("interval"), ".3g"), figure(estimate.get("recordings", 0), "g")
