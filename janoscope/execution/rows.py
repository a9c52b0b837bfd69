"""Which rows of a sequence a network call computes, and the tables cut to them."""

from typing import Any

import torch

from ..probe import Execution


class Rows:
    """The computed image tokens of one step, as int64 indices on the device where they are used.

    Index tensors and cut rotary tables are made once a step and reused by every block and branch.
    """

    def __init__(self, image_tokens: int, computed: torch.Tensor, facts: Execution):
        self.image_tokens, self.facts = image_tokens, facts
        self._computed = computed
        self._on_device: dict[torch.device, torch.Tensor] = {}
        self._keys: dict[tuple[int, torch.device], torch.Tensor] = {}
        self._tables: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def count(self) -> int:
        return self._computed.numel()

    def image(self, device: torch.device) -> torch.Tensor:
        """Indices among the image tokens, shape (computed,)."""
        if device not in self._on_device:
            self._on_device[device] = self._computed.to(device)
        return self._on_device[device]

    def joint(self, text_tokens: int, where: str, device: torch.device) -> torch.Tensor:
        """Indices of the text and the computed image tokens in a joint sequence; where: text is `first`, `last` or `none`."""
        key = (text_tokens if where == "first" else -text_tokens, device)
        if key not in self._keys:
            image = self.image(device)
            text = torch.arange(text_tokens, device=device)
            if text_tokens == 0 or where == "none":
                self._keys[key] = image
            elif where == "first":
                self._keys[key] = torch.cat([text, image + text_tokens])
            else:
                self._keys[key] = torch.cat([image, text + self.image_tokens])
        return self._keys[key]

    def cut_rotary(self, table: Any) -> Any:
        """The rotary table of the computed tokens (and of the text, where the table has it)."""
        if isinstance(table, tuple):
            if self.facts.rotary_text == "separate":
                return (self._cut(table[0], "none"), *table[1:])
            return tuple(self._cut(part, self.facts.rotary_text) for part in table)
        return self._cut(table, self.facts.rotary_text)

    def _cut(self, table: torch.Tensor, text: str) -> torch.Tensor:
        # keyed by identity; the table is kept beside its cut, so that its id cannot be taken by another within the step
        kept = self._tables.get(id(table))
        if kept is None:
            axis = self.facts.rotary_dim
            text_tokens = table.shape[axis] - self.image_tokens if text != "none" else 0
            rows = self.joint(text_tokens, text, table.device)
            kept = self._tables[id(table)] = (table, table.index_select(axis, rows))
        return kept[1]

    def forget_tables(self) -> None:
        self._tables.clear()
