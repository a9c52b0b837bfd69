"""The page of a comparison, in one file: plot, tables, images with their errors, videos that play together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np

from ...results.comparison import AtEqualCompute, ComparisonFacts, Means, Paired, RowFacts
from ...results.few_prompts import few_prompts_words
from ..drawing.error_scale import error_map, error_scale, shaded
from ..drawing.images import fitted
from ..drawing.svg import Drawing
from ..page import Cell, Table, count, environment, figure, interval, number, span, text_asset
from ..player import FRAMES_A_SECOND, MOST_FRAMES, encode

FULL = "full"
LONGEST = 320  # pixels of an embedded image
STRIP = 5  # frames
Size = Literal["cache_bytes", "peak_bytes"]
SHADES = 16  # of the scale under the images
WORDS = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS"}


@dataclass(frozen=True)
class Card:
    """A method's images in the page. frames, errors: data addresses. strip, strip_errors: of a video's frames side by side."""

    label: str
    words: str
    frames: Sequence[str]
    errors: Sequence[str]
    strip: str
    strip_errors: str
    width: int
    height: int


def comparison_page(facts: ComparisonFacts, caption: str, pareto: Drawing | None, images: Mapping[str, np.ndarray]) -> str:
    """HTML of comparison.json. images: label -> uint8 (frame, row, col, 3) of the first prompt and seed, `full` first."""
    cards, most = cards_of(facts, images)
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


def _warnings(facts: ComparisonFacts) -> Iterator[str]:
    if not facts["complete"]:
        yield "Incomplete: the comparison stopped before its last call."
    if few := few_prompts_words(compared_prompts(facts)):
        yield few
    for row in facts["rows"]:
        if row["note"].startswith("failed"):
            yield f"{row['label']} {row['note']}"


def compared_prompts(facts: ComparisonFacts) -> int:
    """How many prompts stand behind the intervals."""
    return max((len({run["prompt"] for run in row["runs"]}) for row in facts["rows"]), default=0)


# --- tables ---


def method_table(facts: ComparisonFacts) -> Table:
    """Cost and quality of every method, means over the runs."""
    has_peak = any(run.get("peak_bytes") is not None for row in facts["rows"] for run in row["runs"])  # on CUDA only
    sizes: tuple[Size, ...] = ("cache_bytes", "peak_bytes") if has_peak else ("cache_bytes",)
    rows = [[*_mean_cells(row), *(_most_mib(row, name) for name in sizes), count(len(row["runs"]))] for row in facts["rows"]]
    heads = ["method", "FLOPs, share of full", "speedup", "interval", "efficiency", "PSNR (dB)", "interval", "SSIM", "MS-SSIM",
             "LPIPS", "wall (s)", "CPU (s)", *("cache (MiB)", "peak (MiB)")[: len(sizes)], "runs"]  # fmt: skip
    return Table("methods", "Means over the runs, 95 % intervals over prompts", heads, rows).without_empty_columns()


def _mean_cells(row: RowFacts) -> list[Cell]:
    mean, ends = row["mean"], row["interval"]
    return [
        Cell(row["label"], note=_note(row)),
        figure(mean["compute"], ".3f"),
        figure(mean.get("speedup"), ".2f"),
        span(None if row["label"] == FULL else ends.get("speedup"), ".2f"),
        figure(mean.get("efficiency"), ".2f"),
        figure(mean["psnr"], ".2f"),
        span(ends["psnr"], ".1f"),
        figure(mean.get("ssim"), ".4f"),
        figure(mean.get("ms_ssim"), ".4f"),
        figure(mean.get("lpips"), ".4f"),
        figure(mean.get("wall_s"), ".2f"),
        figure(mean.get("cpu_s"), ".2f"),
    ]


def _too_noisy(row: RowFacts) -> bool:
    """Whether the times do not say if the method is faster or slower than the full run."""
    between = interval(row["interval"].get("speedup"))
    return row["label"] != FULL and between is not None and between[0] < 1 < between[1]


def _note(row: RowFacts) -> str:
    identical = sum(bool(run.get("identical")) for run in row["runs"])
    same = f"{identical} of {len(row['runs'])} images identical" if identical else ""
    failed = "failed, see above" if row["note"].startswith("failed") else row["note"]
    noisy = "times too noisy for a speedup: its interval spans 1" if _too_noisy(row) else ""
    return "; ".join(text for text in (failed, same, noisy) if text)


def _most_mib(row: RowFacts, name: Size) -> Cell:
    sizes = [size for run in row["runs"] if (size := run[name]) is not None]
    return figure(max(sizes) / 2**20 if sizes else None, ".1f")


def paired_table(facts: ComparisonFacts) -> Table:
    """The first method after the full run against every other, paired by prompt and seed."""
    first = _first(facts)
    rows = []
    for entry in facts["paired"]:
        if first not in (entry["first"], entry["second"]):
            continue
        sign = 1 if entry["first"] == first else -1
        other = entry["second"] if sign == 1 else entry["first"]
        rows.append([Cell(other), *_difference(entry, sign)])
    return Table("paired", f"Paired PSNR difference, {first} minus other", ("other method", *DIFFERENCE), rows)


DIFFERENCE = ("difference (dB)", "95% interval", "runs")


def _first(facts: ComparisonFacts) -> str:
    return next((row["label"] for row in facts["rows"] if row["label"] != FULL and row["runs"]), "")


def _difference(entry: Paired | AtEqualCompute, sign: int = 1) -> list[Cell]:
    value, ends = number(entry["value"]), sorted(sign * end for end in (entry["low"], entry["high"]) if end is not None)
    return [figure(None if value is None else sign * value, "+.2f"), span(ends or None, "+.2f"), count(entry["runs"])]


def equal_compute_table(facts: ComparisonFacts) -> Table:
    """Every row against every other method at the row's compute, on that method's Pareto front."""
    rows = [[Cell(entry["row"]), Cell(entry["against"]), *_difference(entry)] for entry in facts["equal_compute"]]
    heads = ("row", "other method", *DIFFERENCE)
    return Table("equal-compute", "PSNR difference at equal compute, row minus Pareto front of the other", heads, rows)


# --- images ---


def cards_of(facts: ComparisonFacts, images: Mapping[str, np.ndarray]) -> tuple[list[Card], float]:
    """A card a method, and where the scale of the errors ends (0..255)."""
    if len(images) < 2:
        return [], 1.0
    videos = {label: _thinned(frames) for label, frames in images.items()}
    reference = next(iter(videos.values()))
    errors = {label: error_map(reference, frames) for label, frames in videos.items()}
    most = error_scale(list(errors.values()))
    means = {row["label"]: row["mean"] for row in facts["rows"]}
    cards = [_card(label, video, shaded(errors[label], most), means.get(label)) for label, video in videos.items()]
    return cards, most


def _card(label: str, video: np.ndarray, errors: np.ndarray, mean: Means | None) -> Card:
    frames, _ = encode(list(video))
    error_frames, _ = encode(list(errors))
    strip, strip_errors = ("", "") if len(video) == 1 else (encode([_strip(part)])[0][0] for part in (video, errors))
    words = ", ".join(mean_words(mean))
    return Card(label, words, frames, error_frames, strip, strip_errors, video.shape[2], video.shape[1])


def mean_words(mean: Means | None) -> list[str]:
    """FLOPs and PSNR of a row, those that are known, such as `56.2 % of the FLOPs`."""
    if mean is None:
        return []
    compute, quality = number(mean["compute"]), number(mean["psnr"])
    words = [f"{100 * compute:.1f} % of the FLOPs"] if compute is not None else []
    return words + ([f"{quality:.1f} dB"] if quality is not None else [])


def _thinned(video: np.ndarray) -> np.ndarray:
    """At most MOST_FRAMES frames, the first and last among them, at the size they are embedded in."""
    chosen = np.unique(np.linspace(0, len(video) - 1, min(len(video), MOST_FRAMES)).round().astype(int))
    return np.stack([fitted(video[at], LONGEST) for at in chosen])


def _strip(video: np.ndarray) -> np.ndarray:
    """Frames of a video side by side, evenly from the first to the last."""
    chosen = np.unique(np.linspace(0, len(video) - 1, min(STRIP, len(video))).round().astype(int))
    return np.concatenate([video[at] for at in chosen], axis=1)
