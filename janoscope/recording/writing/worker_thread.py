"""A thread that counts and sums what another writes: checksums cost as much time as the writing itself."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

Result = TypeVar("Result")


class WorkerThread(Generic[Result]):
    """Runs calls in the order they were handed over, while NumPy and zlib let go of the interpreter.

    No pool of `concurrent.futures`: those take no work once the interpreter exits, when an unclosed recorder is to be closed.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Result], Callable[[], Result]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, call: Callable[[], Result]) -> "Future[Result]":
        """Hand over a call; what it raises comes out of the future's `result`."""
        future: Future[Result] = Future()
        self._calls.put((future, call))
        return future

    def stop(self) -> None:
        """Let the thread end after what it was handed."""
        self._calls.put(None)

    def _run(self) -> None:
        while (entry := self._calls.get()) is not None:
            future, call = entry
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)
            del entry, future, call  # while it waits, this thread keeps no map alive
