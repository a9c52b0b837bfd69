"""Skipping whole steps: what the sampler is handed where the network is not called, and at the computed steps after that.

It needs nothing of the inside of a network, so it serves any network and any loop. Outputs of computed steps are kept, and every
step is handed a combination of them (`plan.coefficients`): reused, forecast, corrected, or with learned coefficients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils import _pytree as pytree

from ..capture.protocols import Scheduler
from ..capture.sampler_weights import sampler_weights
from ..errors import InputError
from ..plan import Policy, coefficients
from ..plan.coefficients import StepCoefficients
from .caching.forecast import forecast_coordinates

Output = TypeVar("Output")  # whatever a network returns


@dataclass
class _Branch:
    """What one branch of guidance has computed: outputs by step, as flat lists of their parts."""

    computed: list[int] = field(default_factory=list)
    outputs: dict[int, list[object]] = field(default_factory=dict)
    form: pytree.TreeSpec | None = None
    inputs: object = None


class StepSkipper:
    """Calls the network at the computed steps of a policy, and stands in for it at the others.

    Args:
        policy: a step-level policy: a `[schedule]`, and what its skipped steps are handed.
        coordinate: (step,): where forecasts run, the sampler's sigma (flow), else sigma / alpha. Its length is the run's.
        weights: (step,): what `sampler_weights` gives; needed where the policy's output is `corrected`.

    Example:
        skipper = StepSkipper.for_scheduler(policy, scheduler)
        for step, timestep in enumerate(scheduler.timesteps):
            output = skipper(step, lambda: network(x, timestep))
            x = scheduler.step(output, timestep, x).prev_sample

    Raises:
        InputError: the policy has no schedule, or is corrected and there are no weights.
    """

    def __init__(self, policy: Policy, coordinate: Sequence[float], weights: np.ndarray | None = None):
        if policy.schedule is None:
            raise InputError(
                f"policy {policy.name} has no [schedule]; it skips tokens, not steps. Use janoscope.apply with a pipeline."
            )
        if policy.output == "corrected" and weights is None:
            raise InputError('output = "corrected" needs the sampler\'s weights; pass weights=sampler_weights(scheduler).')
        self.policy = policy
        self.coordinate, self.weights = np.asarray(coordinate, dtype=float), weights
        steps = len(self.coordinate)
        self.computed = policy.schedule.computed_steps(steps, self.coordinate)
        self.carried = not policy.schedule.fits(steps, self.coordinate)
        self._rows: dict[tuple[int, ...], StepCoefficients] = {}
        self._branches: dict[object, _Branch] = {}
        self.network_calls = self.skipped_calls = 0

    @classmethod
    def for_scheduler(cls, policy: Policy, scheduler: Scheduler, arguments: Mapping[str, object] | None = None) -> "StepSkipper":
        """A skipper for a diffusers scheduler whose timesteps are set; `arguments` as `sampler_weights` takes them.

        Raises:
            ExecutionError: the policy is corrected, and the sampler adds noise or clips.
        """
        weights = sampler_weights(scheduler, arguments) if policy.output == "corrected" else None
        return cls(policy, forecast_coordinates(scheduler), weights)

    @property
    def bytes(self) -> int:
        """What the kept outputs take on their device."""
        kept = [part for branch in self._branches.values() for parts in branch.outputs.values() for part in parts]
        return sum(part.numel() * part.element_size() for part in kept if isinstance(part, torch.Tensor))

    def is_computed(self, step: int) -> bool:
        """Whether the schedule calls the network at this step."""
        return step in self.computed

    def __call__(self, step: int, network: Callable[[], Output], branch: object = "guided", inputs: object = None) -> Output:
        """The output of one network call of a step: computed, or what stands for it.

        Args:
            step: counts from 0.
            network: computes it.
            branch: which of several calls of a step; each has outputs of its own.
            inputs: whatever must be the same for kept outputs to fit, such as the shapes of the arguments.

        Returns:
            What `network` returns, in the same form: a tensor, or any nesting of tuples, lists and diffusers outputs.
        """
        if not 0 <= step < len(self.coordinate):
            raise InputError(f"step {step} lies outside the run of {len(self.coordinate)} steps that the skipper was made for.")
        kept = self._branches.get(branch)
        if kept is None or kept.inputs != inputs or (kept.computed and kept.computed[-1] >= step):
            kept = self._branches[branch] = _Branch(inputs=inputs)
        if self.is_computed(step) or not kept.computed:
            self.network_calls += 1
            output = network()
            parts, kept.form = pytree.tree_flatten(output)
            kept.computed.append(step)
            kept.outputs[step] = parts
        else:
            self.skipped_calls += 1
            output = None
        handed = self._handed(kept, step, output)
        self._forget(kept, step)
        return handed

    def reset(self) -> None:
        """Drop the kept outputs; the next call begins a new run."""
        self._branches.clear()

    def _coefficients(self, computed: Sequence[int]) -> StepCoefficients:
        """Of a run that has computed these steps so far and follows the schedule from there.

        A branch may begin late or be computed out of schedule (guidance that switches on, another expert); its lines are drawn
        through what it has.
        """
        steps = (*computed, *(n for n in self.computed if n > computed[-1]))
        if steps not in self._rows:
            self._rows[steps] = self._made([step - steps[0] for step in steps], steps[0])
        return self._rows[steps]

    def _made(self, steps: list[int], offset: int) -> StepCoefficients:
        coordinate = self.coordinate[offset:]
        if self.policy.learned and not self.carried and not offset and tuple(steps) == self.computed:
            handed = np.zeros((len(coordinate), len(coordinate)))
            for row, column, share in self.policy.learned:
                handed[row, column] = share
            flags = np.isin(np.arange(len(coordinate)), steps)
            untouched = ~handed.any(axis=1)
            handed[untouched] = self._line(steps, coordinate, offset).handed[untouched]
            return StepCoefficients(flags, handed)
        return self._line(steps, coordinate, offset)

    def _line(self, steps: list[int], coordinate: np.ndarray, offset: int) -> StepCoefficients:
        if self.policy.output == "hold":
            return coefficients.reuse(steps, len(coordinate))
        if self.policy.output == "forecast" or self.weights is None:
            return coefficients.forecast(steps, coordinate)
        return coefficients.corrected(steps, coordinate, self.weights[offset:])

    def _handed(self, kept: _Branch, step: int, output: Output | None) -> Output:
        first = kept.computed[0]
        row = self._coefficients(kept.computed).handed[step - first]
        used = [(int(node) + first, float(row[node])) for node in np.flatnonzero(row)]
        if output is not None and used == [(step, 1.0)]:
            return output
        newest = kept.outputs[kept.computed[-1]]
        parts = [_combined([(kept.outputs[node][i], share) for node, share in used], part) for i, part in enumerate(newest)]
        assert kept.form is not None, "nothing was computed"
        handed: Output = pytree.tree_unflatten(parts, kept.form)
        return handed

    def _forget(self, kept: _Branch, step: int) -> None:
        """Drop outputs that no later step is handed a share of."""
        first = kept.computed[0]
        last_use = self._coefficients(kept.computed).last_use
        newest = kept.computed[-2:]  # a branch computed out of schedule draws its lines through these
        kept.outputs = {n: parts for n, parts in kept.outputs.items() if last_use[n - first] > step or n in newest}


def _combined(terms: Sequence[tuple[Any, float]], newest: object) -> object:
    """sum of share * value in float32, in the values' dtype; a new tensor. What is no float tensor stays as it was last."""
    if not isinstance(newest, torch.Tensor) or not newest.is_floating_point():
        return newest
    (first, share), *rest = terms
    if not rest and share == 1.0:
        return first.clone()
    total = first.float() * share
    for value, share in rest:
        total.add_(value, alpha=share) if value.dtype == total.dtype else total.add_(value.float(), alpha=share)
    return total.to(newest.dtype)
