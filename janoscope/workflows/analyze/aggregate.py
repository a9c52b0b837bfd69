"""Aggregate: several analyses as one, with intervals over recordings; a recording is one case, however many tokens it has."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np

from ...errors import InputError
from ...results.aggregate import AggregateFacts, One, OneLevel, read_one
from ...results.analysis import AGAIN, AGGREGATE_SCHEMA, ID, analysis_id, read_analysis_arrays
from ...results.statistics import LEVEL, RESAMPLES, estimate_of, interval_of_mean
from ...results.verdict import judge_recordings
from ...results.writing import remove, write_arrays, write_json

FEW_RECORDINGS = 5
CURVES = ("curve_x0_distance_quantiles", "curve_velocity_change_quantiles", "curve_raw_change_quantiles")


def aggregate(directories: Sequence[Path]) -> tuple[AggregateFacts, dict[str, np.ndarray]]:
    """What several analysis directories say together: (facts of aggregate.json, arrays of aggregate.npz).

    Every figure is the mean over the recordings that have it, with the percentile interval of 2000 bootstrap resamples of whole
    recordings (null for a single one) and their number. Medians of levels are means of each recording's median. Curves (group,
    step) are means of each recording's median token, with `_interval` (bound, group, step), where all have as many steps.

    Raises InputError for a directory without an analysis, or fewer than one.
    """
    if not directories:
        raise InputError("there is no analysis to aggregate; name one recording or more.")
    analyses = [read_one(directory) for directory in directories]
    separation = {
        "raw": estimate_of("auroc", [a["separation"]["raw"]["auroc"] for a in analyses]),
        "converted": estimate_of("auroc", [a["separation"]["converted"]["auroc"] for a in analyses]),
    }
    map_predicts = _rows(analyses, "map_predicts", ("map", "warmup", "target"))
    facts = {
        "schema": AGGREGATE_SCHEMA,
        "recordings": [_recording(directory, one) for directory, one in zip(directories, analyses, strict=True)],
        "method": f"mean over recordings, {LEVEL:.0%} percentile interval of {RESAMPLES} bootstrap resamples of whole recordings",
        "notes": _notes(analyses),
        "map_predicts": map_predicts,
        "ras_predicts": _rows(analyses, "ras_predicts", ("step", "target")),
        "convergence": {"by_level": _levels(analyses), "whole_run": _measures([a["convergence"]["whole_run"] for a in analyses])},
        "separation": separation,
        "predicted": {
            "compute": estimate_of("mean", [a["predicted"]["compute"] for a in analyses]),
            "speedup": estimate_of("mean", [a["predicted"]["speedup"] for a in analyses]),
            "cache_bytes": estimate_of("mean", [a["predicted"]["cache_bytes"] for a in analyses]),
        },
        "verdict": _verdict(separation, map_predicts, analyses),
    }
    return cast(AggregateFacts, facts), _curves(directories, analyses)


def write_aggregate(directories: Sequence[Path], directory: Path) -> Path:
    """Aggregate into `directory`: aggregate.json, and aggregate.npz where curves can be compared; gives aggregate.json's path."""
    facts, arrays = aggregate(directories)
    directory.mkdir(parents=True, exist_ok=True)
    own = analysis_id(facts, "", arrays)
    for name in ("aggregate.html", "aggregate.json", "aggregate.npz"):
        remove(directory / name)
    if arrays:
        write_arrays(directory / "aggregate.npz", {**arrays, ID: np.array(own)})
    write_json(directory / "aggregate.json", {**facts, ID: own})
    return directory / "aggregate.json"


def describe_aggregate(facts: AggregateFacts) -> str:
    """Text for people: separation, reuse error by level, and the best maps."""
    lines = [f"{len(facts['recordings'])} recordings, {facts['method']}"]
    for words, estimate in (("raw output", facts["separation"]["raw"]), ("flow velocity", facts["separation"]["converted"])):
        lines.append(f"AUROC of active against static tokens, {words}: {_text(estimate, 'auroc')}")
    by_level = facts["convergence"]["by_level"]
    for level, medians in (("static", by_level["static"]), ("moderate", by_level["moderate"]), ("active", by_level["active"])):
        step, error = _text(medians["convergence_step_median"], "mean"), _text(medians["reuse_error_median"], "mean")
        lines.append(f"{level:>8}: converges at step {step}, reuse error {error}")
    rows = [(row["spearman"], row) for row in facts["map_predicts"] if row["target"] == "reuse_error"]
    best = sorted(((value, row) for value, row in rows if value is not None), key=lambda pair: -pair[0])[:3]
    lines += [
        f"map {row['map']} after {row['warmup']} steps -> reuse error: Spearman {_text(row, 'spearman')}" for _, row in best
    ]
    verdict = facts.get("verdict")
    sentences = [verdict.get("sentence", "")] if verdict else []
    return "\n".join([*lines, *(f"note: {note}" for note in facts["notes"]), *sentences])


def _text(estimate: Mapping[str, object], name: str) -> str:
    value, interval = estimate[name], estimate["interval"]
    if not isinstance(value, int | float):
        return "not defined"
    low, high = interval if isinstance(interval, list | tuple) else (None, None)
    return f"{value:.3g}" + ("" if low is None else f" [{low:.3g}, {high:.3g}]")


def _verdict(
    separation: Mapping[str, Mapping[str, object]], map_predicts: Sequence[Mapping[str, object]], analyses: Sequence[One]
) -> dict[str, str] | None:
    """The verdict over recordings; None for a single one, and where their levels are cut from different maps."""
    complexities = [a["complexity"] for a in analyses]
    maps = {(c["map"], c["warmup"]) for c in complexities if "map" in c and "warmup" in c}
    if len(analyses) < 2 or len(maps) != 1:
        return None
    name, warmup = maps.pop()
    return judge_recordings(separation, map_predicts, name, warmup, len(analyses)).to_json()


def _recording(directory: Path, facts: One) -> dict[str, object]:
    run: Mapping[str, object] = facts["run"]
    described = {name: run.get(name) for name in ("model", "prompt", "seed", "steps", "complete")}
    return {"directory": directory.name, "recording": facts["recording"], **described, "policy": facts["complexity"]["policy"]}


def _notes(analyses: Sequence[One]) -> list[str]:
    notes = []
    if 1 < len(analyses) < FEW_RECORDINGS:
        notes.append(f"with {len(analyses)} recordings the 95 % intervals under-cover; take {FEW_RECORDINGS} or more.")
    if len(analyses) == 1:
        notes.append("one recording is one case: no interval can be given.")
    kinds: dict[str, Callable[[One], object]] = {
        "models": lambda a: str(a["run"]["model"]),
        "policies": lambda a: a["complexity"]["policy"],
        "numbers of steps": lambda a: a["run"]["steps"],
        "token grids": lambda a: str(a["grid"]),
    }
    for words, of in kinds.items():
        if len(values := {of(a) for a in analyses}) > 1:
            notes.append(f"the recordings have {len(values)} {words}; the means run over all of them.")
    cut_short = sum(not a["run"]["complete"] for a in analyses)
    if cut_short:
        notes.append(
            f"{cut_short} of {len(analyses)} recordings were cut short; their convergence is against their own last step."
        )
    return notes


def _rows(
    analyses: Sequence[One], section: Literal["map_predicts", "ras_predicts"], keys: tuple[str, ...]
) -> list[dict[str, object]]:
    """One row a combination of `keys`, in the order in which they come first."""
    groups: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for analysis in analyses:
        stored: Sequence[Mapping[str, object]] = analysis[section]
        for row in stored:
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [dict(zip(keys, place, strict=True)) | _scores(same) for place, same in groups.items()]


def _scores(rows: Sequence[Mapping[str, object]]) -> dict[str, object]:
    spearman = estimate_of("spearman", [_number(row["spearman"]) for row in rows])
    agreement = estimate_of("agreement", [_number(row["agreement"]) for row in rows])
    return {
        "spearman": spearman["spearman"],
        "interval": spearman["interval"],
        "recordings": agreement["recordings"],
        "agreement": agreement["agreement"],
        "agreement_interval": agreement["interval"],
    }


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _levels(analyses: Sequence[One]) -> dict[str, object]:
    levels = [a["convergence"]["by_level"] for a in analyses]
    return {
        "static": _measures([level["static"] for level in levels]),
        "moderate": _measures([level["moderate"] for level in levels]),
        "active": _measures([level["active"] for level in levels]),
    }


def _measures(groups: Sequence[OneLevel]) -> dict[str, object]:
    """Every number of a token group; its tokens add up. Lists (error by steps reused) are taken place by place."""
    result: dict[str, object] = {"tokens": sum(group["tokens"] for group in groups)}
    for name in groups[0]:
        if name == "tokens":
            continue
        values = [cast(Mapping[str, object], group).get(name) for group in groups]
        lists = [value for value in values if isinstance(value, list)]
        if len(lists) == len(values):
            shortest = min(map(len, lists))
            result[name] = [estimate_of("mean", [value[at] for value in lists]) for at in range(shortest)]
        else:
            result[name] = estimate_of("mean", [_number(value) for value in values])
    return result


def _curves(directories: Sequence[Path], analyses: Sequence[One]) -> dict[str, np.ndarray]:
    if len({a["run"]["steps"] for a in analyses}) > 1:
        return {}
    quantiles = analyses[0]["curves"]["quantiles"]
    if 0.5 not in quantiles:
        return {}
    middle = quantiles.index(0.5)
    stored = [read_analysis_arrays(directory, facts) for directory, facts in zip(directories, analyses, strict=True)]
    arrays = {}
    for name in CURVES:
        shapes = {one[name].shape if name in one else () for one in stored}
        if len(shapes) > 1 or len(shape := shapes.pop()) != 3 or shape[1] != len(quantiles):
            raise InputError(f"the curves {name} of these analyses cannot be compared: their shapes differ. {AGAIN}")
        medians = np.stack([one[name][:, middle] for one in stored])  # (recording, group, step)
        short = name.removesuffix("_quantiles")
        arrays[short] = medians.mean(axis=0)
        if len(medians) > 1:
            arrays[f"{short}_interval"] = np.stack(interval_of_mean(medians))
    return arrays
