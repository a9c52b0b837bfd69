"""The numbers and arrays of an analysis: what was measured, by level, by tile, by map; estimates with their intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...analysis import Estimate, convergence_step, map_predicts, separation, tile_means, tile_of_tokens
from ...analysis.convergence import CHANGE_TOLERANCE
from ...grid import TokenGrid
from ...plan import Plan, Policy, TokenLevel
from .measures import RunMeasures

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
WHOLE_RUN = "all"


@dataclass(frozen=True)
class MeasuredRun:
    """A run's measures beside the plan that was made from them. Masked tokens take part in no statistic."""

    measures: RunMeasures
    plan: Plan
    grid: TokenGrid

    @property
    def policy(self) -> Policy:
        return self.plan.policy

    @cached_property
    def tiles(self) -> np.ndarray:
        """(token,) tile of each token: what intervals resample."""
        return tile_of_tokens(self.grid, self.policy.tile)

    @cached_property
    def groups(self) -> dict[str, np.ndarray]:
        """(token,) bool by name: static, moderate, active, and all."""
        ranks = self.plan.ranks
        levels = {level.value: ranks == level.rank for level in TokenLevel} | {WHOLE_RUN: np.ones(ranks.size, dtype=bool)}
        return {name: chosen & ~self.measures.masked for name, chosen in levels.items()}


def complexity_facts(run: MeasuredRun) -> dict[str, object]:
    policy, complexity = run.policy, run.measures.complexity
    return {
        "policy": policy.name,
        "map": policy.map,
        "warmup": policy.warmup,
        "signals": complexity.signals,
        "tile": list(policy.tile),
        "tile_grid": list(complexity.grid),
        "temporal_weight": policy.temporal_weight,
        "padding": policy.padding,
        "initial_latent": policy.initial_latent,
        "enhance": {"strength": policy.enhance.strength, "distance": policy.enhance.distance},
        "nonfinite": complexity.nonfinite,
    }


def convergence_facts(run: MeasuredRun) -> dict[str, object]:
    convergence = run.measures.convergence
    by_group = {name: _group_facts(run, chosen) for name, chosen in run.groups.items()}
    return {
        "tolerance": convergence.tolerance,
        "velocity_tolerance": CHANGE_TOLERANCE,
        "hold_steps": convergence.hold_steps,
        "by_level": {name: facts for name, facts in by_group.items() if name != WHOLE_RUN},
        "whole_run": by_group[WHOLE_RUN],
        "nonfinite": run.measures.nonfinite,
        "masked_tokens": int(run.measures.masked.sum()),
    }


def _group_facts(run: MeasuredRun, chosen: np.ndarray) -> dict[str, object]:
    convergence = run.measures.convergence
    return {
        "tokens": int(chosen.sum()),
        "convergence_step_median": _median(convergence.convergence_step[chosen]),
        "velocity_convergence_step_median": _median(convergence.velocity_convergence_step()[chosen]),
        "reuse_error_median": _median(convergence.reuse_error[chosen]),
        "reuse_error_steps_median": [_median(row[chosen]) for row in convergence.reuse_error_steps],
    }


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if values.size else None


def map_predicts_rows(run: MeasuredRun) -> list[dict[str, object]]:
    """How well each map of each warm-up predicts each token's convergence step and reuse error."""
    return [
        {"map": name, "warmup": warmup, **score}
        for warmup, maps in sorted(run.measures.early_maps.items())
        for name, score in _scores(maps, run)
    ]


def ras_predicts_rows(run: MeasuredRun) -> list[dict[str, object]]:
    """The same for RAS at any step of the run (supplementary, figure 3): its scores are the negated importance."""
    maps = {str(step): -values for step, values in run.measures.ras_importance.items()}
    return [{"step": int(step), **score} for step, score in _scores(maps, run)]


def _scores(maps: Mapping[str, np.ndarray], run: MeasuredRun) -> list[tuple[str, dict[str, object]]]:
    measured, convergence = run.groups[WHOLE_RUN], run.measures.convergence
    if not measured.any():
        return []
    targets = {"convergence_step": convergence.convergence_step[measured], "reuse_error": convergence.reuse_error[measured]}
    scores = map_predicts({name: values[measured] for name, values in maps.items()}, targets, groups=run.tiles[measured])
    return [
        (
            score.map,
            {"target": score.target}
            | _estimate("spearman", score.spearman, "interval")
            | _estimate("agreement", score.agreement, "agreement_interval"),
        )
        for score in scores
    ]


def separation_facts(run: MeasuredRun) -> dict[str, dict[str, object]]:
    """Active against static tokens, by the raw output and by the flow velocity."""
    measures = run.measures
    active, static = (run.groups[level.value] for level in (TokenLevel.ACTIVE, TokenLevel.STATIC))

    def apart(change: np.ndarray) -> dict[str, object]:
        return _estimate("auroc", separation(change, active, static, groups=run.tiles), "interval")

    converted = apart(measures.convergence.velocity_change[1:])
    return {"raw": dict(converted) if measures.raw_is_velocity else apart(measures.raw_change), "converted": converted}


def _estimate(name: str, estimate: Estimate, interval: str) -> dict[str, object]:
    return {name: estimate.value, interval: [estimate.low, estimate.high]}


def token_arrays(run: MeasuredRun) -> dict[str, np.ndarray]:
    """The arrays of analysis.npz that hold tokens and steps; docs/concepts.md lists them."""
    measures, convergence = run.measures, run.measures.convergence
    return {
        **_ras_arrays(run),
        "convergence_step": convergence.convergence_step,
        "velocity_convergence_step": convergence.velocity_convergence_step(),
        "reuse_error": convergence.reuse_error,
        "reuse_error_steps": convergence.reuse_error_steps,
        "flow_velocity_change": convergence.relative_change[1:],
        "x0_distance": convergence.x0_distance,
        "raw_change": measures.raw_change,
        "masked_tokens": measures.masked,
    }


def _ras_arrays(run: MeasuredRun) -> dict[str, np.ndarray]:
    """Nothing for a latent of one channel."""
    ras = run.measures.ras_importance
    if not ras:
        return {}
    return {
        "ras_importance": ras[run.policy.warmup - 1],
        "ras_steps": np.array(list(ras), dtype=np.int64),
        "ras_importance_steps": np.stack(list(ras.values())),
    }


def tile_arrays(run: MeasuredRun) -> dict[str, np.ndarray]:
    """Convergence of whole tiles: rms over a tile's cells, in the map's own shape (tile frame, tile row, tile col)."""
    convergence = run.measures.convergence
    distance, change, rms = (
        _tile_rms(run, values) for values in (convergence.x0_distance, convergence.velocity_change[1:], convergence.velocity_rms)
    )
    relative = np.divide(change, rms[1:], out=np.zeros_like(change), where=rms[1:] > 0)
    return {
        "tile_x0_distance": distance,
        "tile_velocity_change": relative,
        "tile_convergence_step": convergence_step(distance, convergence.tolerance),
        "tile_reuse_error": _tile_rms(run, convergence.reuse_error[np.newaxis])[0],
    }


def _tile_rms(run: MeasuredRun, rows: np.ndarray) -> np.ndarray:
    """(row, token) -> (row, tile frame, tile row, tile col) float32."""
    means = [tile_means(np.square(row, dtype=np.float64), run.grid, run.policy.tile) for row in rows]
    return np.sqrt(np.stack(means)).astype(np.float32)


def curve_arrays(run: MeasuredRun) -> dict[str, np.ndarray]:
    """`curve_<quantity>_quantiles` (group, quantile, step) float32: how the tokens of each level, and all, go through the run."""
    convergence = run.measures.convergence
    quantities = {
        "x0_distance": convergence.x0_distance,
        "velocity_change": convergence.relative_change[1:],
        "raw_change": run.measures.raw_change,
    }
    return {
        f"curve_{name}_quantiles": np.stack([_quantiles(values[:, chosen]) for chosen in run.groups.values()])
        for name, values in quantities.items()
    }


def _quantiles(values: np.ndarray) -> np.ndarray:
    """(step, token) -> (quantile, step); NaN for a group without tokens."""
    if not values.shape[1]:
        return np.full((len(QUANTILES), len(values)), np.nan, dtype=np.float32)
    return np.quantile(values, QUANTILES, axis=1).astype(np.float32)
