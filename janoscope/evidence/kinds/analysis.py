"""Analysis reports: every call recorded and analysed; the aggregate is kept, and the first analyses whole."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...pipeline.call import PipelineCall
from ...pipeline.prompts import Prompt
from ...report.analysis.figures import analysis_figures
from ...report.analysis.view import read_view
from ...report.page import number
from ...results.aggregate import AggregateFacts, read_facts
from ...results.images import save_frames
from ...workflows.analyze.aggregate import write_aggregate
from ...workflows.analyze.recording import analyze_to_directory
from ...workflows.record.manifest import sha256_of
from ...workflows.record.session import record_model
from ..page import Figures, Section, Shown, estimate, table
from ..recipe import Recipe
from ..task import Made, Task

NAMES = {"raw": "raw output", "converted": "flow velocity, Eq. (1)"}
DEFAULT_FIGURES = ("picture", "probe_raw", "probe_converted")
_TARGETS = {"convergence_step": "convergence step", "reuse_error": "reuse error"}
_ESTIMATES = (("spearman", "interval"), ("agreement", "agreement_interval"))


KEPT = 1


def make(task: Task) -> Made:
    """aggregate.json and aggregate.npz over all calls, and the first `keep` (of the recipe; 1) analyses with their pictures."""
    keep = int(task.recipe.settings.get("keep", KEPT))
    policy, points = task.policy(), tuple(task.subject.settings.get("points", ()))
    directories: list[Path] = []

    def analyse(recording: Path, picture: Any) -> None:
        directory = task.folder / recording.stem
        analyze_to_directory(recording, directory, policy=policy, points=points)
        if picture is not None:
            save_frames(picture, directory / f"{recording.stem}.png")  # what the report's figures look for
        directories.append(directory)

    recordings = record_each(task, analyse)
    write_aggregate(directories, task.folder)
    for directory in directories[keep:]:
        shutil.rmtree(directory)
    return {"policy": policy.name, "kept": [directory.name for directory in directories[:keep]], "recordings": recordings}


def record_each(task: Task, use: Callable[[Path, Any], None]) -> list[dict[str, Any]]:
    """Record the task's calls one after another and let `use` have each; gives what is noted of recordings that are not kept."""
    noted = []
    for index, call in enumerate(task.calls):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{_stem(index, call)}.h5"
            recorded = record_model(task.model, call, path, keep_output=False)
            use(recorded.path, recorded.generated.frames)
            told = {"prompt": call.prompt, "seed": call.seed, "steps": recorded.steps}
            noted.append(told | {"bytes": path.stat().st_size, "sha256": sha256_of(path)})
        task.on_step(index + 1, len(task.calls))
    return noted


def _stem(index: int, call: PipelineCall) -> str:
    return Prompt(index, call.prompt).stem


def draw(recipe: Recipe, shown: Shown, figures: Figures) -> Section:
    """The recipe's `figures` of the kept runs, then its `tables`: separation, map_predicts, levels."""
    facts = _aggregate(shown)
    blocks = []
    wanted = tuple(recipe.settings.get("figures", DEFAULT_FIGURES))
    for name in shown.made.get("kept", []):
        results = read_view(shown.folder / name)
        drawings = analysis_figures(results)
        blocks.append(f"{results.facts['run']['prompt']}, seed {results.facts['run']['seed']}:")
        blocks += [figures.svg(drawings[wish], f"{shown.name}-{name[:4]}-{wish}") for wish in wanted if wish in drawings]
    tables = tuple(recipe.settings.get("tables", ("separation",)))
    sentences = []
    for name in tables:
        section = _TABLES[name](facts, shown)
        blocks += section.blocks
        sentences.append(section.found)
    return Section(" ".join(sentence for sentence in sentences if sentence), blocks)


def _aggregate(shown: Shown) -> AggregateFacts:
    return read_facts(shown.folder, "Make the results again with --remake.")


def _separation(facts: Mapping[str, Any], shown: Shown) -> Section:
    """How surely active tokens are told from static ones by their step changes, raw and converted."""
    found = facts["separation"]
    rows = [
        [NAMES[name], estimate(found[name]["auroc"], found[name]["interval"]), str(found[name]["recordings"])] for name in NAMES
    ]
    words = "AUROC of active against static tokens by the median step change in the middle half of the run (0.5 is chance):"
    raw, converted = (number(found[name]["auroc"]) for name in NAMES)
    told = ""
    if raw is not None and converted is not None:
        told = f"AUROC {raw:.2f} from the raw output, {converted:.2f} from the flow velocity (0.5 is chance)."
    return Section(told, [words, table(("signal", "AUROC", "recordings"), rows)])


def _predicts(facts: Mapping[str, Any], shown: Shown) -> Section:
    """How well each early map foretells, over recordings; the section's sentence is of the JANO map at the policy's warm-up."""
    cells: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
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


def _best(costs: list[Mapping[str, Any]]) -> str:
    jano = [row for row in costs if row["map"] == "jano"]
    if not jano:
        return ""
    warmups = ", ".join(f"{estimate(row['spearman'], row['interval'])} after {row['warmup']} steps" for row in jano)
    best = max(costs, key=lambda row: float(row["spearman"]))
    return (
        f"Spearman of the JANO map with the reuse error: {warmups}; the best map is {best['map']} after "
        f"{best['warmup']} steps, {estimate(best['spearman'], best['interval'])}."
    )


def _ras(facts: Mapping[str, Any]) -> list[str]:
    rows = [row for row in facts.get("ras_predicts", []) if row["target"] == "reuse_error"]
    if not rows:
        return []
    cells = [[str(row["step"]), estimate(row["spearman"], row["interval"])] for row in sorted(rows, key=lambda row: row["step"])]
    words = "RAS importance, negated since RAS computes tokens of low spread, with the reuse error:"
    return [words, table(("at step", "Spearman"), cells)]


def _levels(facts: Mapping[str, Any], shown: Shown) -> Section:
    rows = []
    for level, found in facts["convergence"]["by_level"].items():
        settled, cost = found["convergence_step_median"], found["reuse_error_median"]
        rows.append(
            [level, estimate(settled["mean"], settled["interval"], ".1f"), estimate(cost["mean"], cost["interval"], ".3g")]
        )
    words = "Median token of each level, mean over recordings:"
    return Section("", [words, table(("level", "settles at step", "reuse error"), rows)])


_TABLES = {"separation": _separation, "map_predicts": _predicts, "levels": _levels}
