"""Aggregate: several analyses as one, with intervals over recordings; a recording is one case, however many tokens it has."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...results.aggregate import read_one
from ...results.analysis import AGAIN, AGGREGATE_SCHEMA, ID, analysis_id, read_analysis_arrays
from ...results.statistics import LEVEL, RESAMPLES, estimate_of, interval_of_mean
from ...results.verdict import judge_recordings
from ...results.writing import remove, write_arrays, write_json

FEW_RECORDINGS = 5
CURVES = ("curve_x0_distance_quantiles", "curve_velocity_change_quantiles", "curve_raw_change_quantiles")


def aggregate(directories: Sequence[Path]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What several analysis directories say together: (facts of aggregate.json, arrays of aggregate.npz).

    Every figure is the mean over the recordings that have it, with the percentile interval of 2000 bootstrap resamples of whole
    recordings (null for a single one) and their number. Medians of levels are means of each recording's median. Curves (group,
    step) are means of each recording's median token, with `_interval` (bound, group, step), where all have as many steps.

    Raises InputError for a directory without an analysis, or fewer than one.
    """
    if not directories:
        raise InputError("there is no analysis to aggregate; name one recording or more.")
    analyses = [read_one(directory) for directory in directories]
    facts = {
        "schema": AGGREGATE_SCHEMA,
        "recordings": [_recording(directory, found) for directory, found in zip(directories, analyses, strict=True)],
        "method": f"mean over recordings, {LEVEL:.0%} percentile interval of {RESAMPLES} bootstrap resamples of whole recordings",
        "notes": _notes(analyses),
        "map_predicts": _rows(analyses, "map_predicts", ("map", "warmup", "target"), ("spearman", "agreement")),
        "ras_predicts": _rows(analyses, "ras_predicts", ("step", "target"), ("spearman", "agreement")),
        "convergence": {"by_level": _levels(analyses), "whole_run": _measures([a["convergence"]["whole_run"] for a in analyses])},
        "separation": {
            name: estimate_of("auroc", [a["separation"][name]["auroc"] for a in analyses]) for name in ("raw", "converted")
        },
        "predicted": {
            name: estimate_of("mean", [a["predicted"][name] for a in analyses]) for name in ("compute", "speedup", "cache_bytes")
        },
    }
    return facts | {"verdict": _verdict(facts, analyses)}, _curves(directories, analyses)


def write_aggregate(directories: Sequence[Path], directory: Path) -> Path:
    """Aggregate into `directory`: aggregate.json, and aggregate.npz where curves can be compared; gives aggregate.json's path."""
    facts, arrays = aggregate(directories)
    directory.mkdir(parents=True, exist_ok=True)
    made = analysis_id(facts, "", arrays)
    for name in ("aggregate.html", "aggregate.json", "aggregate.npz"):
        remove(directory / name)
    if arrays:
        write_arrays(directory / "aggregate.npz", {**arrays, ID: np.array(made)})
    write_json(directory / "aggregate.json", {**facts, ID: made})
    return directory / "aggregate.json"


def describe_aggregate(facts: Mapping[str, Any]) -> str:
    """Text for people: separation, reuse error by level, and the best maps."""
    lines = [f"{len(facts['recordings'])} recordings, {facts['method']}"]
    for name, words in (("raw", "raw output"), ("converted", "flow velocity")):
        lines.append(f"AUROC of active against static, {words}: {_text(facts['separation'][name], 'auroc')}")
    for level, measures in facts["convergence"]["by_level"].items():
        settled, error = (_text(measures[f"{name}_median"], "mean") for name in ("convergence_step", "reuse_error"))
        lines.append(f"{level:>8}: settles at step {settled}, reuse error {error}")
    rows = [row for row in facts["map_predicts"] if row["target"] == "reuse_error" and row["spearman"] is not None]
    lines += [
        f"map {row['map']} after {row['warmup']} steps -> reuse error: Spearman {_text(row, 'spearman')}"
        for row in sorted(rows, key=lambda row: -row["spearman"])[:3]
    ]
    verdict = [facts["verdict"]["sentence"]] if facts.get("verdict") else []
    return "\n".join([*lines, *(f"note: {note}" for note in facts["notes"]), *verdict])


def _text(estimate: Mapping[str, Any], name: str) -> str:
    if estimate[name] is None:
        return "not defined"
    low, high = estimate["interval"]
    return f"{estimate[name]:.3g}" + ("" if low is None else f" [{low:.3g}, {high:.3g}]")


def _verdict(facts: Mapping[str, Any], analyses: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """The verdict over recordings; None for a single one, and where their levels are cut from different maps."""
    maps = {(a["complexity"]["map"], a["complexity"]["warmup"]) for a in analyses if {"map", "warmup"} <= a["complexity"].keys()}
    if len(analyses) < 2 or len(maps) != 1:
        return None
    name, warmup = maps.pop()
    return judge_recordings(facts["separation"], facts["map_predicts"], name, warmup, len(analyses)).to_json()


def _recording(directory: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    run = facts["run"]
    told = {name: run.get(name) for name in ("model", "prompt", "seed", "steps", "complete")}
    return {"directory": directory.name, "recording": facts["recording"], **told, "policy": facts["complexity"]["policy"]}


def _notes(analyses: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    if 1 < len(analyses) < FEW_RECORDINGS:
        notes.append(
            f"an interval over {len(analyses)} recordings is too narrow more often than it says; take {FEW_RECORDINGS} or more."
        )
    if len(analyses) == 1:
        notes.append("one recording is one case: no interval can be given.")
    kinds = {
        "models": lambda a: str(a["run"]["model"]),
        "policies": lambda a: a["complexity"]["policy"],
        "numbers of steps": lambda a: a["run"]["steps"],
        "token grids": lambda a: str(a["grid"]),
    }
    for words, of in kinds.items():
        if len(found := {of(a) for a in analyses}) > 1:
            notes.append(f"the recordings have {len(found)} {words}; the means run over all of them.")
    cut_short = sum(not a["run"]["complete"] for a in analyses)
    if cut_short:
        notes.append(
            f"{cut_short} of {len(analyses)} recordings were cut short; their convergence is against their own last step."
        )
    return notes


def _rows(
    analyses: Sequence[Mapping[str, Any]], section: str, keys: tuple[str, ...], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """One row a combination of `keys`, in the order in which they come first."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for analysis in analyses:
        for row in analysis[section]:
            found.setdefault(tuple(row[key] for key in keys), []).append(row)
    rows = []
    for place, same in found.items():
        row = dict(zip(keys, place, strict=True))
        for name in names:
            estimate = estimate_of(name, [one[name] for one in same])
            interval = "interval" if name == names[0] else f"{name}_interval"
            row |= {name: estimate[name], interval: estimate["interval"], "recordings": estimate["recordings"]}
        rows.append(row)
    return rows


def _levels(analyses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    levels = analyses[0]["convergence"]["by_level"]
    return {level: _measures([a["convergence"]["by_level"][level] for a in analyses]) for level in levels}


def _measures(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every number of a token group; its tokens add up. Lists (cost by steps held) are taken place by place."""
    result: dict[str, Any] = {"tokens": sum(group["tokens"] for group in groups)}
    for name in groups[0]:
        values: list[Any] = [group.get(name) for group in groups]
        if name == "tokens":
            continue
        if all(isinstance(value, list) for value in values):
            shortest = min(len(value) for value in values)
            result[name] = [estimate_of("mean", [value[at] for value in values]) for at in range(shortest)]
        else:
            result[name] = estimate_of("mean", values)
    return result


def _curves(directories: Sequence[Path], analyses: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    if len({a["run"]["steps"] for a in analyses}) > 1:
        return {}
    quantiles = analyses[0]["curves"]["quantiles"]
    if 0.5 not in quantiles:
        return {}
    middle = quantiles.index(0.5)
    stored = [read_analysis_arrays(directory, facts) for directory, facts in zip(directories, analyses, strict=True)]
    arrays = {}
    for name in CURVES:
        shapes = {found[name].shape if name in found else () for found in stored}
        if len(shapes) > 1 or len(shape := shapes.pop()) != 3 or shape[1] != len(quantiles):
            raise InputError(f"the curves {name} of these analyses cannot be compared: their shapes differ. {AGAIN}")
        medians = np.stack([found[name][:, middle] for found in stored])  # (recording, group, step)
        short = name.removesuffix("_quantiles")
        arrays[short] = medians.mean(axis=0)
        if len(medians) > 1:
            arrays[f"{short}_interval"] = np.stack(interval_of_mean(medians))
    return arrays
