"""A calibration's page: the Pareto front and the chosen policy, its spread over prompts, and how well predictions hold."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ..plan import Policy
from ..results.calibration import CalibrationFacts, ScoredPolicy, ValidatedCandidate, read_facts
from ..results.few_prompts import few_prompts_words
from .drawable import drawable
from .drawing.style import INK, MUTED, add_grid, new_figure, styled
from .drawing.svg import Drawing, to_svg
from .page import NOT_DEFINED, Cell, Table, count, environment, figure, interval, remove_stale, text_asset, write_whole
from .policy_words import policy_rows, skips_whole_steps

TOKENS, STEPS, CHOSEN = "#b8436f", "#243b63", "#eda128"
MARKERS = {"tokens": "o", "steps": "s"}
FIGURES = "figures"
NEW_PROMPTS = "16"  # the number of new prompts that the interval on the page is for


def render_calibration(directory: Path | str) -> list[Path]:
    """Write `report.html` and `figures/*.svg` beside a calibration.json; gives their paths.

    Raises InputError where the file is missing or not a calibration.
    """
    directory = Path(directory)
    facts = read_calibration(directory)
    with styled():
        drawings = calibration_figures(facts)
    folder = directory / FIGURES
    folder.mkdir(exist_ok=True)
    written = [write_whole(folder / f"{drawing.name}.svg", drawing.svg) for drawing in drawings]
    remove_stale(folder, [drawing.name for drawing in drawings])
    page = environment().get_template("calibration.html.j2").render(
        facts=facts,
        drawings=drawings,
        caption=caption(facts),
        key=key_figures(facts),
        policy=chosen_policy_rows(facts),
        tables={table.name: table for table in (candidate_table(facts), ranking_table(facts))},
        few=few_prompts_words(facts["validation"]["prompts"], "held-out prompts"),
        style=text_asset("report.css"),
        script=text_asset("report.js"),
    )  # fmt: skip
    return [*written, write_whole(directory / "report.html", page)]


def read_calibration(directory: Path) -> CalibrationFacts:
    """The content of a directory's calibration.json, as it can be drawn."""
    return drawable(read_facts(directory))


def calibration_figures(facts: CalibrationFacts) -> list[Drawing]:
    """Those that have something to show, in the order of the page."""
    makers: dict[str, tuple[str, Callable[[CalibrationFacts, Axes], Axes | None], str]] = {
        "front": ("Pareto front", draw_front, "quality against FLOPs, predicted and measured"),
        "spread": ("Spread over held-out prompts", draw_spread, "PSNR of every held-out prompt under every candidate"),
        "agreement": ("Predicted against measured", draw_agreement, "means over held-out prompts"),
        "cliff": ("Sensitivity", draw_sensitivity, "predicted PSNR if one setting is relaxed, and with longer intervals"),
    }
    drawings = []
    for name, (title, draw, alt) in makers.items():
        drawn, ax = new_figure(6.2, 3.2)
        if draw(facts, ax) is not None:
            drawings.append(Drawing(name, title, alt, to_svg(drawn, title, caption(facts)), is_wide=name == "front"))
    return drawings


def draw_front(facts: CalibrationFacts, ax: Axes) -> Axes | None:
    """Every point of the predicted Pareto front, the candidates that were run, and the chosen one."""
    front, candidates, chosen = facts["front"], facts["validation"]["candidates"], facts["chosen"]
    if not front:
        return None
    points = np.array([(point["compute"], point["predicted"]) for point in front])
    ax.plot(points[:, 0], points[:, 1], color="#a3adba", linewidth=1, zorder=1)
    for kind, colour in (("tokens", TOKENS), ("steps", STEPS)):
        own = points[[point["class"].startswith(kind) for point in front]]
        if len(own):
            ax.scatter(own[:, 0], own[:, 1], s=12, color=colour, marker=MARKERS[kind], label=f"{kind}, predicted", zorder=2)
    for index, point in enumerate(candidates):
        measured, marker = point["measured"], MARKERS[point["class"].split(",")[0]]
        label = None if index else "measured, mean of held-out prompts"
        ax.scatter(
            measured["compute"], measured["psnr"], s=46, marker=marker, facecolors="none", edgecolors=INK, zorder=3, label=label
        )
    if chosen is not None:
        mean = chosen.get("measured")
        x, y = (chosen["compute"], chosen["predicted"]) if mean is None else (mean["compute"], mean["psnr"])
        ax.scatter(x, y, s=120, marker="*", color=CHOSEN, edgecolors=INK, linewidths=0.6, label="chosen", zorder=4)
    if facts["target"]["kind"] == "compute":
        ax.axvline(facts["target"]["value"], color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_xlabel("FLOPs, share of the full run")
    ax.set_ylabel(measure_of(facts))
    add_grid(ax, "both")
    ax.legend(fontsize=6.5, frameon=False, loc="lower right")
    return ax


def draw_spread(facts: CalibrationFacts, ax: Axes) -> Axes | None:
    """A row a candidate, a dot a prompt; the bar is the mean."""
    candidates = facts["validation"]["candidates"]
    if not candidates:
        return None
    for row, point in enumerate(candidates):
        psnr = point["each"]["psnr"]
        colour = CHOSEN if _is_chosen(facts, point) else TOKENS if point["class"].startswith("tokens") else STEPS
        ax.scatter(psnr, [row] * len(psnr), s=16, color=colour, alpha=0.85, zorder=2)
        ax.plot([point["measured"]["psnr"]] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=1.4, zorder=3)
    ax.set_yticks(range(len(candidates)), [name_of(point) for point in candidates])
    ax.invert_yaxis()
    ends = prediction_interval(facts)
    if ends is not None:
        ax.axvspan(*ends, color=CHOSEN, alpha=0.15, linewidth=0)
    ax.set_xlabel("PSNR against the full run (dB)\nshaded: 95 % for the mean of 16 new prompts")
    add_grid(ax, "x")
    return ax


def name_of(point: ScoredPolicy) -> str:
    """Its class and, where it has token levels, its map."""
    kind = point["class"]
    return kind if kind.startswith("steps") else f"{kind}, {point['policy'].get('map', 'jano')}"


def draw_agreement(facts: CalibrationFacts, ax: Axes) -> Axes | None:
    """Predicted means against measured ones."""
    candidates = facts["validation"]["candidates"]
    if not candidates:
        return None
    predicted, measured = [p["predicted"] for p in candidates], [p["measured"]["psnr"] for p in candidates]
    low, high = min(predicted + measured) - 1, max(predicted + measured) + 1
    ax.plot([low, high], [low, high], color="#a3adba", linewidth=1)
    ax.scatter(predicted, measured, s=24, color=TOKENS)
    ax.set_xlabel("predicted from the recordings (dB)")
    ax.set_ylabel("measured on held-out prompts (dB)")
    add_grid(ax, "both")
    return ax


def draw_sensitivity(facts: CalibrationFacts, ax: Axes) -> Axes | None:
    """A bar for each setting relaxed: how far its predicted quality lies below the chosen policy's."""
    sensitivity = facts["cliff"]
    if not sensitivity or not sensitivity["notches"] + sensitivity["stretched"]:
        return None
    relaxed, stretched = sorted(sensitivity["notches"], key=lambda row: -row["quality"]), sensitivity["stretched"]
    rows = relaxed + stretched
    drops = [row["quality"] - sensitivity["chosen"] for row in rows]
    ax.barh(range(len(rows)), drops, color=[TOKENS] * len(relaxed) + [STEPS] * len(stretched), height=0.6)
    ax.set_yticks(range(len(rows)), [f"{row['change']}  ({row['compute']:.0%} of the FLOPs)" for row in rows])
    ax.invert_yaxis()
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_xlabel("predicted change against the chosen policy (dB)")
    add_grid(ax, "x")
    return ax


def key_figures(facts: CalibrationFacts) -> list[tuple[str, str, str]]:
    """(words, value, unit) of the chosen policy; empty where there is none."""
    chosen = facts["chosen"]
    if chosen is None:
        return []
    measured, ends = chosen.get("measured"), prediction_interval(facts)
    if measured is None:
        return [
            ("predicted FLOPs", f"{chosen['compute']:.1%}", "of the full run's"),
            ("predicted", f"{chosen['predicted']:.1f}", measure_of(facts)),
        ]
    prompts = facts["validation"]["prompts"]
    return [
        ("FLOPs, counted", f"{measured['compute']:.1%}", "of the full run's"),
        ("PSNR", f"{measured['psnr']:.1f} dB", f"mean of {prompts} held-out prompt{'s' * (prompts != 1)}"),
        ("speedup", f"{measured['speedup']:.2f}×", f"wall time on {facts['model'].get('device') or 'this device'}"),
        (f"{NEW_PROMPTS} new prompts", "–" if ends is None else f"{ends[0]:.1f} to {ends[1]:.1f} dB", "95 % for their mean PSNR"),
    ]


def measure_of(facts: CalibrationFacts) -> str:
    """What the predictions are of, with its unit."""
    return facts["surrogate"].get("measure", "predicted quality (dB)")


def prediction_interval(facts: CalibrationFacts) -> tuple[float, float] | None:
    """(low, high) in dB of the mean PSNR over new prompts; None where nothing was validated."""
    expected = facts["validation"]["prediction_interval"]
    return interval(expected["prediction_interval"].get(NEW_PROMPTS)) if expected else None


def chosen_policy_rows(facts: CalibrationFacts) -> list[tuple[str, str]]:
    """The chosen policy in words; empty where there is none. Raises InputError where the file holds no policy in its place."""
    return policy_rows(_policy(facts["chosen"])) if facts["chosen"] else []


def _policy(point: ScoredPolicy) -> Policy:
    return Policy.from_json(point["policy"], "the policy in calibration.json")


def candidate_table(facts: CalibrationFacts) -> Table:
    """The policies that were run on held-out prompts; no map for one that skips whole steps and uses none."""
    rows = [_candidate_row(point) for point in facts["validation"]["candidates"]]
    heads = ("class", "map", "FLOPs, share of full", "speedup", "predicted (dB)", "PSNR (dB)", "lowest PSNR (dB)")
    return Table("candidates", "Means over held-out prompts", heads, rows).without_empty_columns()


def _candidate_row(point: ValidatedCandidate) -> list[Cell]:
    policy, measured = _policy(point), point["measured"]
    map_name = NOT_DEFINED if skips_whole_steps(policy) else policy.map
    return [
        Cell(point["class"]),
        Cell(map_name),
        figure(measured["compute"], ".3f"),
        figure(measured["speedup"], ".2f"),
        figure(point["predicted"], ".1f"),
        figure(measured["psnr"], ".1f"),
        figure(min(point["each"]["psnr"], default=None), ".1f"),
    ]


def ranking_table(facts: CalibrationFacts) -> Table:
    """How well predictions rank policies: Spearman's correlation of predicted with measured PSNR."""
    rows = [
        [
            Cell(words.replace("_", " ")),
            Cell(name),
            figure(row["spearman"], ".2f"),
            figure(row["rmse_db"], ".1f"),
            count(row["runs"]),
        ]
        for words, ranking in facts["surrogate"].get("spearman", {}).items()
        for name, row in [("across classes", ranking["across"]), *ranking["within"].items()]
    ]
    return Table("ranking", "Predicted against measured PSNR", ("over", "within", "Spearman", "error (dB)", "cases"), rows)


def _is_chosen(facts: CalibrationFacts, point: ScoredPolicy) -> bool:
    return facts["chosen"] is not None and facts["chosen"]["policy"] == point["policy"]


def caption(facts: CalibrationFacts) -> str:
    """Model, steps, prompts, runs and device."""
    model, runs = facts["model"], facts["runs"]
    how = f"{runs} generations on {model.get('device') or 'an unknown device'}" if runs else "recordings alone, nothing was run"
    prompts = len({entry["prompt"] for entry in facts["prompts"]})
    return f"{model['name']}, {facts['steps']} steps, {prompts} prompt{'s' * (prompts != 1)}, {how}"
