"""Calibration reports: a policy found on the subject's prompts, as `calibrate` finds it, and its promise put to the test."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...pipeline.call import CallOptions
from ...pipeline.prompts import read_prompts
from ...report.calibration import calibration_figures, caption, key_figures, name_of, read_calibration
from ...results.calibration import CalibrationFacts, ValidatedCandidate
from ...results.comparison import Comparison, save_comparison
from ...workflows.calibrate.stages import Effort, calibrate
from ...workflows.calibrate.target import Target
from ...workflows.compare.contest import calls_of, compare
from ..page import Figures, Section, Shown, estimate, table, value
from ..recipe import Recipe
from ..task import Made, Task
from . import comparison

CALIBRATED = "policy:file=policy.toml"


EFFORT = ("max_runs", "candidates", "trials")
POLICY = "policy.toml"


def make(task: Task) -> Made:
    """calibration.json and the policies; the recordings and runs behind them are not kept.

    The recipe's `target` is a table of one entry, as { compute = 0.5 }; `max_runs`, `candidates` and `trials` bound the effort.
    With `new_prompts`, a file of prompts, and `new_seeds` the policy and the subject's methods run on these as well, once the
    policy stands: comparison.json.
    """
    target = task.recipe.settings.get("target", {})
    if len(target) != 1:
        raise InputError(
            f"{task.recipe.slug}: target is {target!r}; one of compute, speedup, psnr is needed, as {{ compute = 0.5 }}."
        )
    settings = {**task.recipe.settings, **task.subject.settings}
    kind, value = next(iter(target.items()))
    bounds: dict[str, Any] = {name: int(settings[name]) for name in EFFORT if name in settings}
    effort = Effort(seed=task.subject.seeds[0], **bounds)
    options = CallOptions(prompt=task.subject.prompts[0], seed=task.subject.seeds[0], **task.subject.call)
    told: dict[str, Any] = {"load": task.load, "call": options, "effort": effort}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "calibration"
        calibrate(task.argument, folder, Target(kind, float(value)), prompts=task.subject.prompts, **told)
        for file in (folder / "calibration.json", *sorted(folder.glob("policy*.toml"))):
            shutil.copyfile(file, task.folder / file.name)
    new = settings.get("new_prompts")
    if new is None or not (task.folder / POLICY).is_file():
        return {}
    prompts = [prompt.text for prompt in read_prompts(task.recipe.directory / new)]
    return _test(task, options, prompts, settings.get("new_seeds", [0]))


def _test(task: Task, options: CallOptions, prompts: list[str], seeds: list[int]) -> Made:
    """The policy and the other methods on prompts that the calibration has not seen."""
    own = f"policy:file={task.folder / POLICY}"
    calls = calls_of(task.model, options, prompts, seeds)
    methods = [own, *(method.spec for method in task.subject.methods)]
    found = compare(task.model, calls, methods, on_run=lambda done, total, label: task.on_step(done, total))
    save_comparison(_named(found, own, f"policy:file={POLICY}"), task.folder)
    return {"dtype": found.dtype, "new_prompts": prompts, "new_seeds": seeds}


def _named(found: Comparison, label: str, name: str) -> Comparison:
    """A row that was named after a folder of the moment gets the name that it has in the report's."""
    renamed = replace(found.row(label), label=name, options={**found.row(label).options, "file": POLICY})
    rows = [renamed if row.label == label else row for row in found.rows]
    pictures = {name if known == label else known: frames for known, frames in found.pictures.items()}
    return replace(found, rows=tuple(rows), pictures=pictures)


def draw(recipe: Recipe, shown: Shown, figures: Figures) -> Section:
    """Key figures, the calibration's own drawings, policy.toml as it lies in the folder, and the comparison on new prompts."""
    facts = read_calibration(shown.folder)
    # a speedup of a shared machine says nothing, unless it was what was asked for
    key = [row for row in key_figures(facts) if row[0] != "speedup" or facts["target"]["kind"] == "speedup"]
    blocks = [f"{caption(facts)}.", table(("", "", ""), key)] if key else [f"{caption(facts)}. {facts['note']}"]
    blocks += [figures.svg(drawing, f"{shown.name}-{drawing.name}") for drawing in calibration_figures(facts)]
    blocks += _candidates(facts)
    blocks += _ranking(facts)
    policy = shown.folder / "policy.toml"
    if policy.is_file():
        blocks.append(f"```toml\n{policy.read_text(encoding='utf-8').strip()}\n```")
    found = [f"{words} {told} ({unit})" for words, told, unit in key]
    if (shown.folder / "comparison.json").is_file():
        tested, more = _tested(facts, comparison.read_comparison(shown.folder))
        found.append(tested)
        blocks += ["### On new prompts", tested + ".", *more, *comparison.draw(recipe, shown, figures).blocks]
    return Section("; ".join(found) + "." * bool(found), blocks)


def _candidates(facts: CalibrationFacts) -> list[str]:
    seen = facts["validation"]["candidates"]
    if not seen:
        return []
    rows = [_candidate(point) for point in seen]
    words = f"The candidates on {facts['validation']['prompts']} held-out prompts:"
    return [words, table(("candidate", "compute", "predicted (dB)", "PSNR (dB)", "lowest"), rows)]


def _candidate(point: ValidatedCandidate) -> list[str]:
    qualities = (point["predicted"], point["measured"]["psnr"], min(point["each"]["psnr"]))
    return [name_of(point), value(point["measured"]["compute"], ".3f"), *(value(db, ".1f") for db in qualities)]


def _ranking(facts: Mapping[str, Any]) -> list[str]:
    runs = facts["surrogate"].get("spearman", {}).get("fit_runs")
    if not runs or not runs["across"]["runs"]:
        return []
    rows = [
        [name, value(row["spearman"]), value(row["rmse_db"], ".1f"), str(row["runs"])]
        for name, row in {"all": runs["across"], **runs["within"]}.items()
    ]
    words = "Replay against real runs, each predicted by a fit without its own policy:"
    return [words, table(("class", "Spearman", "error (dB)", "runs"), rows)]


def _tested(facts: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(one sentence, the differences to every other row run by run)."""
    rows = {row["label"]: row for row in found["rows"]}
    ours = rows[CALIBRATED]
    prompts = len({run["prompt"] for run in ours["runs"]})
    promised = {int(size): ends for size, ends in facts["validation"]["prediction_interval"]["prediction_interval"].items()}
    size = max(size for size in promised if size <= prompts)
    expected = promised[size]
    mean, runs = ours["mean"]["psnr"], ours["runs"]
    kept = "no promise" if expected is None else f"promised {expected[0]:.1f} to {expected[1]:.1f} for {size}"
    compute = value(ours["mean"]["compute"], ".3f")
    sentence = f"{value(mean, '.1f')} dB at compute {compute} on {len(runs)} runs of {prompts} new prompts, {kept}"
    pairs = []
    for pair in found["paired"]:
        names = [pair["first"], pair["second"]]
        if CALIBRATED not in names:
            continue
        other = names[1 - names.index(CALIBRATED)]
        sign = 1 if names[0] == CALIBRATED else -1
        ends = [pair["low"], pair["high"]] if sign == 1 else [-1 * end for end in (pair["high"], pair["low"]) if end is not None]
        its = value(rows[other]["mean"]["compute"], ".3f")
        pairs.append([f"`{other}`", its, estimate(sign * pair["value"], ends), str(pair["runs"])])
    words = "The calibrated policy's PSNR less that of each other, run by run, each at its own compute; 95 % interval:"
    return sentence, [words, table(("other", "its compute", "difference (dB)", "runs"), pairs)] if pairs else []
