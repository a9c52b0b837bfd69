"""Memory for the copies of maps, used again and again."""

import threading

import numpy as np

IDLE_BYTES = 32 << 20


class BufferPool:
    """Arrays whose step is on file wait here for the next copy of their size.

    The system clears every page that it hands out anew, and takes it back when an array of this size is freed: that was ten times
    the cost of the copy itself. At most `limit` bytes are held idle. Safe for two threads.
    """

    def __init__(self, limit: int = IDLE_BYTES) -> None:
        self._limit = limit
        self._idle: dict[tuple[tuple[int, ...], str], list[np.ndarray]] = {}
        self._idle_bytes = 0
        self._lock = threading.Lock()

    def copy_of(self, array: np.ndarray) -> np.ndarray:
        """A contiguous copy in native byte order."""
        dtype = array.dtype.newbyteorder("=")
        with self._lock:
            kept = self._idle.get((array.shape, dtype.str))
            buffer = kept.pop() if kept else None
            self._idle_bytes -= buffer.nbytes if buffer is not None else 0
        if buffer is None:
            buffer = np.empty(array.shape, dtype)
        np.copyto(buffer, array)
        return buffer

    def give_back(self, buffer: np.ndarray) -> None:
        """Nobody may look at `buffer` any more."""
        with self._lock:
            if self._idle_bytes + buffer.nbytes <= self._limit:
                self._idle.setdefault((buffer.shape, buffer.dtype.str), []).append(buffer)
                self._idle_bytes += buffer.nbytes
