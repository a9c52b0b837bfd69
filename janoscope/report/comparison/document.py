"""The page of a comparison, in one file: plot, tables, pictures with their errors, clips that play together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np

from ...results.few_prompts import few_prompts_words
from ..drawing.error_scale import error_map, error_scale, shaded
from ..drawing.images import fitted
from ..drawing.svg import Drawing
from ..page import Cell, Table, count, environment, figure, interval, number, span, text_asset
from ..player import FRAMES_A_SECOND, MOST_FRAMES, encode

FULL = "full"
LONGEST = 320  # pixels of an embedded picture
STRIP = 5  # frames
SHADES = 16  # of the scale under the pictures
WORDS = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS"}


@dataclass(frozen=True)
class Card:
    """A method's pictures in the page. frames, errors: data addresses. strip, strip_errors: of a clip's frames side by side."""

    label: str
    words: str
    frames: Sequence[str]
    errors: Sequence[str]
    strip: str
    strip_errors: str
    width: int
    height: int


def comparison_page(facts: Mapping[str, Any], caption: str, pareto: Drawing | None, pictures: Mapping[str, np.ndarray]) -> str:
    """HTML of comparison.json. pictures: label -> uint8 (frame, row, col, 3) of the first prompt and seed, `full` first."""
    cards, most = cards_of(facts, pictures)
    return environment().get_template("comparison.html.j2").render(
        facts=facts,
        caption=caption,
        warnings=list(_warnings(facts)),
        pareto=pareto,
        tables={table.name: table for table in (method_table(facts), paired_table(facts), equal_compute_table(facts))},
        empty=[f"{WORDS.get(measure, measure)} is empty: {reason.rstrip('.')}." for measure, reason in facts["missing"].items()],
        cards=cards,
        most=most,
        shades=[matplotlib.colors.to_hex(shade / 255) for shade in shaded(np.linspace(0, most, SHADES), most)],
        frames=max((len(card.frames) for card in cards), default=0),
        rate=FRAMES_A_SECOND,
        style=text_asset("report.css"),
        script=text_asset("report.js"),
    )  # fmt: skip


def _warnings(facts: Mapping[str, Any]) -> Iterator[str]:
    if not facts.get("complete", True):
        yield "Incomplete: the comparison stopped before its last call."
    if few := few_prompts_words(compared_prompts(facts)):
        yield few
    for row in facts["rows"]:
        if row["note"].startswith("failed"):
            yield f"{row['label']} {row['note']}"


def compared_prompts(facts: Mapping[str, Any]) -> int:
    """How many prompts stand behind the intervals."""
    return max((len({run["prompt"] for run in row["runs"]}) for row in facts["rows"]), default=0)


# --- tables ---


def method_table(facts: Mapping[str, Any]) -> Table:
    """What every method took and gave, means over the runs."""
    forms = (("compute", ".3f"), ("psnr", ".2f"), ("ssim", ".4f"), ("ms_ssim", ".4f"), ("lpips", ".4f"), ("wall_s", ".2f"),
             ("cpu_s", ".2f"))  # fmt: skip
    full = next((row for row in facts["rows"] if row["label"] == FULL), None)
    has_peak = any(run.get("peak_bytes") is not None for row in facts["rows"] for run in row["runs"])  # on CUDA only
    sizes = ("cache_bytes", "peak_bytes") if has_peak else ("cache_bytes",)
    rows = []
    for row in facts["rows"]:
        cells = [figure(row["mean"].get(name), form) for name, form in forms]
        cells.insert(2, span(row["interval"].get("psnr"), ".1f"))
        speedup, compute = speedup_of(row, full), number(row["mean"].get("compute"))
        efficiency = None if speedup is None or compute is None else speedup * compute
        between = None if row is full else row["interval"].get("speedup")
        cells[1:1] = [figure(speedup, ".2f"), span(between, ".2f"), figure(efficiency, ".2f")]
        held = [_most_mib(row, name) for name in sizes]
        rows.append([Cell(row["label"], note=_note(row)), *cells, *held, count(len(row["runs"]))])
    heads = ["method", "compute", "speedup", "interval", "efficiency", "PSNR (dB)", "interval", "SSIM", "MS-SSIM", "LPIPS",
             "wall (s)", "CPU (s)", *("cache (MiB)", "peak (MiB)")[: len(sizes)], "runs"]  # fmt: skip
    return Table("methods", "Means over the runs, 95 % intervals over prompts", heads, rows).without_empty_columns()


def speedup_of(row: Mapping[str, Any], full: Mapping[str, Any] | None) -> float | None:
    """Wall time of the full runs over that of a row's runs of the same prompts and seeds: as the wall column has them.

    A mean of ratios can say that a row is faster which took longer. Without a full row the mean that the file has.
    """
    times = {} if full is None else {(run["prompt"], run["seed"]): number(run.get("wall_s")) for run in full["runs"]}
    pairs = [(times.get((run["prompt"], run["seed"])), number(run.get("wall_s"))) for run in row["runs"]]
    known = [(before, now) for before, now in pairs if before is not None and now]
    if not known:
        return number(row["mean"].get("speedup"))
    return sum(before for before, _ in known) / sum(now for _, now in known)


def _too_noisy(row: Mapping[str, Any]) -> bool:
    """Whether the times do not say if the method is faster or slower than the full run."""
    between = interval(row["interval"].get("speedup"))
    return row["label"] != FULL and between is not None and between[0] < 1 < between[1]


def _note(row: Mapping[str, Any]) -> str:
    identical = sum(bool(run.get("identical")) for run in row["runs"])
    same = f"{identical} of {len(row['runs'])} pictures identical" if identical else ""
    failed = "failed, see above" if row["note"].startswith("failed") else row["note"]
    noisy = "times too noisy for a speedup: its interval spans 1" if _too_noisy(row) else ""
    return "; ".join(text for text in (failed, same, noisy) if text)


def _most_mib(row: Mapping[str, Any], name: str) -> Cell:
    held = [run[name] for run in row["runs"] if run.get(name) is not None]
    return figure(max(held) / 2**20 if held else None, ".1f")


def paired_table(facts: Mapping[str, Any]) -> Table:
    """The first method after the full run against every other, run by run."""
    first = _first(facts)
    rows = []
    for entry in facts["paired"]:
        if first not in (entry["first"], entry["second"]):
            continue
        sign = 1 if entry["first"] == first else -1
        other = entry["second"] if sign == 1 else entry["first"]
        rows.append([Cell(other), *_difference(entry, sign)])
    return Table("paired", f"{first} less the other, PSNR run by run", ("other method", *DIFFERENCE), rows)


DIFFERENCE = ("difference (dB)", "95% interval", "runs")


def _first(facts: Mapping[str, Any]) -> str:
    return next((row["label"] for row in facts["rows"] if row["label"] != FULL and row["runs"]), "")


def _difference(entry: Mapping[str, Any], sign: int = 1) -> list[Cell]:
    value, ends = number(entry["value"]), sorted(sign * end for end in (entry["low"], entry["high"]) if end is not None)
    return [figure(None if value is None else sign * value, "+.2f"), span(ends or None, "+.2f"), count(int(entry["runs"]))]


def equal_compute_table(facts: Mapping[str, Any]) -> Table:
    rows = [[Cell(entry["row"]), Cell(entry["against"]), *_difference(entry)] for entry in facts["equal_compute"]]
    return Table("equal-compute", "A row less another method's front at the same compute", ("row", "against", *DIFFERENCE), rows)


# --- pictures ---


def cards_of(facts: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> tuple[list[Card], float]:
    """A card a method, and where the scale of the errors ends (0..255)."""
    if len(pictures) < 2:
        return [], 1.0
    clips = {label: _thinned(clip) for label, clip in pictures.items()}
    reference = next(iter(clips.values()))
    errors = {label: error_map(reference, clip) for label, clip in clips.items()}
    most = error_scale(list(errors.values()))
    means = {row["label"]: row["mean"] for row in facts["rows"]}
    cards = [_card(label, clip, shaded(errors[label], most), means.get(label, {})) for label, clip in clips.items()]
    return cards, most


def _card(label: str, clip: np.ndarray, errors: np.ndarray, mean: Mapping[str, Any]) -> Card:
    compute, quality = number(mean.get("compute")), number(mean.get("psnr"))
    told = [f"compute {compute:.3f}" if compute is not None else "", f"{quality:.1f} dB" if quality is not None else ""]
    frames, _ = encode(list(clip))
    shown, _ = encode(list(errors))
    strip, strip_errors = ("", "") if len(clip) == 1 else (encode([_strip(part)])[0][0] for part in (clip, errors))
    words = ", ".join(text for text in told if text)
    return Card(label, words, frames, shown, strip, strip_errors, clip.shape[2], clip.shape[1])


def _thinned(clip: np.ndarray) -> np.ndarray:
    """At most so many frames, first and last kept, at the size they are embedded in."""
    chosen = np.unique(np.linspace(0, len(clip) - 1, min(len(clip), MOST_FRAMES)).round().astype(int))
    return np.stack([fitted(clip[at], LONGEST) for at in chosen])


def _strip(clip: np.ndarray) -> np.ndarray:
    """Frames of a clip side by side, evenly from the first to the last."""
    chosen = np.unique(np.linspace(0, len(clip) - 1, min(STRIP, len(clip))).round().astype(int))
    return np.concatenate([clip[at] for at in chosen], axis=1)
