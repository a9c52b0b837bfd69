"""Analyze: a recording to velocity, convergence, maps and a plan, in one pass over the file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np

from ...analysis import token_means
from ...analysis.convergence import HOLD_STEPS, TOLERANCE
from ...analysis.importance import LEAST_CHANNELS
from ...conversion import is_flow
from ...conversion.noise_path import Derivative
from ...errors import InputError
from ...pipeline.provenance import (
    apply_arguments,
    attachments_note,
    describe_run,
    facts_of_recording,
    fingerprint_of_recording,
    missing_probe_note,
    policy_of_recording,
    probe_of_recording,
    refused_by_apply,
)
from ...plan import Plan, Policy, TokenLevel, highest, plan_from_ranks, token_ranks
from ...probe import Probe
from ...recording import Recording, open_recording
from ...results.analysis import SCHEMA, Analysis, AnalysisFacts, analysis_directories, analysis_directory
from ...results.verdict import judge_analysis
from .measures import RunMeasures, read_run
from .points import Point, check_reduction, choose_points, parse_points, point_frames, reduce_channels
from .summary import (
    QUANTILES,
    MeasuredRun,
    complexity_facts,
    convergence_facts,
    curve_arrays,
    map_predicts_rows,
    ras_predicts_rows,
    separation_facts,
    tile_arrays,
    token_arrays,
)
from .trajectory import RunView

__all__ = [
    "Analysis",
    "AnalysisOptions",
    "analysis_directories",
    "analysis_directory",
    "analyze",
    "analyze_to_directory",
    "fingerprint_of_recording",
    "policy_of_recording",
]

OnStep = Callable[[int, int], None]
SETTLED_LATE = 0.9  # of the steps: a median convergence step from there on is the end of the run, not an event in it


@dataclass(frozen=True)
class AnalysisOptions:
    """How to analyse, beyond the policy.

    derivative: `backward` (default: an Euler step of the velocity is then the DDIM step, whatever the spacing), `tangent` or
    `closed-form`; without effect on flow models, whose output is the velocity. item: which of a batch. hold_steps: the most
    steps that the reuse error is measured over. tolerance: rms distance under which an x0 estimate counts as settled, in latent
    units. ras_steps: steps whose RAS importance is kept besides those that always are.
    warmup, first_signal, padding: instead of the policy's own; first_signal is `initial-latent` (official, first generation of a
    process) or `velocity` (every later one), padding `count` (official, current) or `exclude` (official, at publication).
    """

    derivative: Derivative = "backward"
    item: int = 0
    hold_steps: int = HOLD_STEPS
    tolerance: float = TOLERANCE
    ras_steps: tuple[int, ...] = ()
    warmup: int | None = None
    first_signal: Literal["initial-latent", "velocity"] | None = None
    padding: Literal["count", "exclude"] | None = None

    def changed(self, policy: Policy) -> Policy:
        """The policy with what these options say instead; its name then says so too."""
        first = None if self.first_signal is None else self.first_signal == "initial-latent"
        wanted = {"warmup": self.warmup, "initial_latent": first, "padding": self.padding}
        changes = {key: value for key, value in wanted.items() if value not in (None, getattr(policy, key))}
        if not changes:
            return policy
        words = ", ".join(f"{key} {str(value).lower()}" for key, value in changes.items())
        table = policy.to_json() | changes | {"name": f"{policy.name} ({words})"}
        return Policy.from_table(table, f"policy {policy.name} with {words}")


def analyze(
    path: str | Path,
    *,
    policy: Policy | str | Path | None = None,
    points: Sequence[str] = (),
    reduction: str = "rms",
    probe: Probe | str | Path | None = None,
    partial: bool = False,
    options: AnalysisOptions | None = None,
    on_step: OnStep | None = None,
) -> Analysis:
    """Analyse one recording.

    Args:
        policy: a Policy, preset name or file; by default the model's own, else the family's first preset.
        points: places to probe as `NAME=frame,row,col` in tokens; by default A-D from the most static to the most active.
        reduction: a token's channels as one number, `mean`, `rms` or `channel:K`.
        probe: a probe, or the path of its file, instead of the one the recording names.
        partial: accept a recording that was cut short.
        options: derivative, item, hold steps, variants of the map; see `AnalysisOptions`.
        on_step: called with (steps read, steps in all).

    Raises:
        RecordingError: the file cannot be opened or trusted. InputError: policy, point, reduction or option do not fit it, or a
        step's output says nothing about the velocity (epsilon at alpha = 0).
    """
    options = options or AnalysisOptions()
    with open_recording(path, partial=partial) as recording:
        family = probe_of_recording(recording, probe)
        chosen = policy if isinstance(policy, Policy) else policy_of_recording(recording, family, policy)
        chosen = options.changed(chosen)
        _refuse(recording, chosen, options)
        check_reduction(reduction, recording.token_channels)
        probed = parse_points(points, recording.grid)
        return _analyze(recording, family, chosen, probed, reduction, options, on_step)


def analyze_to_directory(
    path: Path,
    directory: Path,
    replaces: bool = True,
    *,
    policy: Policy | str | Path | None = None,
    points: Sequence[str] = (),
    reduction: str = "rms",
    probe: Probe | str | Path | None = None,
    partial: bool = False,
    options: AnalysisOptions | None = None,
    on_step: OnStep | None = None,
) -> Analysis:
    """`analyze`, then `Analysis.save`; arguments and errors are theirs."""
    analysis = analyze(
        path,
        policy=policy,
        points=points,
        reduction=reduction,
        probe=probe,
        partial=partial,
        options=options,
        on_step=on_step,
    )
    analysis.save(directory, replaces)
    return analysis


def _refuse(recording: Recording, policy: Policy, options: AnalysisOptions) -> None:
    name = recording.path.name
    if recording.steps < max(policy.warmup, 2):
        raise InputError(
            f"{name} holds {recording.steps} steps, fewer than the warm-up of {policy.warmup} of policy {policy.name}"
            f"{' and the two that convergence needs' if policy.warmup < 2 else ''}; choose a policy with a shorter warm-up, or "
            "record more steps."
        )
    if policy.warmup < 1:
        raise InputError(f"policy {policy.name} has warm-up 0, so it makes no map to analyse; give --warmup or another policy.")
    if not 0 <= options.item < recording.items:
        raise InputError(f"{name} has no item {options.item}; legal: 0 to {recording.items - 1}.")
    if outside := [step for step in options.ras_steps if not 0 <= step < recording.steps]:
        raise InputError(f"{name} has no step {outside[0]} for the RAS importance; legal: 0 to {recording.steps - 1}.")
    if options.ras_steps and recording.channels < LEAST_CHANNELS:
        raise InputError(f"{name} has one latent channel, and RAS importance is a spread over channels; ask for no RAS steps.")
    if policy.map == "oracle" and recording.items > 1:
        raise InputError(
            f"map = 'oracle' looks at one generation, {name} holds {recording.items} items; record one prompt at a time."
        )


def _analyze(
    recording: Recording,
    family: Probe | None,
    policy: Policy,
    chosen: list[Point],
    reduction: str,
    options: AnalysisOptions,
    on_step: OnStep | None,
) -> Analysis:
    view = RunView(recording, options.item, options.derivative)
    measures = read_run(
        view,
        policy,
        hold_steps=options.hold_steps,
        tolerance=options.tolerance,
        more_ras_steps=options.ras_steps,
        on_step=on_step,
    )
    plan = _plan(recording, family, policy, measures, options)
    run = MeasuredRun(measures, plan, recording.grid)
    scores = token_means(measures.complexity.enhanced, recording.grid, policy.tile)
    points = chosen or choose_points(scores, recording.grid)
    arrays = _arrays(view, run) | _point_arrays(view, points, reduction)
    refused = refused_by_apply(recording, family, policy)
    run_facts = describe_run(recording)
    facts = {
        "schema": SCHEMA,
        "recording": recording.path.name,
        "notes": [*_notes(recording, measures, options), *_level_notes(plan), *_provenance_notes(recording, family)]
        + ([f"this plan cannot be applied: {refused}"] if refused else []),
        "apply_refused": refused,
        "run": run_facts,
        "item": options.item,
        "items": recording.items,
        **_measured_facts(view, run),
        "points": [point.to_json(plan) for point in points],
        "shown_frames": point_frames(points, recording.grid),
        "reduction": reduction,
        "versions": dict(recording.provenance["packages"]),
        "nonfinite": {signal: recording.nonfinite(signal) for signal in recording.signals},
    }
    repeats = () if refused else tuple(apply_arguments(run_facts))
    return Analysis(plan, cast(AnalysisFacts, facts), arrays, measures.complexity, measures.convergence, repeats)


def _arrays(view: RunView, run: MeasuredRun) -> dict[str, np.ndarray]:
    complexity = run.measures.complexity
    return {
        **{f"complexity_{name}": getattr(complexity, name) for name in ("temporal", "spatial", "combined", "enhanced")},
        **token_arrays(run),
        **tile_arrays(run),
        **curve_arrays(run),
        **{name: getattr(view.recording, name) for name in ("timestep", "alpha", "sigma")},
    }


def _measured_facts(view: RunView, run: MeasuredRun) -> dict[str, object]:
    separation, map_predicts = separation_facts(run), map_predicts_rows(run)
    return {
        "grid": run.grid.to_json(),
        "verdict": judge_analysis(separation, map_predicts, run.policy.map, run.policy.warmup).to_json(),
        "conversion": _conversion_facts(view),
        "complexity": complexity_facts(run),
        "convergence": convergence_facts(run),
        "map_predicts": map_predicts,
        "ras_predicts": ras_predicts_rows(run),
        "separation": separation,
        "curves": {"groups": list(run.groups), "quantiles": list(QUANTILES)},
        "predicted": run.plan.predicted._asdict(),
    }


def _plan(recording: Recording, family: Probe | None, policy: Policy, measures: RunMeasures, options: AnalysisOptions) -> Plan:
    """The plan of the whole batch, from every item's map, as the executor makes it: the items share one token sequence."""
    fingerprint, ranks = fingerprint_of_recording(recording), []
    for item in range(recording.items):
        if policy.map == "oracle":
            scores = measures.convergence.reuse_error
        elif item == options.item and policy.map == "jano" and options.derivative == "backward":
            scores = measures.complexity.enhanced
        else:
            scores = RunView(recording, item).importance(policy, fingerprint.seed)
        ranks.append(token_ranks(scores, policy, recording.grid))
    return plan_from_ranks(policy, highest(ranks), fingerprint, facts_of_recording(recording, family))


def _conversion_facts(view: RunView) -> dict[str, object]:
    return {
        "prediction_type": view.prediction,
        "method": view.derivative,
        "time_unit": view.path.time_unit,
        "noise_path": view.path.family,
        "sign": "toward noise",
    }


def _point_arrays(view: RunView, points: Sequence[Point], reduction: str) -> dict[str, np.ndarray]:
    """`point_raw`, `point_velocity` (point, step): the points' values, channels reduced; reads those tokens' bytes only."""
    curves = [view.curve(point.token) for point in points]
    names = ("point_raw", "point_velocity")
    return {name: np.stack([reduce_channels(curve[at], reduction) for curve in curves]) for at, name in enumerate(names)}


def _level_notes(plan: Plan) -> list[str]:
    absent = [level.value for level in (TokenLevel.STATIC, TokenLevel.ACTIVE) if level not in plan.token_level]
    if not absent:
        return []
    return [
        f"no token is {' or '.join(absent)} under this policy, so the separation of active from static tokens is not defined."
    ]


def _provenance_notes(recording: Recording, family: Probe | None) -> list[str]:
    notes = (missing_probe_note(recording, family), attachments_note(recording))
    return [note for note in notes if note is not None]


def _notes(recording: Recording, measures: RunMeasures, options: AnalysisOptions) -> list[str]:
    notes = []
    if options.derivative != "backward" and not is_flow(recording.prediction_type):
        notes.append(
            f"velocities are converted with {options.derivative} rates; the plan with backward ones, as the executor does."
        )
    if not recording.complete:
        planned = f" of {recording.planned_steps}" if recording.planned_steps else ""
        notes.append(
            f"the recording ends after {recording.steps}{planned} steps: convergence is relative to its last step, not the "
            "end of the run."
        )
    if recording.items > 1:
        notes.append(
            f"the recording holds {recording.items} items: the measures are those of item {options.item}, the plan covers all "
            "items (each token gets its highest level)."
        )
    notes += _settled_notes(measures, options)
    masked = int(measures.masked.sum())
    if masked:
        notes.append(f"{masked} tokens hold values that are not finite ({measures.nonfinite} in all); no statistic counts them.")
    if recording.channels < LEAST_CHANNELS:
        notes.append("the latent has one channel, so RAS importance, a spread over channels, was not measured.")
    created = {signal: recording.nonfinite_created(signal) for signal in ("model_output", "sample")}
    if sum(created.values()):
        notes.append(f"storing made {sum(created.values())} values non-finite; record again without --store-dtype.")
    return notes


def _settled_notes(measures: RunMeasures, options: AnalysisOptions) -> list[str]:
    """Where the tolerance tells nothing apart: half of the tokens reach it at the very end of the run, if at all."""
    settled = measures.convergence.convergence_step[~measures.masked]
    steps = len(measures.convergence.x0_distance)
    if not settled.size or np.median(settled) < SETTLED_LATE * steps:
        return []
    return [
        f"half of the tokens are not within the tolerance {options.tolerance:g} of their last x0 before step "
        f"{np.median(settled):.0f} of {steps}: convergence steps tell nothing apart here; analyze with a larger --tolerance."
    ]
