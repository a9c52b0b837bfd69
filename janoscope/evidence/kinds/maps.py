"""Map reports: the JANO map at several warm-ups and RAS importance at the same steps, of the same recordings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TypedDict

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
from ...results.files import read_arrays, read_json
from ...results.images import read_image, save_frames
from ...results.writing import write_arrays, write_json
from ...workflows.analyze.recording import AnalysisOptions, analyze
from ...workflows.analyze.trajectory import RunView
from ..page import NOT_MEASURED, Figures, Section, SubjectResults, table
from ..provenance import AGAIN, Extra
from ..recipe import Recipe
from ..task import Task
from .analysis import record_each

PANEL_IN = 1.35
MAPS = {"jano": "JANO", "ras": "RAS"}
FILE, ARRAYS = "maps.json", "maps.npz"
SCHEMA = "janoscope-maps/2"
STEPS = (5, 10, 20, 30, 40)
TARGET = "reuse_error"


class Agreement(TypedDict):
    """Rank correlations of a map at each step: with the reuse error of the full run, and with the same map at the last step."""

    spearman: list[float | None]
    with_last: list[float | None]


class RunFacts(TypedDict):
    """A recording: its image's file name, and the steps after which the maps were made."""

    picture: str
    steps: list[int]
    jano: Agreement
    ras: Agreement
    prompt: str
    seed: int


class MapsFacts(TypedDict):
    """maps.json."""

    schema: str
    target: str
    runs: list[RunFacts]


def make(task: Task) -> Extra:
    """maps.json with what the maps agree with, maps.npz with the maps, and the analysis of the first call with its image.

    The recipe's `steps` are the warm-ups of the JANO maps; RAS importance is that of the warm-up's last step, so that both have
    seen as much.
    """
    steps = [int(step) for step in task.recipe.settings.get("steps", STEPS)]
    policy, runs, analyses = task.policy(), list[RunFacts](), list[str]()
    arrays: dict[str, np.ndarray] = {}

    def measure(recording: Path, image: np.ndarray | None) -> None:
        call = task.calls[len(runs)]
        planned = call.steps
        seen = [step for step in steps if planned is None or step <= planned - policy.cooldown]
        if not seen:
            raise InputError(f"{task.recipe.slug}: no step of {steps} lies within a run of {planned} steps.")
        directory = task.folder / recording.stem
        first, index = not runs, len(runs)
        agreement, jano, ras = _maps(recording, policy, seen, directory if first else None)
        runs.append(
            {
                "picture": f"{directory.name}.png",
                "steps": seen,
                "jano": agreement["jano"],
                "ras": agreement["ras"],
                "prompt": call.prompt,
                "seed": call.seed,
            }
        )
        arrays.update({f"jano_{index}": jano, f"ras_{index}": ras})
        if image is not None:
            save_frames(image, task.folder / f"{directory.name}.png")
            if first:
                save_frames(image, directory / f"{directory.name}.png")
        if first:
            analyses.append(directory.name)

    recordings = record_each(task, measure)
    write_json(task.folder / FILE, {"schema": SCHEMA, "target": TARGET, "runs": runs})
    write_arrays(task.folder / ARRAYS, arrays)
    return {"policy": policy.name, "kept": analyses, "recordings": recordings}


def _maps(
    recording: Path, policy: Policy, steps: list[int], directory: Path | None
) -> tuple[dict[str, Agreement], np.ndarray, np.ndarray]:
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


def _agreement(maps: list[np.ndarray], cost: np.ndarray, sign: int) -> Agreement:
    """sign: -1 for RAS, which computes tokens of low importance."""
    return {
        "spearman": [_rank_correlation(sign * values, cost) for values in maps],
        "with_last": [_rank_correlation(values, maps[-1]) for values in maps],
    }


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    finite = np.isfinite(first) & np.isfinite(second)
    if np.ptp(first[finite]) == 0 or np.ptp(second[finite]) == 0:
        return None
    return round(float(spearmanr(first[finite], second[finite]).statistic), 6)


def _middle(maps: list[np.ndarray], tokens: tuple[int, int, int]) -> np.ndarray:
    return np.stack([values.reshape(tokens)[tokens[0] // 2] for values in maps]).astype(np.float32)


def draw(recipe: Recipe, results: SubjectResults, figures: Figures) -> Section:
    """A figure a prompt and one table over all; of the first run the image that the README shows."""
    facts: MapsFacts = read_json(results.folder / FILE, MapsFacts, "maps", AGAIN)
    arrays = read_arrays(results.folder / ARRAYS, "arrays of", AGAIN)
    runs, blocks = facts["runs"], []
    for index, run in enumerate(runs):
        path = results.folder / run["picture"]
        frame = read_image(path) if path.is_file() else None
        maps = {kind: arrays[f"{kind}_{index}"] for kind in MAPS}
        drawn = maps_figure(run, maps, None if frame is None else frame[len(frame) // 2])
        steps = ", ".join(map(str, run["steps"]))
        alt = f"{run['prompt']}: JANO maps after {steps} steps above, RAS importance at the same steps below"
        blocks += [f"{run['prompt']}, seed {run['seed']}:", figures.png(drawn, f"{results.name}-{index}", alt)]
    blocks += [_words(), _table(runs)]
    for name in results.provenance.get("kept", []):
        path = render_hero(results.folder / name, figures.path(f"{results.name}-plan.png"))
        blocks += ["The first run's plan:", f"![Image, complexity map, token levels and step schedule](figures/{path.name})"]
    return Section(_result(runs), blocks)


def maps_figure(run: RunFacts, maps: Mapping[str, np.ndarray], image: np.ndarray | None) -> Figure:
    """The image, then a column a step: the JANO map above, RAS importance below, each on its own scale since order counts.

    maps: (step, row, col) of tokens by kind.
    """
    steps = run["steps"]
    figure = Figure(figsize=((len(steps) + 1) * PANEL_IN, 2 * PANEL_IN + 0.5), layout="constrained")
    axes = figure.subplots(2, len(steps) + 1, squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    if image is not None:
        axes[0, 0].imshow(image)
        axes[0, 0].set_title("image")
    agreements = {"jano": run["jano"], "ras": run["ras"]}
    for row, (kind, words) in enumerate(MAPS.items()):
        for at, (step, values) in enumerate(zip(steps, maps[kind], strict=True)):
            title = f"{words}, {step} steps" if row == 0 else f"{words}, step {step - 1}"
            draw_score(values, axes[row, at + 1]).set_title(title, fontsize=7)
            rank = number(agreements[kind]["spearman"][at])
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
        "Under each map, and in the table's first columns: Spearman with the token's reuse error over the whole run (RAS "
        "negated, since it computes tokens of low spread). `with last`: rank correlation with the same map at the last of these "
        "steps: how far the regions have come early, or drift. Means over the prompts; smallest and largest in brackets."
    )


def _table(runs: Sequence[RunFacts]) -> str:
    rows = []
    for at, step in enumerate(runs[0]["steps"]):
        errors = [[run["jano"]["spearman"][at] for run in runs], [run["ras"]["spearman"][at] for run in runs]]
        last = [[run["jano"]["with_last"][at] for run in runs], [run["ras"]["with_last"][at] for run in runs]]
        rows.append([str(step), *map(_spread, [*errors, *last])])
    heads = ["steps seen", *(f"{words}: {what}" for what in ("reuse error", "with last") for words in MAPS.values())]
    return table(heads, rows)


def _spread(values: Sequence[float | None]) -> str:
    finite = [figure for value in values if (figure := number(value)) is not None]
    if not finite:
        return NOT_MEASURED
    return f"{fmean(finite):+.2f} [{min(finite):+.2f}, {max(finite):+.2f}]" if len(finite) > 1 else f"{finite[0]:+.2f}"


def _result(runs: Sequence[RunFacts]) -> str:
    first, last = runs[0]["steps"][0], runs[0]["steps"][-1]
    jano, ras = [run["jano"] for run in runs], [run["ras"] for run in runs]
    errors = [_mean([agreement["spearman"][0] for agreement in agreements]) for agreements in (jano, ras)]
    with_last = [_mean([agreement["with_last"][0] for agreement in agreements]) for agreements in (jano, ras)]
    return (
        f"after {first} steps the JANO map's rank correlation with the reuse error is {errors[0]}, RAS's {errors[1]}; "
        f"with the same map at step {last} it is {with_last[0]} and {with_last[1]}."
    )


def _mean(values: Sequence[float | None]) -> str:
    finite = [figure for value in values if (figure := number(value)) is not None]
    return f"{fmean(finite):+.2f}" if finite else NOT_MEASURED
