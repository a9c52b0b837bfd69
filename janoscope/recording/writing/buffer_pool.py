"""Memory for the copies of maps, used again and again."""

import threading

import numpy as np

IDLE_BYTES = 32 << 20
AHEAD_BYTES = 24 << 20  # lent out before a caller waits for one to come back
FRESH_S = 0.001  # what the pages of a new buffer cost at Wan size (4 MiB): as long may the wait for a used one take


class BufferPool:
    """Arrays that are on file wait here for the next copy of their size.

    The system clears every page that it hands out anew, and takes it back when an array of this size is freed: that was ten times
    the cost of the copy itself. So a caller far ahead of the writer waits a moment for a used buffer. At most `limit` bytes are
    idle. Safe for two threads.
    """

    def __init__(self, limit: int = IDLE_BYTES, ahead: int = AHEAD_BYTES) -> None:
        self._limit, self._ahead = limit, ahead
        self._idle: dict[tuple[tuple[int, ...], str], list[np.ndarray]] = {}
        self._idle_bytes = self._lent_bytes = 0
        self._returned = threading.Condition()

    def copy_of(self, array: np.ndarray) -> np.ndarray:
        """A contiguous copy in native byte order."""
        dtype = array.dtype.newbyteorder("=")
        with self._returned:
            idle = self._idle.setdefault((array.shape, dtype.str), [])
            if self._lent_bytes > self._ahead:
                self._returned.wait_for(lambda: bool(idle), FRESH_S)
            buffer = idle.pop() if idle else None
            self._idle_bytes -= buffer.nbytes if buffer is not None else 0
            self._lent_bytes += array.nbytes
        if buffer is None:
            buffer = np.empty(array.shape, dtype)
        np.copyto(buffer, array)
        return buffer

    def give_back(self, buffer: np.ndarray) -> None:
        """Nobody may look at `buffer` any more."""
        with self._returned:
            self._lent_bytes -= buffer.nbytes
            if self._idle_bytes + buffer.nbytes <= self._limit:
                self._idle.setdefault((buffer.shape, buffer.dtype.str), []).append(buffer)
                self._idle_bytes += buffer.nbytes
                self._returned.notify()
