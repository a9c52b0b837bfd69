"""Results: the files of one analysis, read once and checked against each other, so that figures need not ask."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...analysis import token_means
from ...conversion import is_flow
from ...decode import read_text
from ...errors import InputError
from ...grid import TokenGrid, Triple
from ...plan import Plan, TokenLevel
from ...results.analysis import Facts, read_analysis_arrays, read_facts, refuse_mixed
from ...results.applied import Applied
from ...results.files import read_json
from ...results.images import find_picture
from ..drawable import drawable

AGAIN = "run `janoscope analyze` again"
VERDICT_LEVELS = ("separates", "weak", "none")

# array -> axes; `tile` stands for three axes, `step-1` for the gaps between steps
ARRAYS: Mapping[str, tuple[str, ...]] = {
    "complexity_temporal": ("tile",),
    "complexity_spatial": ("tile",),
    "complexity_combined": ("tile",),
    "complexity_enhanced": ("tile",),
    "convergence_step": ("token",),
    "reuse_error": ("token",),
    "flow_velocity_change": ("step-1", "token"),
    "x0_distance": ("step", "token"),
    "raw_change": ("step-1", "token"),
    "point_raw": ("point", "step"),
    "point_velocity": ("point", "step"),
    "timestep": ("step",),
    "sigma": ("step",),
    "alpha": ("step",),
}
# what later versions added: drawn where it is there. `curve`: groups x quantiles of `curves`, as docs/concepts.md lists them
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "ras_importance": ("token",),  # none of a latent of one channel
    "ras_steps": ("ras",),
    "ras_importance_steps": ("ras", "token"),
    "masked_tokens": ("token",),
    "curve_x0_distance_quantiles": ("curve", "step"),
    "curve_velocity_change_quantiles": ("curve", "step-1"),
    "curve_raw_change_quantiles": ("curve", "step-1"),
}


@dataclass(frozen=True, repr=False)
class AnalysisResults:
    """What one analysis directory holds.

    facts: analysis.json. arrays: analysis.npz by name. plan: plan.json. applied: apply.json, None before `apply`.
    recording: the recorded run, picture: uint8 (frame, row, col, 3) that it decoded to; each None where it is not at hand.
    """

    directory: Path
    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    plan: Plan
    applied: Mapping[str, Any] | None
    recording: Path | None
    picture: np.ndarray | None

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

        Tokens whose measures are not to be believed, since they held values that are not finite, are NaN.
        """
        values = np.asarray(self.arrays[name], dtype=np.float64)
        flat = token_means(values, self.grid, self.tile) if values.ndim == 3 else self.shown_tokens(values)
        return flat.reshape(self.grid.tokens)

    def shown_tokens(self, values: np.ndarray) -> np.ndarray:
        """(..., token) as float64 with NaN at masked tokens."""
        masked = self.arrays.get("masked_tokens")
        found = np.asarray(values, dtype=np.float64)
        return found if masked is None else np.where(masked.astype(bool), np.nan, found)

    def curve_bands(self, name: str) -> dict[str, np.ndarray] | None:
        """(low, median, high) x step by level name and `all`, of 0.1, 0.5 and 0.9; None where the analysis stored no such curve.

        name: of the array without `curve_` and `_quantiles`. Groups without tokens are left out.
        """
        stored, curves = self.arrays.get(f"curve_{name}_quantiles"), self.facts.get("curves") or {}
        quantiles = list(curves.get("quantiles") or ())
        if stored is None or not {0.1, 0.5, 0.9} <= set(quantiles):
            return None
        chosen = stored[:, [quantiles.index(quantile) for quantile in (0.1, 0.5, 0.9)]].astype(np.float64)
        return {group: band for group, band in zip(curves["groups"], chosen, strict=True) if np.isfinite(band).any()}

    def caption(self) -> str:
        """Model, steps, size, seed and version: what a figure must say about its origin."""
        run, size = self.facts["run"], "unknown size"
        if self.picture is not None:
            frames, rows, cols = self.picture.shape[:3]
            size = f"{cols} x {rows} px" + (f", {frames} frames" if frames > 1 else "")
        version = self.facts["versions"].get("janoscope", "unknown")
        return f"{run.get('model', 'unknown model')}, {self.steps} steps, {size}, seed {run.get('seed')}, janoscope {version}"


def read_results(directory: Path, recording: Path | None = None) -> AnalysisResults:
    """Read and check an analysis directory.

    recording: the recorded run; without it the name in analysis.json is looked for in the directory and beside it.
    Raises InputError naming the file, what is wrong with it and how to mend it.
    """
    facts = read_facts(directory)
    plan = _read_plan(directory / "plan.json")
    refuse_mixed(directory, "plan.json", plan.id, facts)
    arrays = _read_arrays(directory, facts)
    _check_facts(facts, plan, directory / "analysis.json")
    _check_shapes(arrays, facts, plan)
    name = str(facts.get("recording", ""))
    found = _find_recording(directory, name, recording)
    return AnalysisResults(
        directory,
        drawable(facts),
        arrays,
        plan,
        drawable(_read_applied(directory / "apply.json")),
        found,
        find_picture(directory, found, name),
    )


def verdict_of(facts: Mapping[str, Any]) -> tuple[str, str] | None:
    """(level, sentence) of analysis.json or aggregate.json; None where there is none that this version knows."""
    found = facts.get("verdict")
    if not isinstance(found, Mapping) or found.get("level") not in VERDICT_LEVELS:
        return None
    return str(found["level"]), str(found.get("sentence", ""))


def _read_plan(path: Path) -> Plan:
    if not path.exists():
        raise InputError(f"{path.parent} holds no {path.name}, so it is no finished analysis; {AGAIN}.")
    return Plan.from_text(read_text(path, "plan", f"{AGAIN.capitalize()}.", errors="surrogateescape"), str(path))


def _read_arrays(directory: Path, facts: Facts) -> dict[str, np.ndarray]:
    stored = read_analysis_arrays(directory, facts)
    if missing := [name for name in ARRAYS if name not in stored]:
        raise InputError(f"{directory / 'analysis.npz'} lacks {', '.join(missing)}; {AGAIN}.")
    return {name: stored[name] for name in (*ARRAYS, *(name for name in OPTIONAL if name in stored))}


def _read_applied(path: Path) -> Mapping[str, Any] | None:
    """apply.json beside the analysis, if it is one: a file of that name may also be somebody else's."""
    if not path.is_file():
        return None
    applied: Mapping[str, Any] = read_json(
        path, Applied, "run summary", "Run `janoscope apply` again, or move it away.", finite=False
    )
    return applied


def _check_facts(facts: Mapping[str, Any], plan: Plan, path: Path) -> None:
    """Grid, tile and points must fit the plan, since every figure is placed by them."""
    grid = plan.fingerprint.grid
    if facts["grid"] != grid.to_json():
        raise InputError(f"{path} has grid {facts['grid']}, plan.json beside it {grid.to_json()}; {AGAIN}.")
    try:
        tiles = grid.tiles(tuple(facts["complexity"]["tile"]))
        for point in facts["points"]:
            grid.token_at(*(int(point[axis]) for axis in ("frame", "row", "col")))
            TokenLevel(point["level"])
        for frame in facts.get("shown_frames") or ():
            grid.token_at(int(frame), 0, 0)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{path} has a malformed tile or point ({type(error).__name__}: {error}); {AGAIN}.") from error
    if min(tiles) < 1:
        raise InputError(f"{path} has tile {facts['complexity']['tile']}; sizes are at least 1. {AGAIN.capitalize()}.")


def _check_shapes(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], plan: Plan) -> None:
    grid, planned, steps = plan.fingerprint.grid, plan.fingerprint.steps, arrays["timestep"].size
    if not 2 <= steps <= planned:  # fewer than planned where a recording that stopped was analysed
        raise InputError(f"analysis.npz has {steps} steps, the plan {planned}; {AGAIN}.")
    sizes: dict[str, tuple[int, ...]] = {
        "tile": grid.tiles(tuple(facts["complexity"]["tile"])),
        "token": (grid.count,),
        "step": (steps,),
        "step-1": (steps - 1,),
        "point": (len(facts["points"]),),
        "ras": (arrays["ras_steps"].size if "ras_steps" in arrays else 0,),
        "curve": curve_axes(facts),
    }
    for name, axes in (*ARRAYS.items(), *OPTIONAL.items()):
        if name in OPTIONAL and name not in arrays:
            continue
        expected = tuple(size for axis in axes for size in sizes[axis])
        if arrays[name].shape != expected:
            raise InputError(f"analysis.npz: {name} has shape {arrays[name].shape}, plan and grid ask for {expected}; {AGAIN}.")


def curve_axes(facts: Mapping[str, Any]) -> tuple[int, int]:
    """Groups and quantiles of the stored curves."""
    curves = facts.get("curves") or {}
    return len(curves.get("groups") or ()), len(curves.get("quantiles") or ())


def _find_recording(directory: Path, name: str, given: Path | None) -> Path | None:
    if given is not None:
        if not given.is_file():
            raise InputError(f"recording {given} does not exist; leave it out to draw the report without it.")
        return given
    # the name only: a path in a file that someone sent could point anywhere
    places = [directory / Path(name).name, directory.resolve().parent / Path(name).name] if name else []
    return next((place for place in places if place.is_file()), None)
