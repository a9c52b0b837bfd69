"""Map reports: the JANO map at several warm-ups and RAS importance at the same steps, of the same recordings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from ...analysis import token_means
from ...errors import InputError
from ...plan import Policy
from ...recording import open_recording
from ...results.writing import write_arrays, write_json
from ..analysis_files import write_analysis
from ..analyze import AnalysisOptions, analyze
from ..generate import save_frames
from ..run_view import RunView
from .analysis import record_each
from .task import Made, Task

SCHEMA = "janoscope-maps/1"
STEPS = (5, 10, 20, 30, 40)
TARGET = "holding_cost"


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

    spearman: with the holding cost of the full run. with_last: rank correlation with the same map at the last of the steps.
    """
    ras_steps = tuple(step - 1 for step in steps)
    analysis = analyze(recording, policy=policy, options=AnalysisOptions(ras_steps=ras_steps))
    if directory is not None:
        write_analysis(analysis, directory)
    grid = analysis.plan.fingerprint.grid
    cost = analysis.arrays["holding_cost"]
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
