"""The warm-up: keep its predictions, analyse them in place, make the plan. The same functions that analyse a recording do it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..conversion import NoisePath
from ..grid import TokenGrid
from ..plan import Fingerprint, ModelFacts, Plan, Policy, highest, plan_from_ranks, token_ranks, transformer_identity
from ..plan.importance import importance_scores


@dataclass(frozen=True)
class Identity:
    """What a run is, beyond what its pipeline shows; `unknown` where nobody said."""

    model: str = "unknown"
    prompt: str = "unknown"
    seed: int | None = None
    guidance: Mapping[str, Any] = field(default_factory=lambda: {"scale": "unknown", "negative_prompt": "unknown"})


def fingerprint_of(
    transformer: Mapping[str, Any], scheduler: Mapping[str, Any], grid: TokenGrid, steps: int, identity: Identity
) -> Fingerprint:
    """The fingerprint of a run, from `describe_transformer`, `describe_scheduler` and what the user said."""
    return Fingerprint(
        model=identity.model,
        transformer=transformer_identity(transformer["class"], transformer["config"]),
        grid=grid,
        steps=steps,
        scheduler={"class": scheduler["class"], "config": scheduler["config"]},
        guidance=dict(identity.guidance),
        prompt=identity.prompt,
        seed=identity.seed,
    )


class Warmup:
    """Collects (item, channel, frame, row, col) latents of the warm-up steps, NumPy or torch, until the plan is made."""

    def __init__(
        self,
        policy: Policy,
        fingerprint: Fingerprint,
        prediction_type: str,
        path: NoisePath,
    ):
        self._policy, self._fingerprint = policy, fingerprint
        self._prediction_type, self._path = prediction_type, path
        self._samples: list[Any] = []
        self._outputs: list[Any] = []

    def add(self, sample: Any, output: Any) -> None:
        """One warm-up step: x_t and the prediction after guidance."""
        self._samples.append(sample)
        self._outputs.append(output)

    def make_plan(self, facts: ModelFacts | None) -> Plan:
        """The plan, from every item's map; an item's active token is active for all, since they share one sequence."""
        grid, seed = self._fingerprint.grid, self._fingerprint.seed
        ranks = []
        for item in range(len(self._outputs[0]) if self._outputs else 1):  # a random map may do without a warm-up
            samples, outputs = [s[item] for s in self._samples], [o[item] for o in self._outputs]
            scores = importance_scores(
                self._policy, samples, outputs, path=self._path, prediction=self._prediction_type, grid=grid, seed=seed
            )
            ranks.append(token_ranks(scores, self._policy, grid))
        return plan_from_ranks(self._policy, highest(ranks), self._fingerprint, facts)
