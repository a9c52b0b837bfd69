"""What may be expected of a policy on new prompts, from the prompts it was validated on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

LEVEL = 0.95


@dataclass(frozen=True)
class Expectation:
    """Mean and spread (standard deviation between prompts) of a figure over `prompts` validated prompts.

    It is of the choosing, not of the chosen alone: every prompt's value is that of the policy that the other prompts would have
    chosen, since the best of several on the same prompts looks better than it is.
    """

    mean: float
    spread: float
    prompts: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Expectation":
        array = np.asarray(values, dtype=np.float64)
        return cls(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else float("nan"), len(array))

    def interval(self, new_prompts: int) -> tuple[float, float] | None:
        """95 % prediction interval of the mean over so many new prompts; None where one prompt alone was validated.

        Student's t with the validation's degrees of freedom, for prompts drawn alike and figures near normal in dB.
        """
        if self.prompts < 2:
            return None
        width = float(t.ppf((1 + LEVEL) / 2, self.prompts - 1)) * self.spread * np.sqrt(1 / self.prompts + 1 / new_prompts)
        return self.mean - float(width), self.mean + float(width)

    def to_json(self) -> dict[str, Any]:
        sizes = sorted({1, self.prompts, 16, 100})
        return {
            "mean": self.mean,
            "spread": self.spread,
            "prompts": self.prompts,
            "prediction_interval": {str(size): self.interval(size) for size in sizes},
        }


def chosen_by_others(figures: Mapping[str, Sequence[float]]) -> list[float]:
    """Every prompt's figure under the candidate with the best mean over the other prompts.

    figures: candidate -> a figure a prompt, in the same order, larger is better.

    >>> chosen_by_others({"a": [9, 1, 1], "b": [2, 2, 2]})
    [2.0, 1.0, 1.0]
    """
    table = np.array([list(values) for values in figures.values()], dtype=np.float64)  # (candidate, prompt)
    if table.shape[1] < 2:
        return [float(value) for value in table[table.mean(axis=1).argmax()]]
    others = table.sum(axis=1, keepdims=True) - table
    return [float(table[others[:, prompt].argmax(), prompt]) for prompt in range(table.shape[1])]
