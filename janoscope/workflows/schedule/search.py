"""Step schedules from recordings: full runs reduced to Gram matrices once, then the best computed steps of each budget."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...conversion import NoisePath
from ...errors import InputError
from ...plan import Policy, StepSchedule, final_weights, is_one_step
from ...plan.coefficients import StepCoefficients, choose_ridge, corrected, forecast, learned, reuse
from ...plan.step_search import StepPath, curvature, edge_costs, fidelity, pareto_front, shortest_paths
from ...recording import Recording, open_recording

TOKENS = 1024  # as many evenly spread tokens tell the mean product of two steps to a percent
GROWTHS = (0.0, 1.0, 2.0, 4.0, 6.0)  # of an early error through the rest of a run; which one holds is for real runs to say
_TERMS = 3


@dataclass(frozen=True, eq=False)
class RecordedSteps:
    """Full runs of one model, sampler and number of steps, reduced.

    grams: (recording, step, step), mean product of the guided outputs of every two steps. coordinate, sigma: (step,).
    weights: (step,), change of the final latent for one unit of output; None where the sampler adds noise or clips.
    """

    grams: np.ndarray
    coordinate: np.ndarray
    sigma: np.ndarray
    weights: np.ndarray | None
    model: str
    scheduler: str
    prompts: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return len(self.coordinate)

    @property
    def gram(self) -> np.ndarray:
        """(step, step): mean over recordings."""
        return np.asarray(self.grams.mean(axis=0))

    def curvature(self) -> np.ndarray:
        """(step,): distance of each output from the line between its neighbours, as a fraction of the outputs' rms."""
        return np.asarray(curvature(self.gram, self.coordinate) / np.sqrt(np.trace(self.gram) / self.steps))

    def fidelity(self, neighbours: Sequence[int] = (-1, -2, -3)) -> np.ndarray:
        """(step,): share of each output's energy that the outputs at these offsets tell."""
        return fidelity(self.gram, neighbours)


def reduce_recordings(paths: Sequence[Path], on_recording: Callable[[Path], None] | None = None) -> RecordedSteps:
    """Read recordings once.

    Raises:
        InputError: the recordings are of different models, samplers or numbers of steps, or of a run that skipped something.
    """
    if not paths:
        raise InputError("no recording was given; record one with `janoscope record`.")
    parts = []
    for path in paths:
        with open_recording(path) as recording:
            parts.append(_reduced(recording))
        if on_recording is not None:
            on_recording(path)
    first = parts[0]
    for path, part in zip(paths[1:], parts[1:], strict=True):
        _refuse_another(paths[0], first, path, part)
    return RecordedSteps(
        np.concatenate([part.grams for part in parts]),
        first.coordinate,
        first.sigma,
        first.weights,
        first.model,
        first.scheduler,
        tuple(prompt for part in parts for prompt in part.prompts),
    )


def _reduced(recording: Recording) -> RecordedSteps:
    if recording.skipped is not None and any(recording.skipped):
        raise InputError(f"{recording.path.name} is of an accelerated run; a schedule is found from full runs.")
    if recording.steps < 3:
        raise InputError(f"{recording.path.name} holds {recording.steps} steps, which leaves nothing to skip.")
    provenance = recording.provenance
    path = NoisePath(recording.timestep, recording.alpha, recording.sigma, (1.0, 0.0))
    tokens = np.unique(np.linspace(0, recording.grid.count - 1, min(TOKENS, recording.grid.count)).round().astype(int))
    grams = [_gram(recording, item, tokens) for item in range(recording.items)]
    return RecordedSteps(
        np.stack(grams),
        path.sigma if path.family == "flow" else path.sigma / np.maximum(path.alpha, 1e-6),
        np.asarray(recording.sigma, dtype=float),
        _weights(provenance["scheduler"], path, recording.prediction_type, recording.steps),
        str(provenance["model"]["id"]),
        str(provenance["scheduler"]["class"]),
        (str(provenance["run"]["prompt"]),) * recording.items,
    )


def _gram(recording: Recording, item: int, tokens: np.ndarray) -> np.ndarray:
    outputs = np.stack([recording.map("model_output", step, item)[tokens].ravel() for step in range(recording.steps)])
    if not np.isfinite(outputs).all():
        raise InputError(f"{recording.path.name} holds values that are not finite; a schedule cannot be found from it.")
    values = outputs.astype(np.float64)
    return np.asarray(values @ values.T / values.shape[1])


def _weights(scheduler: Any, path: NoisePath, prediction: str, steps: int) -> np.ndarray | None:
    stored = scheduler.get("weights")
    if isinstance(stored, list) and len(stored) == steps:
        return np.array(stored, dtype=float)
    # recordings of 0.1.0 have none; the formula holds for samplers that use each output once
    described = isinstance(scheduler.get("config"), dict)
    return final_weights(path, prediction) if described and is_one_step(scheduler) else None


def _refuse_another(first: Path, one: RecordedSteps, path: Path, other: RecordedSteps) -> None:
    for name, mine, theirs in (
        ("model", one.model, other.model),
        ("scheduler", one.scheduler, other.scheduler),
        ("number of steps", one.steps, other.steps),
    ):
        if mine != theirs:
            raise InputError(
                f"{first.name} and {path.name} differ in their {name} ({mine}, {theirs}); give recordings of one kind."
            )
    if not np.allclose(one.sigma, other.sigma, rtol=0.02, atol=1e-4):
        raise InputError(f"{first.name} and {path.name} pass other sigmas; give recordings of one size and one scheduler shift.")


@dataclass(frozen=True)
class Proposal:
    """A schedule found, as a policy, with what recordings predict of it. error: squared, relative to the outputs' effect."""

    policy: Policy
    path: StepPath
    growth: float
    error: float


def propose(
    recorded: RecordedSteps,
    compute: float,
    *,
    output: str = "corrected",
    growth: float = 1.0,
    learn: bool = True,
    name: str | None = None,
) -> Proposal:
    """The best schedule of a budget.

    Args:
        compute: share of the full run's network calls, 0 to 1.
        output: what skipped steps are handed; `corrected` needs a sampler without noise.
        growth: see `plan.step_search`.
        learn: fit coefficients to the recordings where there are enough of them.
    """
    count = round(compute * recorded.steps)
    if not 2 <= count <= recorded.steps:
        raise InputError(
            f"--compute {compute:g} of {recorded.steps} steps is {count} computed steps; legal: 2 to {recorded.steps}."
        )
    if output == "corrected" and recorded.weights is None:
        raise InputError(
            f"{recorded.scheduler} adds noise or clips, so skipped steps cannot be corrected; pass --output forecast."
        )
    weights = recorded.weights if recorded.weights is not None else np.gradient(recorded.coordinate)
    path = search(recorded, weights, output=output, growth=growth, most=count)[-1]
    rows = _learned(recorded, path, weights) if learn and output == "corrected" else ()
    schedule = StepSchedule(recorded.steps, path.computed, tuple(float(recorded.sigma[step]) for step in path.computed))
    policy = Policy(
        name or f"schedule/{len(path.computed) / recorded.steps:.2f}",
        output=output,
        schedule=schedule,
        learned=rows,
        source=f"shortest path over {len(recorded.grams)} recordings of {recorded.model} with {recorded.scheduler}",
    )
    return Proposal(policy, path, growth, _relative_error(recorded, policy, weights))


def front(recorded: RecordedSteps, *, output: str = "corrected", growth: float = 1.0) -> list[dict[str, Any]]:
    """Pareto front of computed-step counts: `computed`, `share` of the steps, `error_db` of the final latent (the line's)."""
    weights = recorded.weights if recorded.weights is not None else np.gradient(recorded.coordinate)
    whole = float(weights @ recorded.gram @ weights)
    paths = []
    for path in search(recorded, weights, output=output, growth=growth):
        row = _line(path.computed, recorded, weights, output).final_error(weights)
        paths.append(StepPath(path.computed, max(float(row @ recorded.gram @ row) / whole, 1e-12)))
    return [
        {"computed": len(path.computed), "share": len(path.computed) / recorded.steps, "error_db": 10 * math.log10(path.error)}
        for path in pareto_front(paths)
    ]


def search(
    recorded: RecordedSteps, weights: np.ndarray, *, output: str, growth: float, most: int | None = None
) -> list[StepPath]:
    """The best schedule of each number of computed steps up to `most`, fewest first."""
    costs = edge_costs(recorded.gram, recorded.coordinate, weights, output=output, growth=growth)
    return shortest_paths(costs, most)


def _learned(recorded: RecordedSteps, path: StepPath, weights: np.ndarray) -> tuple[tuple[int, int, float], ...]:
    """Coefficients that differ from the line's, or none where the recordings do not suffice."""
    given = recorded.grams, path.computed, recorded.coordinate, weights
    ridge = choose_ridge(*given, terms=_TERMS)
    handed = learned(*given, terms=_TERMS, ridge=ridge).handed
    if ridge >= 1:
        return ()
    return tuple((int(n), int(m), float(handed[n, m])) for n, m in zip(*np.nonzero(handed), strict=True))


def _relative_error(recorded: RecordedSteps, policy: Policy, weights: np.ndarray) -> float:
    """Mean squared error of the final latent to first order, over the mean square of what all outputs move it by."""
    assert policy.schedule is not None
    handed = _line(policy.schedule.computed, recorded, weights, policy.output).handed
    if policy.learned:
        handed = np.zeros_like(handed)
        for row, column, share in policy.learned:
            handed[row, column] = share
    error = weights @ (handed - np.eye(recorded.steps))
    return float(error @ recorded.gram @ error / (weights @ recorded.gram @ weights))


def _line(computed: Sequence[int], recorded: RecordedSteps, weights: np.ndarray, output: str) -> StepCoefficients:
    if output == "corrected":
        return corrected(computed, recorded.coordinate, weights)
    return reuse(computed, recorded.steps) if output == "hold" else forecast(computed, recorded.coordinate)
