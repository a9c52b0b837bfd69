"""`Recorder`: what a capture layer, or a user's own sampling loop, pushes arrays into.

It copies, checks and hands over; it waits for the disk only when the queue is full, and a full disk never ends a generation.
"""

import atexit
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike

from ...errors import InputError
from ...grid import TokenGrid
from .. import layout
from ..layout import COMPLETE, GUIDED, TapAxes
from ..provenance import initial_provenance, provenance_json
from .destination import Claim
from .empty_file import Header
from .noise_schedule import NoiseSchedule
from .step_maps import StepMaps
from .writer_thread import Chunk, Finish, ProvenanceUpdate, Step, WriterThread

QUEUE_BYTES = 256 << 20


@dataclass(frozen=True)
class RecorderOptions:
    """How a recording is stored, for the cases where the defaults do not do.

    Args:
        store_dtype: float16, bfloat16, float32 or float64 for all signals; None keeps the source's.
        queue_bytes: most bytes that may wait for the disk (a single larger step is still admitted).
        marks_skipped: the file says for every step which tokens an executor left out, see `Recorder.commit`.
    """

    store_dtype: str | None = None
    queue_bytes: int = QUEUE_BYTES
    marks_skipped: bool = False


class Recorder:
    """Write one recording: `put` every map of a step, then `commit` the step.

    The file is made at the first commit as `<name>.partial.h5` and becomes `<name>.h5` when it is complete. Steps that are
    acknowledged (`steps_done`) survive the death of the process, not a loss of power. One thread of its own does all file work.

    Args:
        path: final name, ending in .h5.
        grid: where tokens lie; maps of the core signals are (grid.count, grid.token_channels).
        prediction_type: what model_output means: epsilon, v_prediction, sample, flow ...
        branches: names on the branch axis; "guided" must be among them.
        items: batch size.
        planned_steps: steps the sampler means to take; closing before that leaves the recording incomplete.
        alpha, sigma: per step, x = alpha x0 + sigma eps for the recorded sample; or give them to `commit`.
        provenance: {section: {field: value}} for sections run, model, scheduler, packages, capture.
        taps: sizes of inner modules' outputs by dotted path; those put in the first step need not be declared.
        force: replace an existing recording of that name, once the new one is complete.
        options: stored dtype, queue, marks of skipped tokens.

    Raises:
        InputError: an argument cannot be used, or another recorder writes `path`. Errors of the disk never raise: see `failure`.

    >>> with Recorder(path, grid=grid, prediction_type="epsilon", alpha=alphas, sigma=sigmas) as recorder:  # doctest: +SKIP
    ...     recorder.put("sample", x)
    ...     recorder.put("model_output", eps)
    ...     recorder.commit(timestep=t)
    """

    def __init__(
        self,
        path: Path | str,
        *,
        grid: TokenGrid,
        prediction_type: str,
        branches: Sequence[str] = (GUIDED,),
        items: int = 1,
        planned_steps: int | None = None,
        alpha: Sequence[float] | np.ndarray | None = None,
        sigma: Sequence[float] | np.ndarray | None = None,
        provenance: Mapping[str, Mapping[str, object]] | None = None,
        taps: Mapping[str, TapAxes] | None = None,
        force: bool = False,
        options: RecorderOptions = RecorderOptions(),
    ) -> None:
        self.path = Path(path)
        self.grid, self.prediction_type = grid, prediction_type
        self.branches, self.items, self.planned_steps = tuple(branches), items, planned_steps
        self._check_numbers(options.queue_bytes)
        self._step_maps = StepMaps(grid, self.branches, items, taps or {}, options.store_dtype)
        self._schedule = NoiseSchedule(alpha, sigma)
        self._provenance = initial_provenance(provenance or {})
        self._marks_skipped = options.marks_skipped
        self._warned = self._closed = False
        self._claim = Claim(self.path, force)
        self.notice = self._claim.notice
        self._thread = WriterThread(self._claim, options.queue_bytes, force)
        atexit.register(self._close_at_exit)

    @property
    def partial_path(self) -> Path:
        """Where the recording lies until it is complete."""
        return layout.partial_path(self.path)

    @property
    def steps_done(self) -> int:
        """Steps on file that survive the death of this process."""
        return self._thread.steps_done

    @property
    def failure(self) -> str | None:
        """Why recording stopped early (a full disk, say), or None. The generation goes on without it."""
        return self._thread.failure

    @property
    def nonfinite(self) -> dict[str, int]:
        """Non-finite values of the source so far, by signal."""
        return dict(self._thread.nonfinite)

    @property
    def nonfinite_created(self) -> dict[str, int]:
        """Values that were finite and are not in the stored dtype, by signal."""
        return dict(self._thread.nonfinite_created)

    @property
    def storage_loss(self) -> dict[str, float]:
        """Largest absolute difference caused by store_dtype so far, by signal."""
        return dict(self._thread.storage_loss)

    @property
    def bytes_written(self) -> int:
        """Bytes of signals on file so far."""
        return self._thread.bytes_written

    @property
    def queue_peak_bytes(self) -> int:
        """Most bytes that waited for the disk at once."""
        return self._thread.queue.peak

    def put(self, signal: str, values: ArrayLike, *, item: int = 0, branch: str = GUIDED, dtype: str | None = None) -> None:
        """Add one map of the current step; the data are copied, so the caller may reuse its buffer.

        values: (token, channel), or for the core signals a latent (channel, frame, row, col) of cells, or (channel, row, col)
        where the grid has one frame. dtype: "bfloat16" when values are the uint16 bits of bfloat16 numbers.
        Waits while the queue is full. Raises InputError for a wrong shape, type, item, branch, or a map put twice.
        """
        self._refuse_closed("put")
        place, array = self._step_maps.accept(signal, values, item, branch, dtype)
        if self._failed():
            return
        self._thread.queue.reserve(array.nbytes)
        self._step_maps.maps[place] = self._thread.buffers.copy_of(array)

    def commit(
        self,
        *,
        timestep: float,
        alpha: float | None = None,
        sigma: float | None = None,
        time_s: Mapping[str, float] | None = None,
        peak_bytes: int | None = None,
        absent: Iterable[str] = (),
        skipped: np.ndarray | None = None,
    ) -> None:
        """Close the step: from here on it is the writer thread's, and whole or not at all.

        timestep: the scheduler's. time_s: seconds by branch. absent: branches that made no call this step (guidance that ended);
        their maps are NaN and flagged. skipped: bool (token,), tokens that were not computed at this step.
        An alpha or sigma that is truly unknown may be NaN, said in so many words.
        Raises InputError naming what is missing: every item and branch of model_output and sample, alpha, sigma.
        """
        self._refuse_closed("commit")
        row = self._schedule.row(
            self._committed,
            self.branches,
            timestep=timestep,
            alpha=alpha,
            sigma=sigma,
            time_s=time_s or {},
            peak_bytes=peak_bytes,
        )
        row.skipped = self._check_skipped(skipped)
        if self._failed():
            self._drop_step()
            return
        self._step_maps.check_whole(set(absent))
        if self._committed == 0:
            self._thread.start(self._header())
        signals, maps = self._step_maps.signals, self._step_maps.next_step()
        chunks = tuple(Chunk(signals[name], item, branch, data) for (name, item, branch), data in maps.items())
        del maps
        self._thread.queue.send(Step(row, chunks), with_reserved=True)

    @property
    def _committed(self) -> int:
        return self._step_maps.step

    def flush(self) -> None:
        """Wait until every committed step is on file, or recording has failed."""
        self._thread.drain()
        self._failed()

    def update_provenance(self, section: str, fields: Mapping[str, object]) -> None:
        """Add or replace fields of one provenance section; until `close`."""
        self._refuse_closed("update_provenance")
        merged = {**self._provenance.get(section, {}), **fields}
        text = provenance_json(section, merged)
        self._provenance[section] = merged
        if self._committed:
            self._thread.queue.send(ProvenanceUpdate(section, text))

    def close(self, end_reason: str = COMPLETE) -> None:
        """Finish. "complete" makes the final file; any other reason leaves `<name>.partial.h5`. May be called twice."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._close_at_exit)
        if end_reason == COMPLETE:
            end_reason = self._ending()
        self._drop_step()
        if self._committed:
            self._thread.queue.send(Finish(end_reason))
            self._thread.join()
        self._claim.release()
        self._failed()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        elif issubclass(kind, KeyboardInterrupt):
            self.close("interrupted")
        else:
            self.close(f"failed: {kind.__name__}: {error}")

    def _close_at_exit(self) -> None:
        self.close("interrupted: the process ended without closing the recording")

    def _ending(self) -> str:
        """Whether what was recorded is what was planned; a recording that is short of it never calls itself complete."""
        if self._step_maps.maps:
            self._warn(f"step {self._committed} of {self.path.name} was put but not committed; it is left out.")
        if not self._committed and self.failure is None:
            self._warn(f"no step was committed, so {self.path.name} was not written. Call commit after the puts of each step.")
        if self.failure is None and 0 < self._committed < (self.planned_steps or 0):
            steps = f"{self._committed} of {self.planned_steps} planned steps"
            self._warn(f"{self.path.name} ended after {steps}; it stays {self.partial_path.name}.")
            return "stopped early"
        return COMPLETE

    def _check_numbers(self, queue_bytes: int) -> None:
        if not self.prediction_type.isascii() or not self.prediction_type:
            raise InputError(f"prediction_type {self.prediction_type!r} is no word; say epsilon, v_prediction, sample or flow.")
        for name, value in (("items", self.items), ("planned_steps", self.planned_steps), ("queue_bytes", queue_bytes)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1.")
        if (self.planned_steps or 0) > layout.MAX_STEPS:
            raise InputError(f"planned_steps is {self.planned_steps}; at most {layout.MAX_STEPS} are recorded. Leave it out.")

    def _check_skipped(self, skipped: np.ndarray | None) -> np.ndarray | None:
        if skipped is None:
            return None
        if not self._marks_skipped:
            raise InputError(
                "skipped tokens were given to a recording that does not mark them; "
                "pass options=RecorderOptions(marks_skipped=True) to Recorder."
            )
        if np.shape(skipped) != (self.grid.count,):
            raise InputError(f"skipped has shape {np.shape(skipped)}; expected one value a token, {self.grid.count}.")
        return np.array(skipped, np.int8)

    def _header(self) -> Header:
        room = min(self.planned_steps or self._schedule.length or layout.ROWS_PER_CHUNK, layout.MAX_ROOM)
        texts = {section: provenance_json(section, self._provenance[section]) for section in layout.SECTIONS}
        signals = self._step_maps.all_signals()
        return Header(
            self.grid,
            self.prediction_type,
            self.branches,
            self.items,
            self.planned_steps,
            signals,
            texts,
            marks_skipped=self._marks_skipped,
            room=room,
        )

    def _refuse_closed(self, method: str) -> None:
        if self._closed:
            raise InputError(f"{method} after close: {self.path.name} is finished. Make a new Recorder for another recording.")

    def _failed(self) -> bool:
        """Whether the writer has given up; warns once, on the caller's thread."""
        if self.failure is None:
            return False
        if not self._warned:
            self._warned = True
            self._warn(
                f"recording of {self.path.name} stopped: {self.failure}. "
                f"The generation goes on; {self.steps_done} steps are kept."
            )
        return True

    def _warn(self, text: str) -> None:
        warnings.warn(text, RuntimeWarning, stacklevel=3)

    def _drop_step(self) -> None:
        self._step_maps.maps.clear()
        self._thread.queue.forget_reserved()
