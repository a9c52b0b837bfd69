"""A queue bounded by bytes: the generation waits for the disk rather than filling memory."""

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ByteQueue(Generic[Item]):
    """Memory is reserved when an array is copied, travels with its step, and is released once the step is on file.

    The step being put together is always admitted when nothing else is in flight, so memory stays below
    max(limit, one step), whatever the size of a step. Safe for one producer and one consumer thread.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.peak = 0
        self._reserved = 0
        self._in_flight = 0
        self._items: deque[tuple[Item, int]] = deque()
        self._changed = threading.Condition()

    def reserve(self, size: int) -> None:
        """Wait until `size` more bytes fit; they belong to the step that is being put together."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight or self._reserved + self._in_flight + size <= self.limit)
            self._reserved += size
            self.peak = max(self.peak, self._reserved + self._in_flight)

    def forget_reserved(self) -> None:
        """Give back what was reserved for a step that will not be sent."""
        with self._changed:
            self._reserved = 0

    def send(self, item: Item, *, with_reserved: bool = False) -> None:
        """Hand `item` to the consumer; `with_reserved` sends all reserved bytes along."""
        with self._changed:
            size = self._reserved if with_reserved else 0
            self._reserved -= size
            self._in_flight += size
            self._items.append((item, size))
            self._changed.notify_all()

    def take(self) -> tuple[Item, int]:
        """The next item and its bytes; waits for one. Call `release` with the bytes when done."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items))
            return self._items.popleft()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be taken."""
        return not self._items

    def release(self, size: int) -> None:
        with self._changed:
            self._in_flight -= size
            self._changed.notify_all()
