"""Analysis reports: every call recorded and analysed; the aggregate is stored, and the first analyses whole."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ...pipeline.call import PipelineCall
from ...pipeline.prompts import Prompt
from ...report.analysis.figures import analysis_figures
from ...report.analysis.view import read_view
from ...report.page import number
from ...results.aggregate import AggregateFacts, OfMap, read_facts
from ...results.images import save_frames
from ...workflows.analyze.aggregate import write_aggregate
from ...workflows.analyze.recording import analyze_to_directory
from ...workflows.record.manifest import sha256_of
from ...workflows.record.session import record_model
from ..page import Figures, Section, SubjectResults, estimate, table
from ..provenance import AGAIN, Extra, RecordingFacts
from ..recipe import Recipe
from ..task import Task

NAMES = {"raw": "raw output", "converted": "flow velocity, Eq. (1)"}
DEFAULT_FIGURES = ("picture", "probe_raw", "probe_converted")
_TARGETS = {"convergence_step": "convergence step", "reuse_error": "reuse error"}
_ESTIMATES = (("spearman", "interval"), ("agreement", "agreement_interval"))
ANALYSES = 1


def make(task: Task) -> Extra:
    """aggregate.json and aggregate.npz over all calls, and the first `keep` (of the recipe; 1) analyses with their images."""
    keep = int(task.recipe.settings.get("keep", ANALYSES))
    policy, points = task.policy(), tuple(task.subject.settings.get("points", ()))
    directories: list[Path] = []

    def analyse(recording: Path, image: np.ndarray | None) -> None:
        directory = task.folder / recording.stem
        analyze_to_directory(recording, directory, policy=policy, points=points)
        if image is not None:
            save_frames(image, directory / f"{recording.stem}.png")  # what the report's figures look for
        directories.append(directory)

    recordings = record_each(task, analyse)
    write_aggregate(directories, task.folder)
    for directory in directories[keep:]:
        shutil.rmtree(directory)
    return {"policy": policy.name, "kept": [directory.name for directory in directories[:keep]], "recordings": recordings}


def record_each(task: Task, use: Callable[[Path, np.ndarray | None], None]) -> list[RecordingFacts]:
    """Record the task's calls one after another, hand each file and its image to `use`, and delete the file."""
    recordings: list[RecordingFacts] = []
    for index, call in enumerate(task.calls):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{_stem(index, call)}.h5"
            recorded = record_model(task.model, call, path, keep_output=False)
            use(recorded.path, recorded.generated.frames)
            size, digest = path.stat().st_size, sha256_of(path)
            recordings.append(
                {"prompt": call.prompt, "seed": call.seed, "steps": recorded.steps, "bytes": size, "sha256": digest}
            )
        task.on_step(index + 1, len(task.calls))
    return recordings


def _stem(index: int, call: PipelineCall) -> str:
    return Prompt(index, call.prompt).stem


def draw(recipe: Recipe, results: SubjectResults, figures: Figures) -> Section:
    """The recipe's `figures` of the stored analyses, then its `tables`: separation, map_predicts, levels."""
    facts = read_facts(results.folder, AGAIN)
    blocks = []
    wanted = tuple(recipe.settings.get("figures", DEFAULT_FIGURES))
    for name in results.provenance.get("kept", []):
        analysis = read_view(results.folder / name)
        drawings = analysis_figures(analysis)
        blocks.append(f"{analysis.facts['run']['prompt']}, seed {analysis.facts['run']['seed']}:")
        blocks += [figures.svg(drawings[wish], f"{results.name}-{name[:4]}-{wish}") for wish in wanted if wish in drawings]
    tables = tuple(recipe.settings.get("tables", ("separation",)))
    sentences = []
    for name in tables:
        section = _TABLES[name](facts)
        blocks += section.blocks
        sentences.append(section.result)
    return Section(" ".join(sentence for sentence in sentences if sentence), blocks)


def _separation(facts: AggregateFacts) -> Section:
    """How well the step changes of active tokens separate from those of static ones, raw and converted."""
    signals = {"raw": facts["separation"]["raw"], "converted": facts["separation"]["converted"]}
    rows = [[NAMES[name], estimate(one["auroc"], one["interval"]), str(one["recordings"])] for name, one in signals.items()]
    words = "AUROC of active against static tokens by the median step change in the middle half of the run (0.5 is chance):"
    raw, converted = (number(one["auroc"]) for one in signals.values())
    sentence = ""
    if raw is not None and converted is not None:
        sentence = f"AUROC {raw:.2f} from the raw output, {converted:.2f} from the flow velocity (0.5 is chance)."
    return Section(sentence, [words, table(("signal", "AUROC", "recordings"), rows)])


def _predicts(facts: AggregateFacts) -> Section:
    """How well each early map predicts, over recordings; the section's sentence is of the JANO map at the policy's warm-up."""
    cells: dict[tuple[str, int], dict[str, Mapping[str, object]]] = {}
    for row in facts["map_predicts"]:
        cells.setdefault((row["map"], row["warmup"]), {})[row["target"]] = row
    rows = [
        [name, str(warmup)] + [estimate(of[t][m], of[t][i]) if t in of else "–" for t in _TARGETS for m, i in _ESTIMATES]
        for (name, warmup), of in sorted(cells.items(), key=lambda item: item[0][1])
    ]
    heads = ["map", "warm-up", *(f"{words}: {m}" for words in _TARGETS.values() for m in ("Spearman", "same class"))]
    costs = [row for row in facts["map_predicts"] if row["target"] == "reuse_error" and number(row["spearman"]) is not None]
    words = f"Over {len(facts['recordings'])} recordings, {facts['method']}:"
    return Section(_best(costs), [words, table(heads, rows), *_ras(facts)])


def _best(costs: list[OfMap]) -> str:
    jano = [row for row in costs if row["map"] == "jano"]
    if not jano:
        return ""
    warmups = ", ".join(f"{estimate(row['spearman'], row['interval'])} after {row['warmup']} steps" for row in jano)
    best = max(costs, key=lambda row: number(row["spearman"]) or 0.0)
    return (
        f"Spearman of the JANO map with the reuse error: {warmups}; the best map is {best['map']} after "
        f"{best['warmup']} steps, {estimate(best['spearman'], best['interval'])}."
    )


def _ras(facts: AggregateFacts) -> list[str]:
    rows = [row for row in facts.get("ras_predicts", []) if row["target"] == "reuse_error"]
    if not rows:
        return []
    cells = [[str(row["step"]), estimate(row["spearman"], row["interval"])] for row in sorted(rows, key=lambda row: row["step"])]
    words = "RAS importance, negated since RAS computes tokens of low spread, with the reuse error:"
    return [words, table(("at step", "Spearman"), cells)]


def _levels(facts: AggregateFacts) -> Section:
    rows = []
    levels = facts["convergence"]["by_level"]
    for level, medians in (("static", levels["static"]), ("moderate", levels["moderate"]), ("active", levels["active"])):
        settled, cost = medians["convergence_step_median"], medians["reuse_error_median"]
        rows.append(
            [level, estimate(settled["mean"], settled["interval"], ".1f"), estimate(cost["mean"], cost["interval"], ".3g")]
        )
    words = "Median token of each level, mean over recordings:"
    return Section("", [words, table(("level", "settles at step", "reuse error"), rows)])


_TABLES = {"separation": _separation, "map_predicts": _predicts, "levels": _levels}
