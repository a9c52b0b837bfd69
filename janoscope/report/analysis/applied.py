"""The applied run beside the full one: the pair of images, where they differ, and what was computed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...results.applied import AppliedFacts
from ...results.images import read_image
from ..drawing.error_scale import error_map, reduced
from ..drawing.maps import MapPanel, PicturePanel, draw_map, draw_picture
from ..drawing.style import ERROR_CMAP
from ..drawing.svg import Drawing
from ..page import Table, number
from .figures import PANEL_IN, drawing
from .tables import summary_table
from .view import AnalysisView

FACTS = "apply.json"
# name in apply.json, words, format
FIGURES = (
    ("compute", "FLOPs, counted", "{:.1%}"),
    ("token_fraction", "tokens computed", "{:.1%}"),
    ("speedup", "speedup, measured", "{:.2f}×"),
    ("psnr", "PSNR", "{:.2f} dB"),
    ("ssim", "SSIM", "{:.4f}"),
)


@dataclass(frozen=True)
class Applied:
    """The section of the report: key figures as (words, text), drawings in order, the run summary."""

    figures: list[tuple[str, str]]
    drawings: list[Drawing]
    summary: Table | None


def applied_section(view: AnalysisView) -> Applied | None:
    """None before `apply`. Images that are not at hand are left out; the numbers stay."""
    facts = view.applied
    if facts is None:
        return None
    figures = [(words, form.format(value)) for name, words, form in FIGURES if (value := quality_value(facts, name)) is not None]
    cache = number(facts.get("cache_bytes"))
    if cache is not None:
        figures.append(("cache", f"{cache / 2**20:.1f} MiB"))
    summary = facts.get("account")
    return Applied(figures, list(_drawings(view, facts)), None if summary is None else summary_table(summary))


def quality_value(facts: AppliedFacts, name: str) -> float | None:
    """A number of apply.json. PSNR may be infinite, which JSON has no number for: the images are identical."""
    value = facts.get(name)
    return math.inf if value in (math.inf, "inf") or (name == "psnr" and facts.get("identical") is True) else number(value)


def _drawings(view: AnalysisView, facts: AppliedFacts) -> Iterator[Drawing]:
    reference, output = _image(view.directory, facts.get("reference")), _image(view.directory, facts.get("output"))
    tokens = view.grid.tokens[1:]
    for name, title, image in (("reference", "Full run", reference), ("applied", "With the plan", output)):
        if image is not None:
            frame = _middle(image)
            alt = f"{title}: the decoded image."
            yield drawing(view, name, title, alt, _size(frame), PicturePanel(frame, tokens), draw_picture)
    if reference is not None and output is not None and reference.shape == output.shape:
        error = error_map(_middle(reference), _middle(output))
        shown = reduced(error)
        data = MapPanel(shown, (0.0, max(float(shown.max()), 1.0)), "mean absolute difference (0..255)", ERROR_CMAP)
        alt = f"Where they differ: mean {error.mean():.2f}, at most {error.max():.0f} of 255."
        yield drawing(view, "error", "Difference", alt, _size(_middle(reference)), data, draw_map)


def _middle(image: np.ndarray) -> np.ndarray:
    at = len(image) // 2
    return image[at : at + 1]


def _size(frame: np.ndarray) -> tuple[float, float]:
    return PANEL_IN, PANEL_IN * frame.shape[1] / frame.shape[2]


def _image(directory: Path, name: str | None) -> np.ndarray | None:
    if not name:
        return None
    path = directory / Path(name).name  # the name only, as for the recording
    return read_image(path) if path.is_file() else None
