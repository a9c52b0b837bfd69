"""Tables of the report: rows of cells that carry the text shown and the value they sort by."""

from collections.abc import Iterable

import numpy as np

from ...plan import StepKind, TokenLevel
from ...plan.schedule import LETTERS
from ...results.analysis import Predicts
from ...results.applied import SummaryFacts
from ..drawing.style import KIND_COLOUR, LEVEL_COLOUR
from ..page import Cell, Table, count, figure, span
from .glossary import KINDS, LEVELS
from .view import AnalysisView


def analysis_tables(view: AnalysisView) -> list[Table]:
    makers = (level_table, kind_table, separation_table, point_table)
    predictions = (predicts_table(view, own=True), predicts_table(view, own=False), ras_table(view))
    return [*(maker(view) for maker in makers), *predictions]


def level_table(view: AnalysisView) -> Table:
    """Tokens of each level, how they converge, and at how many steps they are computed."""
    measured, rows = view.facts["convergence"].get("by_level") or {}, []
    for level in TokenLevel:
        tokens, medians = int(view.tokens_at(level).sum()), measured.get(level.value) or {}
        computed = sum(kind.least_rank <= level.rank for kind in view.plan.step_kind)
        rows.append(
            [
                Cell(level.value, level.rank, LEVEL_COLOUR[level]), count(tokens), figure(tokens / view.grid.count, ".1%"),
                count(computed), figure(medians.get("convergence_step_median"), ".1f"), figure(medians.get("reuse_error_median")),
                Cell(LEVELS[level]),
            ]
        )  # fmt: skip
    heads = ("level", "tokens", "share", "steps computed", "median convergence step", "median reuse error", "meaning")
    return Table("levels", "Token levels", heads, rows)


def kind_table(view: AnalysisView) -> Table:
    """Steps of each kind and the tokens they compute; kinds that the plan does not use are left out."""
    rows = []
    for kind in StepKind:
        steps = view.plan.step_kind.count(kind)
        if steps:
            tokens = int((view.plan.ranks >= kind.least_rank).sum())
            rows.append(
                [Cell(kind.value, None, KIND_COLOUR[kind]), Cell(LETTERS[kind]), count(steps), count(tokens),
                 figure(tokens / view.grid.count, ".1%"), Cell(KINDS[kind])]
            )  # fmt: skip
    return Table("kinds", "Step kinds", ("kind", "letter", "steps", "tokens computed", "share", "what is computed"), rows)


def predicts_table(view: AnalysisView, own: bool) -> Table:
    """A row a map and warm-up with its Spearman correlation to every target: of the plan's own warm-up, or of all others."""
    by_map: dict[tuple[str, int | None], dict[str, Predicts]] = {}
    for row in view.facts["map_predicts"]:
        if (row.get("warmup") == view.plan.policy.warmup) is own:
            by_map.setdefault((str(row.get("map")), row.get("warmup")), {})[str(row.get("target"))] = row
    targets = _targets(by_map.values())
    rows = [
        [Cell(name), figure(warmup, "g"), *(cell for target in targets for cell in _outcome(of_map.get(target, {})))]
        for (name, warmup), of_map in by_map.items()
    ]
    heads = ["map", "warm-up", *_target_heads(targets)]
    when = "Prediction by each map, after this plan's warm-up" if own else "After other warm-ups"
    return Table("map-predicts" if own else "map-predicts-other", f"{when}; 95% intervals", heads, rows)


def ras_table(view: AnalysisView) -> Table:
    """The same for RAS importance at steps over the whole run."""
    by_step: dict[int | None, dict[str, Predicts]] = {}
    for row in view.facts.get("ras_predicts") or []:
        by_step.setdefault(row.get("step"), {})[str(row.get("target"))] = row
    targets = _targets(by_step.values())
    rows = [
        [figure(step, "g"), *(cell for target in targets for cell in _outcome(of_step.get(target, {})))]
        for step, of_step in by_step.items()
    ]
    heads = ["step", *_target_heads(targets)]
    return Table("ras-predicts", "RAS importance, negated, at steps over the run; 95% intervals", heads, rows)


def _targets(groups: Iterable[dict[str, Predicts]]) -> list[str]:
    return list(dict.fromkeys(target for group in groups for target in group))


def _target_heads(targets: list[str]) -> list[str]:
    return [head for target in targets for head in (target.replace("_", " "), "interval", "same class", "interval")]


def _outcome(row: Predicts) -> tuple[Cell, Cell, Cell, Cell]:
    """Correlation and share in the right class, each with its interval."""
    return (
        figure(row.get("spearman"), ".2f"),
        span(row.get("interval")),
        figure(row.get("agreement"), ".0%"),
        span(row.get("agreement_interval"), ".0%"),
    )


def separation_table(view: AnalysisView) -> Table:
    names = {"raw": "raw model output", "converted": "flow velocity"}
    rows = [
        [Cell(names.get(name, name)), figure((row or {}).get("auroc"), ".2f"), span((row or {}).get("interval"))]
        for name, row in view.facts["separation"].items()
    ]
    return Table("separation", "Active against static tokens", ("signal", "AUROC", "95% interval"), rows)


def point_table(view: AnalysisView) -> Table:
    """The points with what the maps say about them."""
    rows = []
    kinds = {"complexity_enhanced": "complexity", "ras_importance": "RAS importance", "convergence_step": "convergence step",
             "reuse_error": "reuse error"}  # fmt: skip
    kinds = {name: words for name, words in kinds.items() if name in view.arrays}
    for point in view.facts["points"]:
        place = tuple(int(point[axis]) for axis in ("frame", "row", "col"))
        level = TokenLevel(point["level"])
        rows.append(
            [Cell(str(point["name"])), *(figure(at, "g") for at in place),
             Cell(level.value, level.rank, LEVEL_COLOUR[level]),
             *(figure(float(view.token_map(name)[place])) for name in kinds)]
        )  # fmt: skip
    heads = ("point", "frame", "row", "column", "level", *kinds.values())
    return Table("points", "Points", heads, rows)


def summary_table(summary: SummaryFacts) -> Table:
    """What an applied run computed, by step kind; the means of the steps of that kind."""
    steps, rows = summary.get("steps") or [], []
    for kind in StepKind:
        of_kind = [step for step in steps if step.get("kind") == kind.value]
        if of_kind:
            tokens, flops = np.mean([(step["tokens"], step["flops"]) for step in of_kind], axis=0).tolist()
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
    heads = ("kind", "steps", "tokens a step", "GFLOPs a step", "unscheduled full steps")
    return Table("summary", "What was computed", heads, rows)
