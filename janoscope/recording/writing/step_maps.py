"""The step being put together: what may be put, in which shape, and when a step is whole."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ...errors import InputError
from ...grid import TokenGrid
from .. import layout
from ..encoding import as_source, check_dtype_name
from ..layout import BRANCHED, GUIDED, SignalSpec, TapAxes

Place = tuple[str, int, int]  # signal, item, branch index


class StepMaps:
    """Maps of the current step by place, and the signals that the first step fixed."""

    def __init__(
        self, grid: TokenGrid, branches: Sequence[str], items: int, taps: Mapping[str, TapAxes], store_dtype: str | None
    ) -> None:
        self.grid, self.branches, self.items, self.taps = grid, tuple(branches), items, dict(taps)
        self.store_dtype = None if store_dtype is None else check_dtype_name(store_dtype)
        self.step = 0
        self.signals: dict[str, SignalSpec] = {}
        self.maps: dict[Place, np.ndarray] = {}
        self._check()

    def accept(self, signal: str, values: ArrayLike, item: int, branch: str, dtype: str | None) -> tuple[Place, np.ndarray]:
        """Check one map; its place and its values as (token, channel), not yet copied."""
        layout.check_signal_name(signal)
        place = self._place(signal, item, branch)
        if place in self.maps:
            raise InputError(f"{signal} of item {item}, branch {branch} was put twice in step {self.step}; commit between steps.")
        array, source = as_source(values, dtype, signal)
        array = self._as_map(signal, array)
        self._note(signal, (array.shape[0], array.shape[1]), source)
        return place, array

    def check_whole(self, absent: set[str]) -> None:
        """Raise InputError naming every missing item and branch of model_output and sample."""
        optional = [branch for branch in self.branches if branch != GUIDED]
        if wrong := absent - set(optional):
            raise InputError(f"absent names {', '.join(sorted(wrong))}; legal: {', '.join(optional) or 'none'}.")
        missing = []
        for name in layout.REQUIRED_SIGNALS:
            for item in range(self.items):
                for branch in self.branches if BRANCHED[name] else (GUIDED,):
                    if branch not in absent and self._place(name, item, branch) not in self.maps:
                        missing.append(f"{name} of item {item}" + (f", branch {branch}" if BRANCHED[name] else ""))
        if missing:
            raise InputError(f"step {self.step} is not whole: missing {'; '.join(missing)}. Put them, or name absent branches.")

    def next_step(self) -> dict[Place, np.ndarray]:
        """Hand out the maps and begin the next step."""
        maps, self.maps = self.maps, {}
        self.step += 1
        return maps

    def all_signals(self) -> tuple[SignalSpec, ...]:
        """What the file will hold: the signals of the first step, and taps that were declared and are still to come."""
        output = self.signals["model_output"].source
        for name, axes in self.taps.items():
            self.signals.setdefault(name, self._spec(name, (axes.tokens, axes.channels), axes.dtype or output))
        return tuple(self.signals.values())

    def _check(self) -> None:
        if GUIDED not in self.branches or len(set(self.branches)) != len(self.branches):
            raise InputError(f"branches {self.branches} must be distinct and hold 'guided'; without guidance pass ('guided',).")
        if not all(branch and branch.isascii() for branch in self.branches):
            raise InputError(f"branches {self.branches} must be plain ASCII names.")
        layout.check_map_bytes("model_output", (self.grid.count, self.grid.token_channels), 8)
        for name, axes in self.taps.items():
            layout.check_signal_name(name)
            if name in layout.CORE_SIGNALS or min(axes.tokens, axes.channels) < 1:
                raise InputError(f"tap {name!r} of {axes} cannot be declared; name an inner module and sizes of at least 1.")
            layout.check_map_bytes(name, (axes.tokens, axes.channels), 8)

    def _place(self, signal: str, item: int, branch: str) -> Place:
        if not 0 <= item < self.items:
            raise InputError(f"{signal} was put for item {item}; this recording has items 0 to {self.items - 1}.")
        if branch not in self.branches:
            raise InputError(f"{signal} was put for branch {branch!r}; legal: {', '.join(self.branches)}.")
        if BRANCHED.get(signal, True):
            return signal, item, self.branches.index(branch)
        if branch != GUIDED:
            raise InputError(f"{signal} has no branch axis; leave branch out.")
        return signal, item, 0

    def _as_map(self, signal: str, array: np.ndarray) -> np.ndarray:
        grid = self.grid
        if signal not in layout.CORE_SIGNALS:
            if array.ndim != 2 or not array.size:
                raise InputError(f"{signal} has shape {array.shape}; a tap's map is (token, channel).")
            layout.check_map_bytes(signal, array.shape, array.itemsize)
            return array
        if array.shape == (grid.channels, *grid.cells[1:]) and grid.cells[0] == 1:
            array = array[:, None]  # (channel, frame, row, col)
        if array.shape == (grid.channels, *grid.cells):
            return grid.pack(array)
        if array.shape != (grid.count, grid.token_channels):
            raise InputError(
                f"{signal} has shape {array.shape}; expected (token, channel) = {(grid.count, grid.token_channels)} "
                f"or (channel, frame, row, col) = {(grid.channels, *grid.cells)}."
            )
        return array

    def _spec(self, signal: str, shape: tuple[int, int], source: str) -> SignalSpec:
        return SignalSpec(signal, *shape, source, self.store_dtype or source)

    def _note(self, signal: str, shape: tuple[int, int], source: str) -> None:
        """Remember a new signal; refuse later maps that differ from its first."""
        first, declared = self.signals.get(signal), self.taps.get(signal)
        if declared is not None and shape != (declared.tokens, declared.channels):
            raise InputError(f"{signal} has shape {shape}; it was declared {(declared.tokens, declared.channels)}.")
        if first is None and self.step:
            raise InputError(f"{signal} first came in step {self.step}; put it in step 0 too, or declare it in taps.")
        if first is None:
            self.signals[signal] = self._spec(signal, shape, source)
        elif (first.tokens, first.channels) != shape or first.source != source:
            raise InputError(
                f"{signal} is {source} {shape} and was {first.source} {(first.tokens, first.channels)} before; "
                "all steps, items and branches must agree. Cast it first."
            )
