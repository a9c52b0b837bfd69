"""Slabs: one layer's keys and values of the tokens that steps skip, and the ways in and out of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Pair = Sequence[torch.Tensor]  # keys and values, each (token, item, head, channel): rows are contiguous, so copies are too


@dataclass
class Slot:
    """Device memory for one layer's slab under way. mark: behind the last work that used it."""

    tensor: torch.Tensor
    mark: Any = None


@dataclass
class Group:
    """Tokens that are skipped together. span: their rows in a slab."""

    tokens: np.ndarray
    span: slice
    _index: dict[torch.device, torch.Tensor] = field(default_factory=dict)

    def index(self, device: torch.device) -> torch.Tensor:
        if device not in self._index:
            self._index[device] = torch.from_numpy(self.tokens).to(device)
        return self._index[device]


def rows_first(given: torch.Tensor) -> torch.Tensor:
    """(item, head, token, channel) -> (token, item, head, channel)."""
    return given.permute(2, 0, 1, 3)


def gather(source: Pair, groups: Sequence[Group], slab: torch.Tensor) -> None:
    """Groups of the image tokens' keys and values, into their rows of a slab."""
    for pair, rows in enumerate(source):
        for group in groups:
            torch.index_select(rows, 0, group.index(rows.device), out=slab[pair, group.span])


def scatter(slab: torch.Tensor, groups: Sequence[Group], whole: Pair) -> None:
    """Groups of a slab, into their places among the image tokens' keys and values."""
    for pair, rows in enumerate(whole):
        for group in groups:
            rows.index_copy_(0, group.index(rows.device), slab[pair, group.span])


def size_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
