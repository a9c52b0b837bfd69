"""From a strategy's name to the stores that keep by it."""

from collections.abc import Callable, Sequence

import numpy as np

from ...plan import Cache, CacheBytes
from ..rows import Rows
from .offload import Offload
from .quantized import FP8, INT8, EightBitStore
from .stores import BranchStores, InputStore, Keeper, KeyValueStore, Store


def keeper_of(cache: Cache, skipped_groups: Callable[[], Sequence[np.ndarray]]) -> Keeper:
    """What makes a run's stores. skipped_groups: asked at the first refresh, see `Offload`."""
    if cache.strategy == "offload":
        return Offload(cache, skipped_groups)
    if cache.strategy == "hidden":
        return OnDevice(InputStore, shared=True)
    if cache.strategy == "kv-fp8":
        return OnDevice(lambda: EightBitStore(FP8))
    if cache.strategy == "kv-int8":
        return OnDevice(lambda: EightBitStore(INT8))
    return OnDevice(lambda: KeyValueStore(cache.forecast))


class _Layers:
    """Stores that know nothing of one another."""

    def __init__(self, make: Callable[[], Store], shared: bool):
        self._make, self._shared = make, shared
        self._stores: dict[tuple[str, int], Store] = {}

    @property
    def bytes(self) -> CacheBytes:
        total = CacheBytes()
        for store in self._stores.values():
            total = total.plus(store.bytes)
        return total

    def layer(self, name: str, call: int = 0) -> Store:
        key = name, 0 if self._shared else call
        if key not in self._stores:
            self._stores[key] = self._make()
        return self._stores[key]

    def begin(self, rows: Rows) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        self._stores.clear()


class OnDevice:
    """A keeper whose stores hold all of theirs on the device. shared: one for all attention calls of a module."""

    bytes = CacheBytes()

    def __init__(self, make: Callable[[], Store], shared: bool = False):
        self._make, self._shared = make, shared

    def branch(self, layers: int) -> BranchStores:
        return _Layers(self._make, self._shared)

    def close(self) -> None:
        """Nothing is shared."""
