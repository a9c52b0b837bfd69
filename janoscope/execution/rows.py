"""Which rows of a sequence a network call computes, and the tables cut to them."""

from functools import cached_property
from typing import Any

import numpy as np
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
        self._keys: dict[tuple[int, int | None, torch.device], torch.Tensor] = {}
        self._parts: dict[tuple[int, int | None], tuple[torch.Tensor, torch.Tensor]] = {}
        self._cut_of: dict[int, tuple[Any, Any]] = {}
        self._table_of: dict[int, tuple[Any, Any]] = {}

    @property
    def count(self) -> int:
        return self._computed.numel()

    @property
    def on_host(self) -> np.ndarray:
        """The computed tokens, int64 (token,)."""
        return self._computed.numpy()

    @cached_property
    def skipped(self) -> "Rows":
        """The tokens that are not computed, in order."""
        kept = np.ones(self.image_tokens, dtype=bool)
        kept[self.on_host] = False
        return Rows(self.image_tokens, torch.from_numpy(np.flatnonzero(kept)), self.facts)

    def image(self, device: torch.device) -> torch.Tensor:
        """Indices among the image tokens, shape (computed,)."""
        if device not in self._on_device:
            self._on_device[device] = self._computed.to(device)
        return self._on_device[device]

    def joint(self, text_tokens: int, where: str, device: torch.device, kept: int | None = None) -> torch.Tensor:
        """Indices of the text and the computed image tokens in a joint sequence; where: text is `first`, `last` or `none`.

        kept: only so many of the text tokens.
        """
        key = (text_tokens if where == "first" else -text_tokens, kept, device)
        if key not in self._keys:
            image = self.image(device)
            text = torch.arange(text_tokens if kept is None else kept, device=device)
            if text_tokens == 0 or where == "none":
                self._keys[key] = image
            elif where == "first":
                self._keys[key] = torch.cat([text, image + text_tokens])
            else:
                self._keys[key] = torch.cat([image, text + self.image_tokens])
        return self._keys[key]

    def cut_rotary(self, table: Any) -> Any:
        """The rotary table of the computed tokens (and of the text, where the table has it)."""
        # keyed by identity; the table is kept beside its cut, so that its id cannot be taken by another within the step
        known = self._cut_of.get(id(table))
        if known is None:
            known = self._cut_of[id(table)] = (table, self._cut_table(table, None))
            self._table_of[id(known[1])] = (known[1], table)
        return known[1]

    @property
    def has_tables(self) -> bool:
        """Whether a table has been cut within the step."""
        return bool(self._table_of)

    def is_cut(self, value: Any) -> bool:
        """Whether this is a table that `cut_rotary` made within the step."""
        return id(value) in self._table_of

    def cut_for_skipped(self, cut: Any, text_rows: int) -> Any:
        """The table that was cut, cut to the skipped tokens and the first rows of the text."""
        return self.skipped._cut_table(self._table_of[id(cut)][1], text_rows)

    def _cut_table(self, table: Any, text_rows: int | None) -> Any:
        where = self.facts.rotary_text
        if not isinstance(table, tuple):
            return self._cut(table, where, text_rows)
        if where == "separate":
            image, text, *more = table
            text = text if text_rows is None else text.narrow(self.facts.rotary_dim, 0, text_rows)
            return (self._cut(image, "none", text_rows), text, *more)
        return tuple(self._cut(part, where, text_rows) for part in table)

    def _cut(self, table: torch.Tensor, text: str, text_rows: int | None = None) -> torch.Tensor:
        key = id(table), text_rows
        kept = self._parts.get(key)
        if kept is None:
            axis = self.facts.rotary_dim
            text_tokens = table.shape[axis] - self.image_tokens if text != "none" else 0
            rows = self.joint(text_tokens, text, table.device, text_rows)
            kept = self._parts[key] = (table, table.index_select(axis, rows))
        return kept[1]

    def forget_tables(self) -> None:
        for tables in (self._parts, self._cut_of, self._table_of):
            tables.clear()
        if "skipped" in vars(self):
            self.skipped.forget_tables()
