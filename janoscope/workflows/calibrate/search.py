"""The search: NSGA-II over policies, cheaper against better, on recordings alone. Seeded, kept on disk, resumed."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...plan import Policy
from .space import Part, Parts, Space
from .surrogate import StepTimes, Surrogate, method_class
from .tracks import Score, Tracks

POPULATION = 100  # candidates a generation
DRAWS = 24  # policies drawn for each that is run to fit the surrogate
OnTrial = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidate:
    """A policy with its means over the recordings. compute: fraction of FLOPs. speedup: predicted wall time, None without
    measured times. quality: predicted, dB; each, worst: over recordings."""

    policy: Policy
    compute: float
    speedup: float | None
    quality: float
    each: tuple[float, ...]

    @property
    def worst(self) -> float:
        return min(self.each)

    @property
    def method(self) -> str:
        return method_class(self.policy)

    def to_json(self) -> dict[str, object]:
        figures = {"compute": self.compute, "speedup": self.speedup, "predicted": self.quality, "predicted_worst": self.worst}
        return {"class": self.method, **figures, "policy": self.policy.to_json()}


@dataclass(frozen=True)
class Scorer:
    """What turns a policy into a candidate."""

    tracks: Tracks
    surrogate: Surrogate
    times: StepTimes | None = None

    def candidate(self, policy: Policy) -> Candidate:
        score = self.tracks.score(policy)
        each = self.surrogate.predict(policy, score.output, score.stale)
        return Candidate(policy, float(score.compute.mean()), self._speedup(score), float(each.mean()), tuple(each.tolist()))

    def _speedup(self, score: Score) -> float | None:
        return None if self.times is None else float(self.times.speedup(score.kinds, score.step_compute).mean())


@dataclass(frozen=True)
class Band:
    """Costs worth telling apart; the search spends itself within. cost: `compute`, or `time` (1 / speedup)."""

    cost: str = "compute"
    low: float = 0.0
    high: float = 1.0

    def of(self, candidate: Candidate) -> float:
        if self.cost == "compute":
            return candidate.compute
        assert candidate.speedup is not None
        return 1 / candidate.speedup


def search(
    scorer: Scorer, space: Space, band: Band, journal: Path, *, trials: int, seed: int, on_trial: OnTrial | None = None
) -> list[Candidate]:
    """Every candidate that was tried, each policy once, in order.

    Whole generations are kept in `journal`; an interrupted search goes on after the last of them and ends as it would have
    without the interruption. Raises InputError without Optuna.
    """
    optuna = load_optuna()
    with _quiet(optuna):
        return _search(optuna, scorer, space, band, journal, trials=trials, seed=seed, on_trial=on_trial)


def _search(
    optuna: Any, scorer: Scorer, space: Space, band: Band, journal: Path, *, trials: int, seed: int, on_trial: OnTrial | None
) -> list[Candidate]:
    seen: dict[str, Candidate] = {}

    def tried(params: Mapping[str, Any]) -> Candidate:
        policy = space.policy(Parts(**params))
        key = json.dumps(policy.to_json())
        if key not in seen:
            seen[key] = scorer.candidate(policy)
        return seen[key]

    kept = _kept_study(optuna, journal, _identity(scorer, space, band, seed))
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.add_trials(kept.get_trials(deepcopy=False))
    for trial in study.get_trials(deepcopy=False):
        tried(trial.params)
    parts = _distributions(optuna, space)
    for generation in range(len(study.trials) // POPULATION, -(-trials // POPULATION)):
        # a sampler of its own for each generation: what it draws does not depend on whether the search was interrupted
        study.sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed * 100_003 + generation)
        for earlier in range(1, generation + 1):
            study.sampler.get_parent_population(study, earlier)
        born = [study.ask(parts) for _ in range(POPULATION)]
        for index, child in enumerate(born):
            candidate = tried(child.params)
            study.tell(child, (float(np.clip(band.of(candidate), band.low, band.high)), candidate.quality))
            if on_trial is not None:
                on_trial(generation * POPULATION + index + 1, trials)
        kept.add_trials(study.get_trials(deepcopy=False)[-POPULATION:])
    return list(seen.values())


def load_optuna() -> Any:
    """Optuna. Raises InputError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise InputError("calibrate needs Optuna: pip install 'janoscope[calibrate]', from a checkout '.[calibrate]'.") from error
    return optuna


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna reports every trial; inside only its warnings are heard."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _kept_study(optuna: Any, journal: Path, name: str) -> Any:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name=name, directions=["minimize", "maximize"], load_if_exists=True)
    if len(study.get_trials(deepcopy=False)) % POPULATION == 0:
        return study
    # interrupted while a generation was being written: what is whole before it goes into a study of the next name
    whole = study.get_trials(deepcopy=False)
    again = _kept_study(optuna, journal, name + "'")
    if not again.get_trials(deepcopy=False):
        again.add_trials(whole[: len(whole) // POPULATION * POPULATION])
    return again


def _identity(scorer: Scorer, space: Space, band: Band, seed: int) -> str:
    """Changes with everything that decides what the search finds."""
    times = scorer.times.to_json() if scorer.times else None
    facts = [scorer.surrogate.to_json(), times, space.to_json(), vars(band), seed, scorer.tracks.runs]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _distributions(optuna: Any, space: Space) -> dict[str, Any]:
    parts = {name: optuna.distributions.CategoricalDistribution(values) for name, values in space.choices().items()}
    return parts | {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in ("low", "span")}


def front(candidates: Sequence[Candidate], band: Band) -> list[Candidate]:
    """The candidates that no other beats in both cost and quality, cheapest first; of equals the first."""
    best, found = -np.inf, []
    for candidate in sorted(candidates, key=lambda c: (band.of(c), -c.quality)):
        if candidate.quality > best:
            best = candidate.quality
            found.append(candidate)
    return found


def probes(scorer: Scorer, space: Space, band: Band, count: int, seed: int) -> list[Candidate]:
    """Policies to fit the surrogate on: every class in turn, over the whole band, every second the best of several draws.

    Those drawn once show the surrogate bad policies too; the others lie where the search will look.
    """
    rng = np.random.default_rng(seed)
    classes: list[dict[str, Part]] = [
        {"levels": levels, "output": output, "keys": keys}
        for output in reversed(space.outputs)
        for levels, keys in ((2, "forecast"), (3, "hold"), (1, "hold"))
    ]
    found: list[Candidate] = []
    for index in range(count):
        aim = band.low + (band.high - band.low) * float(rng.random())
        drawn = [scorer.candidate(drawn_policy(space, rng, classes[index % len(classes)])) for _ in range(DRAWS)]
        drawn.sort(key=lambda candidate: abs(band.of(candidate) - aim))
        near = [c for c in drawn[: DRAWS // 4] if c.policy not in [f.policy for f in found]] or drawn[:1]
        found.append(max(near, key=lambda c: c.quality) if index % 2 else near[0])
    return found


def drawn_policy(space: Space, rng: np.random.Generator, settled: Mapping[str, Part] | None = None) -> Policy:
    """Any policy of the space; settled: parts that are not drawn."""
    params: dict[str, Any] = {name: values[int(rng.integers(len(values)))] for name, values in space.choices().items()}
    return space.policy(Parts(**params | {"low": float(rng.random()), "span": float(rng.random())} | dict(settled or {})))
