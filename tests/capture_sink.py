"""A sink that keeps everything in memory."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from janoscope.capture import Generation, StepFacts


@dataclass
class Kept:
    """One generation: maps[step][signal, item, branch] -> (token, channel)."""

    about: Generation
    maps: list[dict[tuple[str, int, str], np.ndarray]] = field(default_factory=list)
    facts: list[StepFacts] = field(default_factory=list)
    dtypes: set[str] = field(default_factory=set)
    ended: bool = False
    error: BaseException | None = None

    def stacked(self, step: int, signal: str, branch: str) -> np.ndarray:
        """(item, token, channel)."""
        return np.stack([self.maps[step][signal, item, branch] for item in range(self.about.items)])


class MemorySink:
    def __init__(self) -> None:
        self.generations: list[Kept] = []
        self._step: dict[tuple[str, int, str], np.ndarray] = {}

    @property
    def only(self) -> Kept:
        (generation,) = self.generations
        return generation

    def begin(self, generation: Generation) -> None:
        self.generations.append(Kept(generation))

    def put(self, signal: str, values: np.ndarray, *, item: int, branch: str, dtype: str) -> None:
        assert (signal, item, branch) not in self._step
        self._step[signal, item, branch] = values.copy()
        self.generations[-1].dtypes.add(dtype)

    def commit(self, facts: StepFacts) -> None:
        self.generations[-1].maps.append(self._step)
        self.generations[-1].facts.append(facts)
        self._step = {}

    def end(self, error: BaseException | None) -> None:
        self.generations[-1].ended, self.generations[-1].error = True, error


def run(pipeline: Any, call: dict[str, Any], seed: int = 0, **changes: Any) -> Any:
    import torch

    return pipeline(**call | changes, generator=torch.Generator().manual_seed(seed))
