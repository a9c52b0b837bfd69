"""View: one analysis with what lies beside it, as figures, tables and words need it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ...analysis import token_means
from ...conversion import is_flow
from ...errors import InputError
from ...grid import TokenGrid, Triple
from ...plan import Plan, TokenLevel
from ...results.aggregate import AggregateFacts
from ...results.analysis import AnalysisFacts, AnalysisResult
from ...results.applied import AppliedFacts, read_applied
from ...results.images import find_image
from ..drawable import drawable

VERDICT_LEVELS = ("separates", "weak", "none")


@dataclass(frozen=True, repr=False)
class AnalysisView:
    """One analysis as its page shows it.

    directory: where it lies. result: the analysis, its strings free of what cannot be drawn. applied: apply.json, None before
    `apply`. recording: the recorded run, image: uint8 (frame, row, col, 3) that it decoded to; each None where it is not at hand.
    """

    directory: Path
    result: AnalysisResult
    applied: AppliedFacts | None
    recording: Path | None
    image: np.ndarray | None

    @property
    def facts(self) -> AnalysisFacts:
        """analysis.json."""
        return self.result.facts

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """analysis.npz by name."""
        return self.result.arrays

    @property
    def plan(self) -> Plan:
        """plan.json."""
        return self.result.plan

    @cached_property
    def grid(self) -> TokenGrid:
        return TokenGrid.from_json(self.facts["grid"])

    @property
    def is_flow(self) -> bool:
        """Whether the raw output already is the flow velocity."""
        return is_flow(self.facts["conversion"].get("prediction_type", ""))

    @property
    def verdict(self) -> tuple[str, str] | None:
        """(level, sentence) of the verdict on the map; None where the analysis, of an earlier version, holds none."""
        return verdict_of(self.facts)

    @property
    def steps(self) -> int:
        """Steps that were recorded; the plan may have more where the recording stopped early."""
        return int(self.arrays["timestep"].size)

    @property
    def tile(self) -> Triple:
        frames, rows, cols = self.facts["complexity"]["tile"]
        return int(frames), int(rows), int(cols)

    @property
    def levels(self) -> np.ndarray:
        """Ranks as a token map (frame, row, col): 1 static, 2 moderate, 3 active."""
        return self.plan.ranks.reshape(self.grid.tokens)

    def tokens_at(self, level: TokenLevel) -> np.ndarray:
        """Which tokens have this level, (token,) bool."""
        return np.asarray(self.plan.ranks == level.rank)

    def token_map(self, name: str) -> np.ndarray:
        """An array of tiles or tokens as a token map (frame, row, col), float64; a token takes the mean over its cells.

        Tokens that held values that are not finite are NaN.
        """
        values = np.asarray(self.arrays[name], dtype=np.float64)
        flat = token_means(values, self.grid, self.tile) if values.ndim == 3 else self.shown_tokens(values)
        return flat.reshape(self.grid.tokens)

    def shown_tokens(self, values: np.ndarray) -> np.ndarray:
        """(..., token) as float64 with NaN at masked tokens."""
        masked = self.arrays.get("masked_tokens")
        measured = np.asarray(values, dtype=np.float64)
        return measured if masked is None else np.where(masked.astype(bool), np.nan, measured)

    def curve_bands(self, name: str) -> dict[str, np.ndarray] | None:
        """(low, median, high) x step by level name and `all`, of 0.1, 0.5 and 0.9; None where the analysis stored no such curve.

        name: of the array without `curve_` and `_quantiles`. Groups without tokens are left out.
        """
        stored, curves = self.arrays.get(f"curve_{name}_quantiles"), self.facts.get("curves") or {"groups": [], "quantiles": []}
        quantiles = curves.get("quantiles", [])
        if stored is None or not {0.1, 0.5, 0.9} <= set(quantiles):
            return None
        chosen = stored[:, [quantiles.index(quantile) for quantile in (0.1, 0.5, 0.9)]].astype(np.float64)
        return {group: band for group, band in zip(curves.get("groups", []), chosen, strict=True) if np.isfinite(band).any()}

    def caption(self) -> str:
        """Model, steps, size, seed and version: what a figure must say about its origin."""
        run, size = self.facts["run"], "unknown size"
        if self.image is not None:
            frames, rows, cols = self.image.shape[:3]
            size = f"{cols} x {rows} px" + (f", {frames} frames" if frames > 1 else "")
        version = self.facts["versions"].get("janoscope", "unknown")
        return f"{run.get('model', 'unknown model')}, {self.steps} steps, {size}, seed {run.get('seed')}, janoscope {version}"


def read_view(directory: Path, recording: Path | None = None) -> AnalysisView:
    """Read an analysis directory and what lies beside it.

    Args:
        directory: what `analyze` wrote.
        recording: the recorded run; without it the name in analysis.json is looked for in the directory and beside it.

    Raises:
        InputError: a file is missing, damaged, or of another analysis.
    """
    return view_of(AnalysisResult.read(directory), directory, recording)


def view_of(result: AnalysisResult, directory: Path, recording: Path | None = None) -> AnalysisView:
    """The same of a result that is at hand. Raises InputError for what lies beside it in `directory` and is damaged."""
    name = result.facts.get("recording", "")
    place = _find_recording(directory, name, recording)
    shown = AnalysisResult(result.plan, drawable(result.facts), result.arrays)
    applied = drawable(read_applied(directory / "apply.json"))
    return AnalysisView(directory, shown, applied, place, find_image(directory, place, name))


def verdict_of(facts: AnalysisFacts | AggregateFacts) -> tuple[str, str] | None:
    """(level, sentence) of analysis.json or aggregate.json; None where there is none that this version can read."""
    verdict = facts.get("verdict")
    level = verdict.get("level") if verdict else None
    return (level, verdict.get("sentence", "")) if verdict and level in VERDICT_LEVELS else None


def _find_recording(directory: Path, name: str, recording: Path | None) -> Path | None:
    if recording is not None:
        if not recording.is_file():
            raise InputError(f"recording {recording} does not exist; leave it out to draw the report without it.")
        return recording
    # the name only: a path in a file that someone sent could point anywhere
    places = [directory / Path(name).name, directory.resolve().parent / Path(name).name] if name else []
    return next((place for place in places if place.is_file()), None)
