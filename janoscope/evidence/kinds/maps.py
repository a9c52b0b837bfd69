"""Map reports: the JANO map at several warm-ups and RAS importance at the same steps, of the same recordings."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from ...analysis import token_means
from ...errors import InputError
from ...plan import Policy
from ...recording import open_recording
from ...report.analysis.overview import render_hero
from ...report.drawing.style import MUTED, SCORE_CMAP, UNKNOWN
from ...report.page import number
from ...results.images import read_image, save_frames
from ...results.writing import write_arrays, write_json
from ...workflows.analyze.recording import AnalysisOptions, analyze
from ...workflows.analyze.trajectory import RunView
from ..page import NOT_MEASURED, Figures, Section, Shown, table
from ..recipe import Recipe
from ..task import Made, Task
from .analysis import record_each

PANEL_IN = 1.35
KINDS = {"jano": "JANO", "ras": "RAS"}


SCHEMA = "janoscope-maps/2"
STEPS = (5, 10, 20, 30, 40)
TARGET = "reuse_error"


def make(task: Task) -> Made:
    """maps.json with what the maps agree with, maps.npz with the maps, and the analysis of the first call with its picture.

    The recipe's `steps` are the warm-ups of the JANO maps; RAS importance is that of the warm-up's last step, so that both have
    seen as much.
    """
    steps = [int(step) for step in task.recipe.settings.get("steps", STEPS)]
    policy, runs, kept = task.policy(), list[dict[str, Any]](), list[str]()
    arrays: dict[str, np.ndarray] = {}

    def measure(recording: Path, picture: Any) -> None:
        planned = task.calls[len(runs)].steps
        seen = [step for step in steps if planned is None or step <= planned - policy.cooldown]
        if not seen:
            raise InputError(f"{task.recipe.slug}: no step of {steps} lies within a run of {planned} steps.")
        directory = task.folder / recording.stem
        first, index = not runs, len(runs)
        facts, jano, ras = _maps(recording, policy, seen, directory if first else None)
        runs.append({"picture": f"{directory.name}.png", "steps": seen, **facts})
        arrays.update({f"jano_{index}": jano, f"ras_{index}": ras})
        if picture is not None:
            save_frames(picture, task.folder / f"{directory.name}.png")
            if first:
                save_frames(picture, directory / f"{directory.name}.png")
        if first:
            kept.append(directory.name)

    recordings = record_each(task, measure)
    for run, noted in zip(runs, recordings, strict=True):
        run |= {"prompt": noted["prompt"], "seed": noted["seed"]}
    write_json(task.folder / "maps.json", {"schema": SCHEMA, "target": TARGET, "runs": runs})
    write_arrays(task.folder / "maps.npz", arrays)
    return {"policy": policy.name, "kept": kept, "recordings": recordings}


def _maps(
    recording: Path, policy: Policy, steps: list[int], directory: Path | None
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """What the maps agree with over all tokens, and both kinds of map of the middle frame, (step, row, col) of tokens.

    spearman: with the reuse error of the full run. with_last: rank correlation with the same map at the last of the steps.
    """
    ras_steps = tuple(step - 1 for step in steps)
    analysis = analyze(recording, policy=policy, options=AnalysisOptions(ras_steps=ras_steps))
    if directory is not None:
        analysis.save(directory)
    grid = analysis.plan.fingerprint.grid
    cost = analysis.arrays["reuse_error"]
    with open_recording(recording) as opened:
        view = RunView(opened)
        complexities = [view.complexity(replace(policy, warmup=step)) for step in steps]
    jano = [np.asarray(token_means(complexity.enhanced, grid, policy.tile)) for complexity in complexities]
    at = {int(step): index for index, step in enumerate(analysis.arrays["ras_steps"])}
    ras = [analysis.arrays["ras_importance_steps"][at[step]] for step in ras_steps]
    facts = {"jano": _agreement(jano, cost, sign=1), "ras": _agreement(ras, cost, sign=-1)}
    return facts, _middle(jano, grid.tokens), _middle(ras, grid.tokens)


def _agreement(maps: list[np.ndarray], cost: np.ndarray, sign: int) -> dict[str, list[float | None]]:
    """sign: -1 for RAS, which computes tokens of low importance."""
    return {
        "spearman": [_rank_correlation(sign * values, cost) for values in maps],
        "with_last": [_rank_correlation(values, maps[-1]) for values in maps],
    }


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    known = np.isfinite(first) & np.isfinite(second)
    if np.ptp(first[known]) == 0 or np.ptp(second[known]) == 0:
        return None
    return round(float(spearmanr(first[known], second[known]).statistic), 6)


def _middle(maps: list[np.ndarray], tokens: tuple[int, int, int]) -> np.ndarray:
    return np.stack([values.reshape(tokens)[tokens[0] // 2] for values in maps]).astype(np.float32)


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
        frame = read_image(picture) if picture.is_file() else None
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
        "Under each map, and in the table's first columns: Spearman with the reuse error over the whole run (RAS "
        "negated, since it computes tokens of low spread). `with last`: rank correlation with the same map at the last of these "
        "steps: how far the regions have come early, or drift. Means over the prompts; smallest and largest in brackets."
    )


def _table(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for at, step in enumerate(runs[0]["steps"]):
        cells = [_spread([run[kind][name][at] for run in runs]) for name in ("spearman", "with_last") for kind in KINDS]
        rows.append([str(step), *cells])
    heads = ["steps seen", *(f"{words}: {what}" for what in ("reuse error", "with last") for words in KINDS.values())]
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
        f"after {first} steps the JANO map's rank correlation with the reuse error is {costs['jano']}, RAS's {costs['ras']}; "
        f"with the same map at step {runs[0]['steps'][-1]} it is {last['jano']} and {last['ras']}."
    )


def _mean(values: Sequence[Any]) -> str:
    known = [found for one in values if (found := number(one)) is not None]
    return f"{fmean(known):+.2f}" if known else NOT_MEASURED
