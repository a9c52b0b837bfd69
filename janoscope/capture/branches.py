"""Guidance: which rows of which network call belong to which branch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError
from ..probe import Guidance
from .layout import output_tensor
from .watch import NetworkCall

GUIDED, COND = "guided", "cond"


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


def shares_of(seen: Sequence[Seen], guidance: Guidance, items: int, *, alone: str) -> list[Share]:
    """The branches of one step. alone: what to call the only branch of the only call.

    Raises InputError where the sheet's [guidance] cannot explain the calls.
    """
    names = guidance.branches
    if len(seen) > len(names):
        raise InputError(
            f"{len(seen)} network calls in one step; the probe sheet knows {len(names)} branches. Extend its [guidance]."
        )
    if len(seen) > 1:
        return [Share(name, one, slice(0, items)) for name, one in zip(names, seen, strict=False)]
    batch = seen[0].batch
    if guidance.calls == "batched" and batch == len(names) * items:
        return [Share(name, seen[0], slice(i * items, (i + 1) * items)) for i, name in enumerate(names)]
    if batch != items:
        raise InputError(
            f"the network was called with a batch of {batch} for {items} items; the probe sheet knows {len(names)} branches "
            f"of {guidance.calls} guidance. Extend its [guidance]."
        )
    return [Share(alone, seen[0], slice(0, items))]


def first_half(stacked: torch.Tensor) -> torch.Tensor:
    """One branch's rows of what a scheduler with `stacked_step` is stepped with; waits for the device."""
    # with guidance such a pipeline steps both branches' rows, alike; without, its batch is not stacked
    half = stacked.shape[0] // 2
    alike = stacked.shape[0] % 2 == 0 and torch.equal(stacked[:half], stacked[half:])
    return stacked[:half] if alike else stacked
