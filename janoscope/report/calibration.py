"""A calibration's page: the front with the chosen point, its spread over prompts, how far the predictions hold, and the cliff."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..results.calibration import read_facts
from ..results.few_prompts import few_prompts_words
from .drawable import drawable
from .drawing.style import INK, MUTED, add_grid, new_figure, styled
from .drawing.svg import Drawing, to_svg
from .page import environment, number, remove_stale, text_asset, write_whole

TOKENS, STEPS, CHOSEN = "#b8436f", "#243b63", "#eda128"
MARKERS = {"tokens": "o", "steps": "s"}
FIGURES = "figures"


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
    template = environment().get_template("calibration.html.j2")
    page = template.render(
        facts=facts,
        drawings=drawings,
        caption=caption(facts),
        key=key_figures(facts),
        few=few_prompts_words(facts["validation"]["prompts"], "held-out prompts"),
        style=text_asset("report.css"),
    )
    return [*written, write_whole(directory / "report.html", page)]


def read_calibration(directory: Path) -> dict[str, Any]:
    """The content of a directory's calibration.json."""
    facts: dict[str, Any] = drawable(read_facts(directory))
    return facts


def calibration_figures(facts: Mapping[str, Any]) -> list[Drawing]:
    """Those that have something to show, in the order of the page."""
    makers = {
        "front": ("Front", draw_front, "quality against compute, predicted and measured"),
        "spread": ("Spread over held-out prompts", draw_spread, "PSNR of every held-out prompt under every candidate"),
        "agreement": ("Predicted against measured", draw_agreement, "means over held-out prompts"),
        "cliff": ("The ground around the policy", draw_cliff, "predicted quality one notch looser and with longer intervals"),
    }
    drawings = []
    for name, (title, draw, alt) in makers.items():
        figure, ax = new_figure(6.2, 3.2)
        if draw(facts, ax) is not None:
            drawings.append(Drawing(name, title, alt, to_svg(figure, title, caption(facts)), is_wide=name == "front"))
    return drawings


def draw_front(facts: Mapping[str, Any], ax: Axes) -> Axes | None:
    """Every point of the predicted front, the candidates that were run, and the chosen one."""
    front, seen, chosen = facts["front"], facts["validation"]["candidates"], facts["chosen"]
    if not front:
        return None
    points = np.array([(point["compute"], point["predicted"]) for point in front])
    ax.plot(points[:, 0], points[:, 1], color="#a3adba", linewidth=1, zorder=1)
    for kind, colour in (("tokens", TOKENS), ("steps", STEPS)):
        own = points[[point["class"].startswith(kind) for point in front]]
        if len(own):
            ax.scatter(own[:, 0], own[:, 1], s=12, color=colour, marker=MARKERS[kind], label=f"{kind}, predicted", zorder=2)
    for index, point in enumerate(seen):
        measured, kind = point["measured"], point["class"].split(",")[0]
        style: dict[str, Any] = {"s": 46, "facecolors": "none", "edgecolors": INK, "marker": MARKERS[kind], "zorder": 3}
        ax.scatter(measured["compute"], measured["psnr"], label=None if index else "measured, mean of held-out prompts", **style)
    if chosen is not None:
        at = chosen.get("measured") or {"compute": chosen["compute"], "psnr": chosen["predicted"]}
        ax.scatter(
            at["compute"], at["psnr"], s=120, marker="*", color=CHOSEN, edgecolors=INK, linewidths=0.6, label="chosen", zorder=4
        )
    if facts["target"]["kind"] == "compute":
        ax.axvline(facts["target"]["value"], color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_xlabel("compute (fraction of the full run's FLOPs)")
    ax.set_ylabel(facts["surrogate"]["measure"])
    add_grid(ax, "both")
    ax.legend(fontsize=6.5, frameon=False, loc="lower right")
    return ax


def draw_spread(facts: Mapping[str, Any], ax: Axes) -> Axes | None:
    """A row a candidate, a dot a prompt; the bar is the mean."""
    seen = facts["validation"]["candidates"]
    if not seen:
        return None
    for row, point in enumerate(seen):
        psnr = point["each"]["psnr"]
        colour = CHOSEN if _is_chosen(facts, point) else TOKENS if point["class"].startswith("tokens") else STEPS
        ax.scatter(psnr, [row] * len(psnr), s=16, color=colour, alpha=0.85, zorder=2)
        ax.plot([point["measured"]["psnr"]] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=1.4, zorder=3)
    ax.set_yticks(range(len(seen)), [name_of(point) for point in seen])
    ax.invert_yaxis()
    interval = _interval(facts)
    if interval is not None:
        ax.axvspan(*interval, color=CHOSEN, alpha=0.15, linewidth=0)
    ax.set_xlabel("PSNR against the full run (dB)\nshaded: 95 % for the mean of 16 new prompts")
    add_grid(ax, "x")
    return ax


def name_of(point: Mapping[str, Any]) -> str:
    """Its class and, where there are levels to be told apart, its map."""
    kind: str = point["class"]
    return kind if kind.startswith("steps") else f"{kind}, {point['policy']['map']}"


def draw_agreement(facts: Mapping[str, Any], ax: Axes) -> Axes | None:
    """Predicted means against measured ones."""
    seen = facts["validation"]["candidates"]
    if not seen:
        return None
    predicted, measured = [p["predicted"] for p in seen], [p["measured"]["psnr"] for p in seen]
    low, high = min(predicted + measured) - 1, max(predicted + measured) + 1
    ax.plot([low, high], [low, high], color="#a3adba", linewidth=1)
    ax.scatter(predicted, measured, s=24, color=TOKENS)
    ax.set_xlabel("predicted from the recordings (dB)")
    ax.set_ylabel("measured on held-out prompts (dB)")
    add_grid(ax, "both")
    return ax


def draw_cliff(facts: Mapping[str, Any], ax: Axes) -> Axes | None:
    """A bar a looser setting: where its predicted quality lies below the chosen policy's."""
    cliff = facts["cliff"]
    if not cliff or not cliff["notches"] + cliff["stretched"]:
        return None
    rows = sorted(cliff["notches"], key=lambda notch: -notch["quality"]) + cliff["stretched"]
    drops = [row["quality"] - cliff["chosen"] for row in rows]
    ax.barh(range(len(rows)), drops, color=[TOKENS] * len(cliff["notches"]) + [STEPS] * len(cliff["stretched"]), height=0.6)
    ax.set_yticks(range(len(rows)), [f"{row['change']}  (compute {row['compute']:.2f})" for row in rows])
    ax.invert_yaxis()
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_xlabel("predicted change against the chosen policy (dB)")
    add_grid(ax, "x")
    return ax


def key_figures(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(words, value, unit) of the chosen policy; empty where there is none."""
    chosen = facts["chosen"]
    if chosen is None:
        return []
    measured, interval = chosen.get("measured"), _interval(facts)
    if measured is None:
        return [
            ("predicted compute", f"{chosen['compute']:.3f}", "of the full run's FLOPs"),
            ("predicted", f"{chosen['predicted']:.1f}", facts["surrogate"]["measure"]),
        ]
    spread = facts["validation"]["prompts"]
    return [
        ("compute", f"{measured['compute']:.3f}", "of the full run's FLOPs, measured"),
        ("PSNR", f"{measured['psnr']:.1f} dB", f"mean of {spread} held-out prompt{'s' * (spread != 1)}"),
        ("speedup", f"{measured['speedup']:.2f}×", f"wall time on {facts['model'].get('device', 'this device')}"),
        ("16 new prompts", "–" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f} dB", "95 % for their mean PSNR"),
    ]


def _interval(facts: Mapping[str, Any]) -> Sequence[float] | None:
    expected = facts["validation"]["prediction_interval"]
    found: Sequence[float] | None = expected["prediction_interval"]["16"] if expected else None
    return found if found and all(number(end) is not None for end in found) else None


def _is_chosen(facts: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    return facts["chosen"] is not None and facts["chosen"]["policy"] == point["policy"]


def caption(facts: Mapping[str, Any]) -> str:
    """Model, steps, prompts, runs and device."""
    model, runs = facts["model"], facts["runs"]
    how = f"{runs} generations on {model.get('device', 'unknown')}" if runs else "recordings alone, nothing was run"
    prompts = len({entry["prompt"] for entry in facts["prompts"]})
    return f"{model['name']}, {facts['steps']} steps, {prompts} prompt{'s' * (prompts != 1)}, {how}"
