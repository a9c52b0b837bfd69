"""Guidance: which rows of which network call belong to which branch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError
from ..probe import Guidance
from .guidance import PipelineGuidance
from .layout import output_tensor
from .watch import NetworkCall

GUIDED, COND, PERTURBED = "guided", "cond", "perturbed"


@dataclass(frozen=True)
class Seen:
    """A network call and what the taps saw in it, (batch and branch, token, channel)."""

    call: NetworkCall
    taps: Mapping[str, torch.Tensor]

    @property
    def batch(self) -> int:
        return len(output_tensor(self.call.output))


@dataclass(frozen=True)
class Share:
    """The rows of one network call that belong to one branch."""

    branch: str
    seen: Seen
    rows: slice

    @property
    def output(self) -> Any:
        """The network's output for this branch, in the family's layout."""
        return output_tensor(self.seen.call.output)[self.rows]

    def tap(self, name: str) -> torch.Tensor:
        """(item, token, channel); a module that folds frames into the batch has them as its outer token axis."""
        value, batch = self.seen.taps[name], self.seen.batch
        if value.shape[0] % batch:
            raise InputError(f"{name} has shape {tuple(value.shape)} for a batch of {batch}; its items cannot be told apart.")
        return value.reshape(batch, -1, value.shape[2])[self.rows]


def shares_of(
    seen: Sequence[Seen], guidance: Guidance, items: int, *, alone: str, pipeline: PipelineGuidance | None = None
) -> list[Share]:
    """The branches of one step. alone: what to call the only branch of the only call. pipeline: what it says of its guidance.

    Rows of perturbed attention are no branch and are left out.

    Raises InputError where the probe's [guidance] cannot explain the calls, or the pipeline says something else.
    """
    names, pipeline = guidance.branches, pipeline or PipelineGuidance()
    batches = [one.batch for one in seen]
    if batches == [items]:
        return [Share(alone, seen[0], slice(0, items))]
    if pipeline.others:
        raise InputError(f"{', '.join(pipeline.others)} is on, and the probe knows no branch of it. Switch it off.")
    if pipeline.perturbed and guidance.calls == "batched":
        names = _perturbed_names(names, batches, items, pipeline)
    elif pipeline.classifier_free is False:
        raise InputError(
            f"the network was called with {sum(batches)} rows for {items} items, and the pipeline says that it does not guide "
            "(do_classifier_free_guidance is off): these rows are no branches that can be named."
        )
    if len(seen) == 1 and guidance.calls == "batched" and batches[0] == len(names) * items:
        rows = {name: slice(i * items, (i + 1) * items) for i, name in enumerate(names)}
        return [Share(name, seen[0], place) for name, place in rows.items() if name != PERTURBED]
    if len(seen) > len(names):
        raise InputError(f"{len(seen)} network calls in one step; the probe knows {len(names)} branches. Extend its [guidance].")
    if len(seen) > 1 and guidance.calls == "sequential":
        return [Share(name, one, slice(0, items)) for name, one in zip(names, seen, strict=False)]
    if len(seen) > 1:
        raise InputError(
            f"{len(seen)} network calls in one step, with {' and '.join(map(str, batches))} rows for {items} items; the probe "
            f"knows one call for the {len(names)} branches. Extend its [guidance]."
        )
    raise InputError(
        f"the network was called with a batch of {batches[0]} for {items} items; the probe knows {len(names)} branches "
        f"of {guidance.calls} guidance. Extend its [guidance]."
    )


def _perturbed_names(names: tuple[str, ...], batches: list[int], items: int, pipeline: PipelineGuidance) -> tuple[str, ...]:
    """Perturbed attention stacks a copy of the text's rows last; without classifier-free guidance there is no uncond."""
    guided = pipeline.classifier_free
    if guided is None:
        guided = batches == [3 * items]
    return (*names, PERTURBED) if guided else (COND, PERTURBED)


def first_half(stacked: torch.Tensor) -> torch.Tensor:
    """One branch's rows of what a scheduler with `stacked_step` is stepped with; waits for the device."""
    # with guidance such a pipeline steps both branches' rows, alike; without, its batch is not stacked
    half = stacked.shape[0] // 2
    alike = stacked.shape[0] % 2 == 0 and torch.equal(stacked[:half], stacked[half:])
    return stacked[:half] if alike else stacked
