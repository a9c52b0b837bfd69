"""Tables of the report: rows of cells that carry the text shown and the value they sort by."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...plan import StepKind, TokenLevel
from ...plan.schedule import LETTERS
from ..drawing.style import KIND_COLOUR, LEVEL_COLOUR
from ..page import Cell, Table, count, figure, span
from .glossary import KINDS, LEVELS
from .results import AnalysisResults


def analysis_tables(results: AnalysisResults) -> list[Table]:
    makers = (level_table, kind_table, separation_table, point_table)
    foretold = (predicts_table(results, own=True), predicts_table(results, own=False), ras_table(results))
    return [*(maker(results) for maker in makers), *foretold]


def level_table(results: AnalysisResults) -> Table:
    """Tokens of each level, how they converge, and at how many steps they are computed."""
    measured, rows = results.facts["convergence"].get("by_level") or {}, []
    for level in TokenLevel:
        tokens, found = int(results.tokens_at(level).sum()), measured.get(level.value) or {}
        computed = sum(kind.least_rank <= level.rank for kind in results.plan.step_kind)
        rows.append(
            [
                Cell(level.value, level.rank, LEVEL_COLOUR[level]), count(tokens), figure(tokens / results.grid.count, ".1%"),
                count(computed), figure(found.get("convergence_step_median"), ".1f"), figure(found.get("reuse_error_median")),
                Cell(LEVELS[level]),
            ]
        )  # fmt: skip
    heads = ("level", "tokens", "share", "steps computed", "median convergence step", "median reuse error", "meaning")
    return Table("levels", "Token levels", heads, rows)


def kind_table(results: AnalysisResults) -> Table:
    """Steps of each kind and the tokens they compute; kinds that the plan does not use are left out."""
    rows = []
    for kind in StepKind:
        steps = results.plan.step_kind.count(kind)
        if steps:
            tokens = int((results.plan.ranks >= kind.least_rank).sum())
            rows.append(
                [Cell(kind.value, None, KIND_COLOUR[kind]), Cell(LETTERS[kind]), count(steps), count(tokens),
                 figure(tokens / results.grid.count, ".1%"), Cell(KINDS[kind])]
            )  # fmt: skip
    return Table("kinds", "Step kinds", ("kind", "letter", "steps", "tokens computed", "share", "what is computed"), rows)


def predicts_table(results: AnalysisResults, own: bool) -> Table:
    """A row a map and warm-up with its Spearman correlation to every target: of the plan's own warm-up, or of all others."""
    found: dict[tuple[Any, Any], dict[str, Mapping[str, Any]]] = {}
    for row in results.facts["map_predicts"]:
        if (row.get("warmup") == results.plan.policy.warmup) is own:
            found.setdefault((row.get("map"), row.get("warmup")), {})[str(row.get("target"))] = row
    targets = list(dict.fromkeys(target for of_map in found.values() for target in of_map))
    rows = [
        [Cell(str(name)), figure(warmup, "g"), *(cell for target in targets for cell in _outcome(of_map.get(target, {})))]
        for (name, warmup), of_map in found.items()
    ]
    heads = ["map", "warm-up"]
    for target in targets:
        heads += [target.replace("_", " "), "interval", "same class", "interval"]
    title = "Which map foretells, after this plan's warm-up; 95% intervals" if own else "After other warm-ups; 95% intervals"
    return Table("map-predicts" if own else "map-predicts-other", title, heads, rows)


def ras_table(results: AnalysisResults) -> Table:
    """The same for RAS importance at steps over the whole run."""
    found: dict[Any, dict[str, Mapping[str, Any]]] = {}
    for row in results.facts.get("ras_predicts") or []:
        found.setdefault(row.get("step"), {})[str(row.get("target"))] = row
    targets = list(dict.fromkeys(target for of_step in found.values() for target in of_step))
    rows = [
        [figure(step, "g"), *(cell for target in targets for cell in _outcome(of_step.get(target, {})))]
        for step, of_step in found.items()
    ]
    heads = ["step"]
    for target in targets:
        heads += [target.replace("_", " "), "interval", "same class", "interval"]
    return Table("ras-predicts", "RAS importance, negated, at steps over the run; 95% intervals", heads, rows)


def _outcome(row: Mapping[str, Any]) -> tuple[Cell, Cell, Cell, Cell]:
    """Correlation and share in the right class, each with its interval."""
    return (
        figure(row.get("spearman"), ".2f"),
        span(row.get("interval")),
        figure(row.get("agreement"), ".0%"),
        span(row.get("agreement_interval"), ".0%"),
    )


def separation_table(results: AnalysisResults) -> Table:
    found = results.facts["separation"]
    names = {"raw": "raw model output", "converted": "flow velocity"}
    rows = [
        [Cell(names.get(name, str(name))), figure((row or {}).get("auroc"), ".2f"), span((row or {}).get("interval"))]
        for name, row in found.items()
    ]
    return Table("separation", "Active against static tokens", ("signal", "AUROC", "95% interval"), rows)


def point_table(results: AnalysisResults) -> Table:
    """The points with what the maps say about them."""
    rows = []
    kinds = {"complexity_enhanced": "complexity", "ras_importance": "RAS importance", "convergence_step": "convergence step",
             "reuse_error": "reuse error"}  # fmt: skip
    kinds = {name: words for name, words in kinds.items() if name in results.arrays}
    for point in results.facts["points"]:
        place = tuple(int(point[axis]) for axis in ("frame", "row", "col"))
        level = TokenLevel(point["level"])
        rows.append(
            [Cell(str(point["name"])), *(figure(at, "g") for at in place),
             Cell(level.value, level.rank, LEVEL_COLOUR[level]),
             *(figure(float(results.token_map(name)[place])) for name in kinds)]
        )  # fmt: skip
    heads = ("point", "frame", "row", "column", "level", *kinds.values())
    return Table("points", "Points", heads, rows)


def account_table(account: Mapping[str, Any]) -> Table:
    """What an applied run computed, by step kind; the means of the steps of that kind."""
    steps, rows = account.get("steps") or [], []
    for kind in StepKind:
        of_kind = [step for step in steps if step.get("kind") == kind.value]
        if of_kind:
            tokens, flops = (float(np.mean([step[name] for step in of_kind])) for name in ("tokens", "flops"))
            forced = sum(bool(step.get("forced")) for step in of_kind)
            rows.append(
                [
                    Cell(kind.value, None, KIND_COLOUR[kind]),
                    count(len(of_kind)),
                    figure(tokens, ".0f"),
                    figure(flops / 1e9),
                    count(forced),
                ]
            )
    return Table("account", "What was computed", ("kind", "steps", "tokens a step", "GFLOPs a step", "out of turn"), rows)
