"""A batched guidance call cut in two: one branch's rows of every argument, and the two halves of the output joined again."""

from collections.abc import Mapping

import torch

from ..errors import ExecutionError, InputError
from ..probe import Probe


class BatchCut:
    """Cuts the arguments of calls whose batch holds both branches, one after the other. half: 0 or 1, which of them is kept."""

    def __init__(self, sheet: Probe, half: int):
        self._probe, self._half = sheet, half
        self._lists = sheet.tokens.layout == "list"  # a Python list with a tensor for every item and branch

    def cut(self, arguments: Mapping[str, object]) -> dict[str, object]:
        """The same arguments with this half's rows; what has no batch axis is left alone.

        Raises:
            InputError: an odd batch, which does not hold two branches.
            ExecutionError: an argument whose batch axis is not where it should be.
        """
        sample = arguments[self._probe.tap.input]
        assert isinstance(sample, torch.Tensor | list)
        batch = len(sample)
        if batch % 2:
            raise InputError(
                f"the network was called with a batch of {batch}, which is no pair of guidance branches (guidance is off?); "
                "leave --guidance-parallel out."
            )
        return {name: self._own(name, value, batch) for name, value in arguments.items()}

    def _own(self, name: str, value: object, batch: int) -> object:
        if isinstance(value, torch.Tensor):
            return self._rows(name, value, batch)
        if isinstance(value, list) and self._lists and len(value) == batch:
            return value[self._slice(batch)]
        if isinstance(value, dict):
            return {key: self._own(f"{name}[{key!r}]", inner, batch) for key, inner in value.items()}
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            own = [self._own(f"{name}[{at}]", inner, batch) for at, inner in enumerate(value)]
            return own if isinstance(value, list) else tuple(own)
        return value

    def _rows(self, name: str, value: torch.Tensor, batch: int) -> torch.Tensor:
        axis = 1 if name in self._probe.guidance.layers_first else 0
        if value.ndim > axis and value.shape[axis] == batch:
            return value[(slice(None),) * axis + (self._slice(batch),)]
        rotary = self._probe.execution.rotary if self._probe.execution else ()  # one table for all items
        if batch in value.shape and name.split("[")[0] not in rotary:
            raise ExecutionError(
                f"{name} has shape {tuple(value.shape)} in a call with a batch of {batch}: which axis holds the guidance "
                "branches is unclear. Leave --guidance-parallel out, or name it in the probe ([guidance] layers_first)."
            )
        return value

    def _slice(self, batch: int) -> slice:
        return slice(self._half * batch // 2, (self._half + 1) * batch // 2)

    def join(self, own: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        """Both halves in the order of the call."""
        return torch.cat((own, theirs) if self._half == 0 else (theirs, own))
