"""The one thread that touches h5py while recording: takes whole steps off the queue and appends them.

A second thread sums and counts the maps meanwhile.
"""

import contextlib
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from ...errors import RecordingError
from ..encoding import MapSummary, cast, summarize
from ..layout import COMPLETE, SignalSpec, partial_path
from .buffer_pool import BufferPool
from .byte_queue import ByteQueue
from .destination import Claim
from .empty_file import Header
from .recording_file import RecordingFile, StepRow
from .worker_thread import WorkerThread


@dataclass(frozen=True)
class Chunk:
    """One map as it came from the source."""

    spec: SignalSpec
    item: int
    branch: int
    values: np.ndarray


@dataclass(frozen=True)
class Step:
    """One whole step."""

    row: StepRow
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class ProvenanceUpdate:
    """New text of one provenance section."""

    section: str
    text: str


@dataclass(frozen=True)
class Finish:
    """The last message: how the recording ended."""

    end_reason: str


@dataclass(frozen=True)
class DrainRequest:
    """`event` is set when everything sent before it is done."""

    event: threading.Event


Message = Step | ProvenanceUpdate | Finish | DrainRequest
Argument = TypeVar("Argument")
# A caller who has just committed is in the sampler's Python code, which h5py's calls would keep waiting: they go once the network
# computes. Half a millisecond a step at Flux size. Not where steps are waiting.
CALLER_FIRST_S = 0.002
SUMMARIES_BEHIND = 1  # map whose checksum may be outstanding while the next is written


class WriterThread:
    """Counts and failure may be read from any thread; everything else happens on this one."""

    def __init__(self, claim: Claim, queue_bytes: int, force: bool) -> None:
        self.path, self.force = claim.path, force
        self._claim = claim
        self.queue: ByteQueue[Message] = ByteQueue(queue_bytes)
        self.buffers = BufferPool()
        self.steps_done = 0
        self.bytes_written = 0
        self.failure: str | None = None
        self.nonfinite: Counter[str] = Counter()
        self.nonfinite_created: Counter[str] = Counter()
        self.storage_loss: dict[str, float] = {}
        self._file: RecordingFile | None = None
        self._thread: threading.Thread | None = None
        self._summaries: WorkerThread[MapSummary] = WorkerThread("janoscope-checksums")

    def start(self, header: Header) -> None:
        # daemon: an interpreter that exits must not wait for a recorder nobody closed; the recorder's exit hook closes it
        self._thread = threading.Thread(target=self._run, args=(header,), name="janoscope-writer", daemon=True)
        self._summaries.start()
        self._thread.start()

    def drain(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            done = threading.Event()
            self.queue.send(DrainRequest(done))
            done.wait()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _run(self, header: Header) -> None:
        # A file size limit raises SIGXFSZ, fatal by default. Python ignores it, but a host program may not; blocked here,
        # the write fails with EFBIG like any other error.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGXFSZ})
        time.sleep(CALLER_FIRST_S)
        self._attempt(self._create, header)
        finished = False
        while not finished:
            message, size = self.queue.take()
            finished = isinstance(message, Finish)
            self._handle(message)
            del message  # its arrays must be gone before their bytes are released
            self.queue.release(size)
        self._summaries.stop()

    def _handle(self, message: Message) -> None:
        match message:
            case DrainRequest(event):
                event.set()
            case Step():
                if self.queue.is_empty:
                    time.sleep(CALLER_FIRST_S)
                self._attempt(self._append, message)
            case ProvenanceUpdate():
                self._attempt(self._set_provenance, message)
            case Finish(end_reason):
                self._attempt(self._finish, end_reason)

    def _attempt(self, action: Callable[[Argument], None], argument: Argument) -> None:
        """Nothing that goes wrong here may reach the generation; after a failure everything is discarded."""
        if self.failure is not None:
            return
        try:
            action(argument)
        except Exception as error:
            self.failure = error_line(error)
            self._give_up(self.failure)

    def _create(self, header: Header) -> None:
        self._file = RecordingFile.create(self._claim, header)
        self._claim.release()

    def _append(self, step: Step) -> None:
        file = self._on_file()
        file.begin_step(step.row)
        behind: deque[tuple[Chunk, Future[MapSummary]]] = deque()
        for chunk in step.chunks:
            spec, data = chunk.spec, cast(chunk.values, chunk.spec.source, chunk.spec.stored)
            behind.append((chunk, self._summaries.submit(partial(summarize, chunk.values, spec.source, data, spec.stored))))
            file.write_map(spec, chunk.item, chunk.branch, data)
            self.bytes_written += data.nbytes
            if len(behind) > SUMMARIES_BEHIND:
                self._note(file, *behind.popleft())
        for chunk, pending in behind:
            self._note(file, chunk, pending)
        file.end_step()
        self.steps_done = file.steps_done

    def _note(self, file: RecordingFile, chunk: Chunk, pending: Future[MapSummary]) -> None:
        name, summary = chunk.spec.name, pending.result()
        self.buffers.give_back(chunk.values)  # written and summed
        file.note_map(chunk.spec, chunk.item, chunk.branch, summary)
        self.nonfinite[name] += summary.nonfinite
        self.nonfinite_created[name] += summary.nonfinite_created
        self.storage_loss[name] = max(self.storage_loss.get(name, 0.0), summary.storage_loss)

    def _set_provenance(self, update: ProvenanceUpdate) -> None:
        self._on_file().set_provenance(update.section, update.text)

    def _finish(self, end_reason: str) -> None:
        file = self._on_file()
        for spec in file.header.signals:
            file.set_loss(spec, self.storage_loss.get(spec.name, 0.0))
        if end_reason != COMPLETE:
            file.set_end_reason(end_reason)
            file.close()
            return
        file.trim()
        if self.path.exists() and not self.force:
            raise RecordingError(
                f"{self.path} has appeared meanwhile and is kept; this recording stays {partial_path(self.path).name}"
            )
        file.set_complete()
        file.publish(self.path)
        file.close()

    def _give_up(self, failure: str) -> None:
        """Leave a valid partial file that says why, as far as the disk still allows."""
        if self._file is None:
            return
        with contextlib.suppress(Exception):
            self._file.set_failed(f"failed: {failure}")
        with contextlib.suppress(Exception):  # a second failure of the same disk; the first is the one reported
            self._file.close()

    def _on_file(self) -> RecordingFile:
        assert self._file is not None
        return self._file


def error_line(error: Exception) -> str:
    """One line; of the system's errors only what the system says, as HDF5 adds addresses and file descriptors."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"[Errno {error.errno}] {os.strerror(error.errno)}"
    return " ".join(f"{type(error).__name__}: {error}".split())
