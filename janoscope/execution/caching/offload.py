"""`offload`: keys and values of skipped tokens in host memory, fetched some layers ahead of where they are read.

Host memory holds only tokens that some partial step of the plan skips, in groups that a step skips whole or not at all (static,
then moderate ones), so a moderate step fetches the static tokens and stores the moderate ones. Nothing is allocated after
the first refresh: a layer's slab stays, and all layers and branches share the slots of copies under way and the buffer in which
one layer is complete. Between slot and slab a lane of its own copies; marks keep the order:

    store:  copy has left the slot -> computation fills it -> copy to the slab -> (the slab may be fetched)
    fetch:  slab stored, slot read -> copy to the slot -> computation reads it -> (the slot may be fetched to)
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...errors import ExecutionError
from ...plan import OFFLOAD_STORES, Cache, CacheBytes, resident_layers
from ..rows import Rows
from .offload_slots import Group, Pair, Slot, gather, rows_first, scatter, size_of
from .stores import Attended, KeysValues
from .streams import HostMemory, Lanes, lanes_of


class Offload:
    """The keeper of a run: budget, buffers and lanes that all branches share.

    groups: gives the tokens that partial steps skip, see `skipped_groups`; asked at the first refresh. lanes: for a device.
    """

    def __init__(
        self, cache: Cache, groups: Callable[[], Sequence[np.ndarray]], lanes: Callable[[torch.device], Lanes] = lanes_of
    ):
        self.window = cache.window
        self._cache, self._ask, self._lanes_of = cache, groups, lanes
        self._groups: list[Group] | None = None
        self._branches: list[OffloadBranch] = []
        self._host = HostMemory()
        self._lanes: Lanes | None = None
        self._whole = torch.empty(0)
        self._fetching: deque[Slot] = deque()
        self._leaving: deque[Slot] = deque()

    @property
    def bytes(self) -> CacheBytes:
        slots = sum(size_of(slot.tensor) for slot in (*self._fetching, *self._leaving))
        in_flight = sum(size_of(slot.tensor) for branch in self._branches for slot in branch.slots)
        return CacheBytes(size_of(self._whole) + slots + in_flight)

    @property
    def lanes(self) -> Lanes:
        assert self._lanes is not None, "nothing has been stored"
        return self._lanes

    @property
    def groups(self) -> list[Group]:
        if self._groups is None:
            asked = self._ask()
            stops = np.cumsum([len(tokens) for tokens in asked]).tolist()
            spans = [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
            self._groups = [Group(tokens, span) for tokens, span in zip(asked, spans, strict=True)]
        return self._groups

    @property
    def held(self) -> int:
        """Tokens of a slab."""
        return self.groups[-1].span.stop if self.groups else 0

    def branch(self, layers: int) -> "OffloadBranch":
        made = OffloadBranch(self, layers)
        self._branches.append(made)
        return made

    def forget(self, branch: "OffloadBranch") -> None:
        """A branch that will not be called again."""
        self._branches.remove(branch)

    def close(self) -> None:
        while self._branches:
            self._branches[-1].close()
        self._fetching.clear()
        self._leaving.clear()
        self._whole = torch.empty(0)

    # --- memory ---

    def share_out(self, attended: Attended) -> None:
        """Settle how many layers of each branch that is not settled yet stay on the device."""
        self._lanes = self._lanes or self._lanes_of(attended.key.device)
        new = [branch for branch in self._branches if branch.resident is None]
        items, heads, rows, channels = attended.key.shape
        row = 2 * items * heads * channels * attended.key.element_size()
        spent = sum(branch.bytes.device for branch in self._branches)
        budget = int(self._cache.device_mib * 2**20) - spent
        for branch in new:
            sizes = {"layer": self.held * row, "whole": rows * row}
            branch.resident = resident_layers(budget, self.window, branch.layers, len(new), **sizes)

    def slab(self, attended: Attended, resident: bool) -> torch.Tensor:
        """Unfilled memory for one layer, (keys and values, token, item, head, channel), and the buffers that it needs."""
        self.whole(attended)
        shape = self.slab_shape(attended)
        if resident:
            return attended.key.new_empty(shape)
        self._make_slots(attended, shape)
        return self._host.take(shape, attended.key.dtype, attended.key.device)

    def give_back(self, slab: torch.Tensor) -> None:
        if self._lanes is not None:
            self._lanes.drain()
        self._host.free(slab)

    def _make_slots(self, attended: Attended, shape: tuple[int, ...]) -> None:
        if not self._leaving or self._leaving[0].tensor.shape != shape:
            self.lanes.drain()
            for slots, count in ((self._fetching, self.window), (self._leaving, OFFLOAD_STORES)):
                slots.clear()
                slots.extend(Slot(attended.key.new_empty(shape), self.lanes.compute.mark()) for _ in range(count))

    def slab_shape(self, attended: Attended) -> tuple[int, ...]:
        """Keys and values, token, item, head, channel."""
        items, heads, _, channels = attended.key.shape
        return 2, self.held, items, heads, channels

    def whole(self, attended: Attended) -> torch.Tensor:
        """The buffer for one layer's keys and values, (2, token, item, head, channel)."""
        items, heads, _, channels = attended.key.shape
        shape = 2, attended.image_tokens + attended.text_tokens, items, heads, channels
        count = math.prod(shape)
        if self._whole.numel() < count or self._whole.dtype != attended.key.dtype:
            self._whole = attended.key.new_empty(count)
        return self._whole[:count].view(shape)

    # --- copies ---

    def fetch(self, layer: "OffloadedLayer", groups: Sequence[Group]) -> "Slot":
        """Begin to copy groups of a slab into a slot."""
        slot = self._fetching.popleft()
        lane = self.lanes.fetch
        lane.wait(slot.mark)
        lane.wait(layer.stored)
        for pair in range(2):
            for group in groups:
                to, what = slot.tensor[pair, group.span], layer.slab[pair, group.span]
                lane.submit(lambda to=to, what=what: to.copy_(what, non_blocking=True))  # type: ignore[misc]
        slot.mark = lane.mark()
        return slot

    def release(self, slot: Slot) -> None:
        """The computation has read a slot."""
        slot.mark = self.lanes.compute.mark()
        self._fetching.append(slot)

    def store(self, layer: "OffloadedLayer", source: Pair, groups: Sequence[Group]) -> None:
        """Copy groups of the image tokens' keys and values to a layer's slab."""
        if layer.resident:
            gather(source, groups, layer.slab)
            return
        slot = self._leaving.popleft()
        compute, lane = self.lanes.compute, self.lanes.store
        compute.wait(slot.mark)
        gather(source, groups, slot.tensor)
        lane.wait(compute.mark())
        for pair in range(2):
            for group in groups:
                to, what = layer.slab[pair, group.span], slot.tensor[pair, group.span]
                lane.submit(lambda to=to, what=what: to.copy_(what, non_blocking=True))  # type: ignore[misc]
        slot.mark = layer.stored = lane.mark()
        self._leaving.append(slot)


class OffloadBranch:
    """One branch's layers, in the order of their first refresh. resident: how many stay on the device, None until known."""

    def __init__(self, offload: Offload, layers: int):
        self.offload, self.layers = offload, layers
        self.resident: int | None = None
        self.touched: list[Group] = []
        self._layers: dict[str, OffloadedLayer] = {}
        self._wanted: list[Group] = []
        self._coming: deque[tuple[OffloadedLayer, Slot]] = deque()
        self._next: deque[OffloadedLayer] = deque()

    @property
    def bytes(self) -> CacheBytes:
        total = CacheBytes()
        for layer in self._layers.values():
            size = size_of(layer.slab)
            total = total.plus(CacheBytes(size, 0) if layer.resident else CacheBytes(0, size))
        return total

    @property
    def slots(self) -> list[Slot]:
        """Those that hold what is coming."""
        return [slot for _, slot in self._coming]

    def layer(self, name: str, call: int = 0) -> "OffloadedLayer":
        if call:  # budget and window count one call a module, all of one shape
            raise ExecutionError(
                f"{name} calls attention more than once, which cache strategy offload cannot keep; take cache strategy kv."
            )
        if name not in self._layers:
            self._layers[name] = OffloadedLayer(self)
        return self._layers[name]

    def close(self) -> None:
        """Give all memory back."""
        self.begin_nothing()
        for layer in self._layers.values():
            self.offload.give_back(layer.slab)
        self._layers.clear()
        self.offload.forget(self)

    def stays(self, layer: "OffloadedLayer") -> bool:
        """Whether a new layer stays on the device: those that do are spread evenly, so that others are fetched meanwhile."""
        assert self.resident is not None
        place = list(self._layers.values()).index(layer)
        return (place + 1) * self.resident // self.layers > place * self.resident // self.layers

    def begin(self, rows: Rows) -> None:
        """A partial call: whatever was coming for another is let go, and the window opens on the first layers."""
        self.begin_nothing()
        computed = np.zeros(rows.image_tokens, dtype=bool)
        computed[rows.on_host] = True
        groups = self.offload.groups
        self._wanted = [group for group in groups if not computed[group.tokens].all()]
        self.touched = [group for group in groups if computed[group.tokens].any()]
        self._next.extend(layer for layer in self._layers.values() if not layer.resident)
        for _ in range(self.offload.window):
            self._fetch_next()

    def begin_nothing(self) -> None:
        while self._coming:
            self.offload.release(self._coming.popleft()[1])
        self._next.clear()

    def _fetch_next(self) -> None:
        if self._wanted and self._next:
            layer = self._next.popleft()
            self._coming.append((layer, self.offload.fetch(layer, self._wanted)))

    def read(self, layer: "OffloadedLayer", whole: Pair) -> None:
        """Put a layer's skipped tokens in their places among the image tokens of `whole`."""
        if not self._wanted:
            return
        if layer.resident:
            scatter(layer.slab, self._wanted, whole)
            return
        if not self._coming or self._coming[0][0] is not layer:
            # not the order of the refresh: begin again from here
            order = [other for other in self._layers.values() if not other.resident]
            self.begin_nothing()
            self._next.extend(order[order.index(layer) :])
            self._fetch_next()
        _, slot = self._coming.popleft()
        self.offload.lanes.compute.wait(slot.mark)
        scatter(slot.tensor, self._wanted, whole)
        self.offload.release(slot)
        self._fetch_next()


class OffloadedLayer:
    """The store of one attention. stored: the mark after which its slab may be read."""

    bytes = CacheBytes()  # the branch counts

    def __init__(self, branch: OffloadBranch):
        self._branch = branch
        self.slab = torch.empty(0)
        self.resident = False
        self.stored: Any = None

    def refresh(self, attended: Attended) -> None:
        branch, offload = self._branch, self._branch.offload
        if branch.resident is None:
            offload.share_out(attended)
        if self.slab.shape != offload.slab_shape(attended) or self.slab.dtype != attended.key.dtype:
            self.resident = branch.stays(self)
            offload.give_back(self.slab)
            self.slab = offload.slab(attended, self.resident)
        offload.store(self, [rows_first(attended.image(given)) for given in (attended.key, attended.value)], offload.groups)

    def update(self, attended: Attended) -> KeysValues:
        whole = self._branch.offload.whole(attended)
        image = [part.narrow(0, attended.image_start, attended.image_tokens) for part in whole]
        self._branch.read(self, image)
        for part, given in zip(whole, (attended.key, attended.value), strict=True):
            part.index_copy_(0, attended.index(), rows_first(given))
        if self._branch.touched:
            self._branch.offload.store(self, image, self._branch.touched)
        keys, values = (part.permute(1, 2, 0, 3) for part in whole)
        return keys, values
