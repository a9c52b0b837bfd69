"""Calibration reports: a policy calibrated on the subject's prompts by `calibrate`, and its prediction tested on new ones."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from ...errors import InputError
from ...pipeline.call import CallOptions
from ...pipeline.prompts import read_prompts
from ...report.calibration import calibration_figures, caption, key_figures, name_of, read_calibration
from ...results.calibration import CalibrationFacts, ValidatedCandidate
from ...results.comparison import Comparison, ComparisonFacts, save_comparison
from ...workflows.calibrate.stages import Effort, calibrate
from ...workflows.calibrate.target import Target
from ...workflows.compare.contest import calls_of, compare
from ..page import Figures, Section, SubjectResults, estimate, share, table, value
from ..provenance import Extra
from ..recipe import Recipe, Table
from ..task import Task
from . import comparison

CALIBRATED = "policy:file=policy.toml"
POLICY = "policy.toml"


def make(task: Task) -> Extra:
    """calibration.json and the policies; the recordings and runs behind them are deleted.

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
    effort = _effort(settings, task.subject.seeds[0])
    options = CallOptions(prompt=task.subject.prompts[0], seed=task.subject.seeds[0], **task.subject.call)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "calibration"
        goal, fitted_on = Target(kind, float(value)), task.subject.prompts
        calibrate(task.argument, fitted_on, goal, directory=folder, options=task.load, call=options, effort=effort)
        for file in (folder / "calibration.json", *sorted(folder.glob("policy*.toml"))):
            shutil.copyfile(file, task.folder / file.name)
    new = settings.get("new_prompts")
    if new is None or not (task.folder / POLICY).is_file():
        return {}
    prompts = [prompt.text for prompt in read_prompts(task.recipe.directory / new)]
    return _test(task, options, prompts, settings.get("new_seeds", [0]))


def _effort(settings: Table, seed: int) -> Effort:
    """The default effort, bounded by what the recipe says of it."""
    usual = Effort(seed=seed)
    return replace(
        usual,
        max_runs=settings.get("max_runs", usual.max_runs),
        candidates=settings.get("candidates", usual.candidates),
        trials=settings.get("trials", usual.trials),
    )


def _test(task: Task, options: CallOptions, prompts: list[str], seeds: list[int]) -> Extra:
    """The policy and the other methods on prompts that the calibration has not seen."""
    own = f"policy:file={task.folder / POLICY}"
    calls = calls_of(task.model, options, prompts, seeds)
    methods = [own, *(method.spec for method in task.subject.methods)]
    comparison = compare(task.model, calls, methods, on_run=lambda done, total, label: task.on_step(done, total))
    save_comparison(_named(comparison, own, f"policy:file={POLICY}"), task.folder)
    return {"dtype": comparison.dtype, "new_prompts": prompts, "new_seeds": seeds}


def _named(comparison: Comparison, label: str, name: str) -> Comparison:
    """A row that was named after a folder of the moment gets the name that it has in the report's."""
    own = comparison.row(label)
    renamed = replace(own, label=name, options={**own.options, "file": POLICY})
    rows = [renamed if row.label == label else row for row in comparison.rows]
    images = {name if row == label else row: frames for row, frames in comparison.pictures.items()}
    return replace(comparison, rows=tuple(rows), pictures=images)


def draw(recipe: Recipe, results: SubjectResults, figures: Figures) -> Section:
    """Key figures, the calibration's own drawings, policy.toml as it lies in the folder, and the comparison on new prompts."""
    facts = read_calibration(results.folder)
    # a speedup of a shared machine says nothing, unless it was the target
    key = [row for row in key_figures(facts) if row[0] != "speedup" or facts["target"]["kind"] == "speedup"]
    blocks = [f"{caption(facts)}.", table(("", "", ""), key)] if key else [f"{caption(facts)}. {facts.get('note', '')}"]
    blocks += [figures.svg(drawing, f"{results.name}-{drawing.name}") for drawing in calibration_figures(facts)]
    blocks += _candidates(facts)
    blocks += _ranking(facts)
    policy = results.folder / "policy.toml"
    if policy.is_file():
        blocks.append(f"```toml\n{policy.read_text(encoding='utf-8').strip()}\n```")
    sentences = [f"{words} {figure} ({unit})" for words, figure, unit in key]
    if (results.folder / "comparison.json").is_file():
        tested, more = _tested(facts, comparison.read_comparison(results.folder))
        sentences.append(tested)
        blocks += ["### On new prompts", tested + ".", *more, *comparison.draw(recipe, results, figures).blocks]
    return Section("; ".join(sentences) + "." * bool(sentences), blocks)


def _candidates(facts: CalibrationFacts) -> list[str]:
    seen = facts["validation"]["candidates"]
    if not seen:
        return []
    rows = [_candidate(point) for point in seen]
    words = f"The candidates on {facts['validation']['prompts']} held-out prompts:"
    return [words, table(("candidate", "compute", "predicted (dB)", "PSNR (dB)", "lowest"), rows)]


def _candidate(point: ValidatedCandidate) -> list[str]:
    measured = point["measured"]
    qualities = (point["predicted"], measured["psnr"], min(point["each"]["psnr"]))
    return [name_of(point), value(measured["compute"], ".3f"), *(value(db, ".1f") for db in qualities)]


def _ranking(facts: CalibrationFacts) -> list[str]:
    runs = facts["surrogate"].get("spearman", {}).get("fit_runs")
    if not runs or not runs["across"]["runs"]:
        return []
    rows = [
        [name, value(row["spearman"]), value(row["rmse_db"], ".1f"), str(row["runs"])]
        for name, row in {"all": runs["across"], **runs["within"]}.items()
    ]
    words = "Replay against real runs, each predicted by a fit without its own policy:"
    return [words, table(("class", "Spearman", "error (dB)", "runs"), rows)]


def _tested(facts: CalibrationFacts, compared: ComparisonFacts) -> tuple[str, list[str]]:
    """(one sentence, the paired differences to every other row)."""
    rows = {row["label"]: row for row in compared["rows"]}
    ours = rows[CALIBRATED]
    prompts = len({run["prompt"] for run in ours["runs"]})
    interval = facts["validation"]["prediction_interval"]
    assert interval is not None  # there is one as soon as a policy was validated, and only such a one is tested
    promised = {int(size): ends for size, ends in interval["prediction_interval"].items()}
    size = max(size for size in promised if size <= prompts)
    expected = promised[size]
    mean, runs = ours["mean"]["psnr"], ours["runs"]
    promise = "no promise" if expected is None else f"promised {expected[0]:.1f} to {expected[1]:.1f} for {size}"
    compute = share(ours["mean"]["compute"], 1)
    sentence = f"{value(mean, '.1f')} dB at {compute} on {len(runs)} runs of {prompts} new prompts, {promise}"
    pairs = []
    for pair in compared["paired"]:
        names = [pair["first"], pair["second"]]
        if CALIBRATED not in names:
            continue
        other = names[1 - names.index(CALIBRATED)]
        sign = 1 if names[0] == CALIBRATED else -1
        ends = [pair["low"], pair["high"]] if sign == 1 else [_negated(pair["high"]), _negated(pair["low"])]
        mean_difference = pair["value"] if sign == 1 else _negated(pair["value"])
        its = value(rows[other]["mean"]["compute"], ".3f")
        pairs.append([f"`{other}`", its, estimate(mean_difference, ends), str(pair["runs"])])
    words = "Paired PSNR difference: the calibrated policy minus each other, each at its own compute; 95 % interval:"
    return sentence, [words, table(("other", "its compute", "difference (dB)", "runs"), pairs)] if pairs else []


def _negated(figure: float | None) -> float | None:
    return None if figure is None else -1 * figure
