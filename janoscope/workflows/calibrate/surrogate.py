"""Surrogates of a real run: its PSNR from a candidate's replay, and its wall time from the compute of its steps.

The PSNR's has three numbers, fitted on a few real runs; the time's are medians of steps that were timed on this device.

PSNR = offset - 10 log10(output + weight * stale), errors over the power of the final x0. The offset stands for the decoder, a
weight for how strongly stale keys and values spoil the tokens that read them; it differs between reused and forecast ones.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from ...errors import InputError
from ...plan import Policy
from ...plan.policy import skips_steps_only
from ...plan.schedule import StepKind

FLOOR = 1e-8  # of the signal's power, -80 dB: below it 8-bit pictures are the same
CAP_DB = 80.0  # stands for identical pictures in means
# measured on the bundled image model (reports/calibrate-demo), and where a fit starts from
PRIOR_WEIGHT = {"hold": 6.0, "forecast": 2.5}
PRIOR_SPREAD = 1.0  # standard deviation of a weight's logarithm
NOISE_DB = 2.5  # of one run about the surrogate, as first measured
FEW_RUNS = 4  # below which a rank correlation says nothing


@dataclass(frozen=True)
class Observed:
    """One real run: what its replay said, and the PSNR (dB) it measured against the full run."""

    policy: Policy
    output: float
    stale: float
    psnr: float


@dataclass(frozen=True)
class Surrogate:
    """offset_db: None where no run has been measured, which leaves the signal-to-error ratio. runs: fitted on."""

    offset_db: float | None = None
    weight_hold: float = PRIOR_WEIGHT["hold"]
    weight_forecast: float = PRIOR_WEIGHT["forecast"]
    runs: int = 0

    @property
    def measure(self) -> str:
        return "signal-to-error ratio of the latent (dB)" if self.offset_db is None else "PSNR (dB)"

    def predict(self, policy: Policy, output: np.ndarray, stale: np.ndarray) -> np.ndarray:
        """dB, of every run whose errors are given."""
        weight = self.weight_forecast if policy.cache.forecast else self.weight_hold
        return (self.offset_db or 0.0) - 10 * np.log10(np.asarray(output) + weight * np.asarray(stale) + FLOOR)

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"measure": self.measure}


def fit_surrogate(observed: Sequence[Observed]) -> Surrogate:
    """The surrogate of these runs: least squares in dB, outliers damped, the weights drawn towards the prior ones."""
    if not observed:
        return Surrogate()
    output, stale, psnr = (np.array([getattr(run, name) for run in observed]) for name in ("output", "stale", "psnr"))
    forecast = np.array([run.policy.cache.forecast for run in observed])

    def residuals(x: np.ndarray) -> np.ndarray:
        weight = np.where(forecast, PRIOR_WEIGHT["forecast"] * np.exp(x[2]), PRIOR_WEIGHT["hold"] * np.exp(x[1]))
        error = x[0] - 10 * np.log10(output + weight * stale + FLOOR) - psnr
        return np.concatenate([error / NOISE_DB, x[1:] / PRIOR_SPREAD])

    start = float(np.median(psnr + 10 * np.log10(output + PRIOR_WEIGHT["hold"] * stale + FLOOR)))
    solution = least_squares(residuals, [start, 0.0, 0.0], loss="soft_l1").x
    weights = PRIOR_WEIGHT["hold"] * np.exp(solution[1]), PRIOR_WEIGHT["forecast"] * np.exp(solution[2])
    return Surrogate(float(solution[0]), float(weights[0]), float(weights[1]), len(observed))


def method_class(policy: Policy) -> str:
    """What kind of policy it is: whole steps or tokens, and what stands for what is skipped.

    >>> from janoscope.plan.policy import Intervals, Split
    >>> method_class(Policy("p", 2, 1, (1, 4, 4), Intervals(2, 2, 2), quantiles=Split(0, 0)))
    'steps, hold'
    """
    if skips_steps_only(policy):
        return f"steps, {policy.output}"
    return f"tokens, {policy.output}, keys {'forecast' if policy.cache.forecast else 'hold'}"


def cross_validated(observed: Sequence[Observed]) -> np.ndarray:
    """(run,): the prediction for each run by a surrogate that was fitted without its policy."""
    predicted = np.empty(len(observed))
    for policy in dict.fromkeys(run.policy.name for run in observed):
        others = [run for run in observed if run.policy.name != policy]
        surrogate = fit_surrogate(others)
        for index, run in enumerate(observed):
            if run.policy.name == policy:
                predicted[index] = surrogate.predict(run.policy, np.array([run.output]), np.array([run.stale]))[0]
    return predicted


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Spearman; None for too few runs or a constant."""
    if len(predicted) < FEW_RUNS or len(set(predicted)) < 2 or len(set(measured)) < 2:
        return None
    return float(spearmanr(predicted, measured).statistic)


class Ranking(TypedDict):
    """How predictions rank runs. rmse_db: root mean square error of the predictions."""

    spearman: float | None
    rmse_db: float | None
    runs: int


class Agreement(TypedDict):
    """Over all runs, and within kinds of policies."""

    across: Ranking
    within: dict[str, Ranking]


def agreement(classes: Sequence[str], predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """Spearman over all runs (across classes), within tokens and within steps, and within every class that has enough runs."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        for group in {name.split(",")[0], name}:
            groups.setdefault(group, []).append(index)

    def within(indices: Sequence[int]) -> Ranking:
        p, m = [predicted[i] for i in indices], [measured[i] for i in indices]
        error = float(np.sqrt(np.mean((np.array(p) - np.array(m)) ** 2)))
        return {"spearman": rank_correlation(p, m), "rmse_db": error, "runs": len(indices)}

    if not classes:
        return {"across": {"spearman": None, "rmse_db": None, "runs": 0}, "within": {}}
    return {"across": within(range(len(classes))), "within": {name: within(groups[name]) for name in sorted(groups)}}


@dataclass(frozen=True)
class TimedStep:
    """compute: fraction of a full step's FLOPs. seconds: from one scheduler step to the next."""

    kind: str
    compute: float
    seconds: float


@dataclass(frozen=True)
class StepTimes:
    """Wall time of a run, in units of a full step. fixed: of a partial step, what does not shrink with its compute. refresh: more
    for storing keys and values. reuse: of a step without a network call. outside: of the run, encoders and decoder."""

    full_s: float
    fixed: float
    refresh: float
    reuse: float
    outside: float

    @classmethod
    def measured(cls, full: Sequence[TimedStep], accelerated: Sequence[TimedStep], outside_s: float) -> "StepTimes":
        """Medians, since a shared machine disturbs means. full: steps of full runs; accelerated: of runs under policies.

        Raises InputError where no step of either was timed.
        """
        if not full or not accelerated:
            raise InputError("a target speedup needs timed runs with and without a policy; raise --max-runs.")
        whole = _median([step.seconds for step in full])
        partial = [step for step in accelerated if step.kind in (StepKind.MODERATE, StepKind.ACTIVE) and 0 < step.compute < 1]
        refresh = [step.seconds for step in accelerated if step.kind == StepKind.REFRESH]
        reuse = [step.seconds for step in accelerated if step.kind == StepKind.REUSE]
        # time = fixed + (1 - fixed) compute: each step gives an estimate of `fixed`; cheap steps give the best
        fixed = [(step.seconds / whole - step.compute) / (1 - step.compute) for step in partial if step.compute < 0.8]
        return cls(
            whole,
            float(np.clip(_median(fixed, 0.0), 0, 1)),
            max(0.0, _median(refresh, whole) / whole - 1),
            _median(reuse, 0.0) / whole,
            max(0.0, outside_s / whole),
        )

    def speedup(self, kinds: Sequence[StepKind], step_compute: np.ndarray) -> np.ndarray:
        """(run,): wall time of the full run over that of kinds (step,) with compute (run, step)."""
        partial = self.fixed + (1 - self.fixed) * step_compute
        reuse = np.array([kind is StepKind.REUSE for kind in kinds]) | (step_compute == 0)
        refresh = self.refresh * np.array([kind is StepKind.REFRESH for kind in kinds])
        time = np.where(reuse, self.reuse, partial + refresh).sum(axis=1)
        speedup: np.ndarray = (self.outside + len(kinds)) / (self.outside + time)
        return speedup

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def _median(values: Sequence[float], default: float = 0.0) -> float:
    return float(np.median(values)) if len(values) else default
