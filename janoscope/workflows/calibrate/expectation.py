"""What may be expected of a policy on new prompts, from the prompts it was validated on."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

LEVEL = 0.95
COLLAPSE_DB = 25.0  # about where a picture is no longer the same one
STRAY_DEVIATIONS, STRAY_DB = 4.0, 6.0  # a run below its policy's median by more than both is an outlier
JEFFREYS = 0.5  # strays, and runs that did not, that are believed in before any was seen
DRAWS = 20_000
Pick = Callable[[np.ndarray], int]


@dataclass(frozen=True)
class Strays:
    """Runs that left the full run's picture: an early error led them to another one.

    runs: all that were looked at, of every candidate. limit: dB below its policy's median beyond which a run has strayed.
    falls: how far below (dB), of those that have.
    """

    runs: int
    limit: float
    falls: tuple[float, ...] = ()

    @classmethod
    def among(cls, table: np.ndarray) -> "Strays":
        """table: (candidate, prompt), dB. Deviations are pooled over candidates, as 1.4826 median |residual|."""
        below = np.median(table, axis=1, keepdims=True) - table
        limit = max(STRAY_DB, STRAY_DEVIATIONS * 1.4826 * float(np.median(np.abs(below))))
        return cls(table.size, limit, tuple(sorted(below[below > limit].tolist())))

    def drawn(self, rng: np.random.Generator, new_prompts: int, deepest: float) -> np.ndarray:
        """(draw, new prompt): dB that strays cost, 0 for most prompts.

        The share of strays follows Beta(1/2 + seen, 1/2 + others), so it is not 0 where none was seen; a fall is one of those
        seen or, as likely as one of them, anything between the limit and `deepest`.
        """
        share = rng.beta(JEFFREYS + len(self.falls), JEFFREYS + self.runs - len(self.falls), (DRAWS, 1))
        any_fall = rng.uniform(self.limit, max(self.limit, deepest), (DRAWS, new_prompts))
        seen = rng.integers(len(self.falls) + 1, size=(DRAWS, new_prompts))
        falls = np.where(seen == len(self.falls), any_fall, np.array([*self.falls, 0.0])[seen])
        return np.where(rng.random((DRAWS, new_prompts)) < share, falls, 0.0)


@dataclass(frozen=True)
class Expectation:
    """Mean and spread (standard deviation between prompts) of PSNR over validated prompts, in dB.

    It is of the choosing, not of the chosen alone: every prompt's value is that of the policy that the other prompts would have
    chosen, since the best of several on the same prompts looks better than it is. body: the values that did not stray.
    """

    mean: float
    spread: float
    prompts: int
    body: tuple[float, ...] = ()
    strays: Strays = field(default_factory=lambda: Strays(0, STRAY_DB))

    @classmethod
    def of(cls, table: np.ndarray, picked: Sequence[int]) -> "Expectation":
        """table: (candidate, prompt), dB; picked: the candidate of every prompt."""
        strays = Strays.among(table)
        values = table[picked, range(len(picked))]
        body = values[np.median(table, axis=1)[picked] - values <= strays.limit]
        spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        return cls(float(values.mean()), spread, len(values), tuple(body.tolist()), strays)

    def interval(self, new_prompts: int) -> tuple[float, float] | None:
        """95 % prediction interval of the mean over so many new prompts, drawn alike; None where one prompt was validated.

        Student's t for the body, which is near normal in dB, less what strays cost: a mixture, drawn with a fixed seed.
        """
        count = len(self.body)
        if count < 2:
            return None
        rng, middle = np.random.default_rng(0), float(np.mean(self.body))
        deviation = np.std(self.body, ddof=1) * np.sqrt((count - 1) / rng.chisquare(count - 1, DRAWS))
        means = middle + deviation * np.sqrt(1 / count + 1 / new_prompts) * rng.standard_normal(DRAWS)
        means -= self.strays.drawn(rng, new_prompts, middle - COLLAPSE_DB).mean(axis=1)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def to_json(self) -> dict[str, object]:
        sizes = sorted({1, self.prompts, 16, 100})
        return {
            "mean": self.mean,
            "spread": self.spread,
            "prompts": self.prompts,
            "strays": {"runs": self.strays.runs, "limit_db": self.strays.limit, "falls_db": list(self.strays.falls)},
            "prediction_interval": {str(size): self.interval(size) for size in sizes},
        }


def best_mean(table: np.ndarray) -> int:
    """The candidate of a table (candidate, prompt) with the highest mean."""
    return int(table.mean(axis=1).argmax())


def chosen_by_others(table: np.ndarray, pick: Pick = best_mean) -> list[int]:
    """For every prompt of a table (candidate, prompt) the candidate that the other prompts would have chosen.

    >>> chosen_by_others(np.array([[9, 1, 1], [2, 2, 2]]))
    [1, 0, 0]
    """
    if table.shape[1] < 2:
        return [pick(table)]
    return [pick(np.delete(table, prompt, axis=1)) for prompt in range(table.shape[1])]


def most_likely_best(table: np.ndarray, predicted: Sequence[float], prediction_error_db: float) -> int:
    """The candidate that measured and predicted figures together put first.

    table: (candidate, prompt), dB, measured. Each candidate is compared with the one of the best mean: the mean of their paired
    differences, and the predicted difference, weighed by their variances. Where prompts settle the matter (the paired standard
    error is small) predictions do not count; where one prompt decides a mean they do.
    """
    leader = best_mean(table)
    if table.shape[1] < 2:
        return leader
    behind = table - table[leader]
    variance = behind.var(axis=1, ddof=1) / table.shape[1] + 1e-9
    prior = np.asarray(predicted, dtype=np.float64) - predicted[leader]
    merits = (behind.mean(axis=1) / variance + prior / prediction_error_db**2) / (1 / variance + 1 / prediction_error_db**2)
    merits[leader] = 0.0
    return int(merits.argmax())


@dataclass(frozen=True)
class Lead:
    """How far (dB) the taken candidate is ahead of the best of the others. over: the other's index, or its name."""

    by: float
    standard_error: float
    over: int | str

    def to_json(self) -> dict[str, object]:
        """As calibration.json has it."""
        return asdict(self)


def lead(table: np.ndarray, taken: int) -> Lead | None:
    """How far one candidate is ahead of the best of the others, over prompts in pairs; None where nothing can be compared."""
    if len(table) < 2 or table.shape[1] < 2:
        return None
    other = max((index for index in range(len(table)) if index != taken), key=lambda index: float(table[index].mean()))
    ahead = table[taken] - table[other]
    return Lead(float(ahead.mean()), float(ahead.std(ddof=1) / np.sqrt(len(ahead))), other)
