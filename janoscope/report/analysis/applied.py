"""The applied run beside the full one: the pair of pictures, where they differ, and what was computed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...results.images import read_picture
from ..drawing.error_scale import error_map, reduced
from ..drawing.maps import MapPanel, PicturePanel, draw_map, draw_picture
from ..drawing.style import ERROR_CMAP
from ..drawing.svg import Drawing
from ..page import Table, number
from .figures import PANEL_IN, drawing
from .results import AnalysisResults
from .tables import account_table

FACTS = "apply.json"
# name in apply.json, words, format
FIGURES = (
    ("compute", "compute, counted", "{:.3f}"),
    ("token_fraction", "share of tokens computed", "{:.3f}"),
    ("speedup", "speedup, measured", "{:.2f}×"),
    ("psnr", "PSNR", "{:.2f} dB"),
    ("ssim", "SSIM", "{:.4f}"),
)


@dataclass(frozen=True)
class Applied:
    """The section of the report: key figures as (words, text), drawings in order, the account."""

    figures: list[tuple[str, str]]
    drawings: list[Drawing]
    account: Table | None


def applied_section(results: AnalysisResults) -> Applied | None:
    """None before `apply`. Pictures that are not at hand are left out; the figures stay."""
    facts = results.applied
    if facts is None:
        return None
    figures = [(words, form.format(value)) for name, words, form in FIGURES if (value := quality_value(facts, name)) is not None]
    cache = number(facts.get("cache_bytes"))
    if cache is not None:
        figures.append(("cache", f"{cache / 2**20:.1f} MiB"))
    account = facts.get("account")
    return Applied(figures, list(_drawings(results, facts)), account_table(account) if isinstance(account, dict) else None)


def quality_value(facts: Mapping[str, Any], name: str) -> float | None:
    """A figure of apply.json. PSNR may be infinite, which JSON has no number for: the pictures are identical."""
    value = facts.get(name)
    return math.inf if value in (math.inf, "inf") or (name == "psnr" and facts.get("identical") is True) else number(value)


def _drawings(results: AnalysisResults, facts: Any) -> Iterator[Drawing]:
    reference, output = (_picture(results.directory, facts.get(name)) for name in ("reference", "output"))
    tokens = results.grid.tokens[1:]
    for name, title, picture in (("reference", "Full run", reference), ("applied", "With the plan", output)):
        if picture is not None:
            frame = _middle(picture)
            alt = f"{title}: the picture it decoded to."
            yield drawing(results, name, title, alt, _size(frame), PicturePanel(frame, tokens), draw_picture)
    if reference is not None and output is not None and reference.shape == output.shape:
        error = error_map(_middle(reference), _middle(output))
        shown = reduced(error)
        data = MapPanel(shown, (0.0, max(float(shown.max()), 1.0)), "mean absolute difference (0..255)", ERROR_CMAP)
        alt = f"Where they differ: mean {error.mean():.2f}, at most {error.max():.0f} of 255."
        yield drawing(results, "error", "Difference", alt, _size(_middle(reference)), data, draw_map)


def _middle(picture: np.ndarray) -> np.ndarray:
    at = len(picture) // 2
    return picture[at : at + 1]


def _size(frame: np.ndarray) -> tuple[float, float]:
    return PANEL_IN, PANEL_IN * frame.shape[1] / frame.shape[2]


def _picture(directory: Path, name: Any) -> np.ndarray | None:
    if not isinstance(name, str) or not name:
        return None
    path = directory / Path(name).name  # the name only, as for the recording
    return read_picture(path) if path.is_file() else None
