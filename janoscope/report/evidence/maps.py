"""JANO maps and RAS importance at the same steps, side by side, with what each agrees with (supplementary, figure 3)."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...errors import InputError
from ...study.recipe import Recipe
from ..hero import render_hero
from ..pictures import read_picture
from ..results import number
from ..style import MUTED, SCORE_CMAP, UNKNOWN
from .page import NOT_MEASURED, Figures, Section, Shown, table

PANEL_IN = 1.35
KINDS = {"jano": "JANO", "ras": "RAS"}


def draw(recipe: Recipe, shown: Shown, figures: Figures) -> Section:
    """A figure a prompt and one table over all; of the first run the picture that the README shows."""
    path = shown.folder / "maps.json"
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read: {error}. Make the results again with --remake.") from error
    blocks = []
    for index, run in enumerate(runs):
        picture = shown.folder / run["picture"]
        frame = read_picture(picture) if picture.is_file() else None
        maps = {kind: arrays[f"{kind}_{index}"] for kind in KINDS}
        drawn = maps_figure(run, maps, None if frame is None else frame[len(frame) // 2])
        steps = ", ".join(map(str, run["steps"]))
        alt = f"{run['prompt']}: JANO maps after {steps} steps above, RAS importance at the same steps below"
        blocks += [f"{run['prompt']}, seed {run['seed']}:", figures.png(drawn, f"{shown.name}-{index}", alt)]
    blocks += [_words(), _table(runs)]
    for name in shown.made.get("kept", []):
        path = render_hero(shown.folder / name, figures.path(f"{shown.name}-plan.png"))
        blocks += ["The first run's plan:", f"![Picture, complexity map, token levels and step ladder](figures/{path.name})"]
    return Section(_found(runs), blocks)


def maps_figure(run: Mapping[str, Any], maps: Mapping[str, np.ndarray], picture: np.ndarray | None) -> Figure:
    """The picture, then a column a step: the JANO map above, RAS importance below, each on its own scale since order counts.

    maps: (step, row, col) of tokens by kind.
    """
    steps = run["steps"]
    figure = Figure(figsize=((len(steps) + 1) * PANEL_IN, 2 * PANEL_IN + 0.5), layout="constrained")
    axes = figure.subplots(2, len(steps) + 1, squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    if picture is not None:
        axes[0, 0].imshow(picture)
        axes[0, 0].set_title("picture")
    for row, (kind, words) in enumerate(KINDS.items()):
        for at, (step, values) in enumerate(zip(steps, maps[kind], strict=True)):
            title = f"{words}, {step} steps" if row == 0 else f"{words}, step {step - 1}"
            draw_score(values, axes[row, at + 1]).set_title(title, fontsize=7)
            rank = number(run[kind]["spearman"][at])
            words_below = "–" if rank is None else f"{rank:+.2f}"
            axes[row, at + 1].text(0.5, -0.04, words_below, transform=axes[row, at + 1].transAxes, ha="center", va="top",
                                   fontsize=7, color=MUTED)  # fmt: skip
    return figure


def draw_score(values: np.ndarray, ax: Axes) -> Axes:
    """A map (row, col) of tokens as colour, from its least to its largest; values that are not finite are grey."""
    cmap = matplotlib.colormaps[SCORE_CMAP].with_extremes(bad=UNKNOWN)
    ax.imshow(np.ma.masked_invalid(values), cmap=cmap, interpolation="none")
    return ax


def _words() -> str:
    return (
        "Under each map, and in the table's first columns: Spearman with what holding a token costs over the whole run (RAS "
        "negated, since it computes tokens of low spread). `with last`: rank correlation with the same map at the last of these "
        "steps: how far the regions have come early, or drift. Means over the prompts; smallest and largest in brackets."
    )


def _table(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for at, step in enumerate(runs[0]["steps"]):
        cells = [_spread([run[kind][name][at] for run in runs]) for name in ("spearman", "with_last") for kind in KINDS]
        rows.append([str(step), *cells])
    heads = ["steps seen", *(f"{words}: {what}" for what in ("holding cost", "with last") for words in KINDS.values())]
    return table(heads, rows)


def _spread(values: Sequence[Any]) -> str:
    known = [found for one in values if (found := number(one)) is not None]
    if not known:
        return NOT_MEASURED
    return f"{fmean(known):+.2f} [{min(known):+.2f}, {max(known):+.2f}]" if len(known) > 1 else f"{known[0]:+.2f}"


def _found(runs: Sequence[Mapping[str, Any]]) -> str:
    first = runs[0]["steps"][0]
    costs = {kind: _mean([run[kind]["spearman"][0] for run in runs]) for kind in KINDS}
    last = {kind: _mean([run[kind]["with_last"][0] for run in runs]) for kind in KINDS}
    return (
        f"after {first} steps the JANO map's rank correlation with the holding cost is {costs['jano']}, RAS's {costs['ras']}; "
        f"with the same map at step {runs[0]['steps'][-1]} it is {last['jano']} and {last['ras']}."
    )


def _mean(values: Sequence[Any]) -> str:
    known = [found for one in values if (found := number(one)) is not None]
    return f"{fmean(known):+.2f}" if known else NOT_MEASURED
