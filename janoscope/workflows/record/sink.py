"""Where a Capture's arrays become files: one recording a generation."""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...capture import Generation, StepFacts, Tap
from ...recording import Recorder, RecorderOptions, TapAxes, generation_path

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class Expected:
    """What a recording will take, said before anything is written. Bytes; free: on the disk it goes to."""

    path: Path
    signals: int
    taps: int
    free: int

    @property
    def total(self) -> int:
        return self.signals + self.taps

    @property
    def is_too_large(self) -> bool:
        return self.total > self.free


def expected_size(generation: Generation, store_dtype: str | None, path: Path) -> Expected:
    """Bytes of the signals and taps of every step. A tap has no `guided` branch where there are others."""
    branches, values = len(generation.branches), generation.grid.count * generation.grid.token_channels
    maps = {"sample": 1, "model_output": branches, "predicted_variance": branches}
    sizes = {name: _BYTES[store_dtype or dtype] for name, dtype in generation.signals.items() if name in maps}
    signals = generation.steps * generation.items * values * sum(maps[name] * size for name, size in sizes.items())
    taps = sum(tap.steps * tap.tokens * tap.channels * _BYTES[store_dtype or tap.dtype] for tap in generation.taps.values())
    called = max(1, branches - 1)
    return Expected(path, signals, taps * generation.items * called, shutil.disk_usage(path.parent).free)


class RecordingSink:
    """Writes what a Capture sees: one file a generation, at `path`, then with -2, -3 ... before its ending.

    describe: further fields of the section `run`, asked for when a generation begins.
    """

    def __init__(
        self,
        path: Path,
        provenance: Mapping[str, Mapping[str, object]],
        *,
        taps: tuple[Tap, ...] = (),
        marks_skipped: bool = False,
        store_dtype: str | None = None,
        force: bool = False,
        on_step: Callable[[int, int], None] | None = None,
        on_size: Callable[[Expected], None] | None = None,
        describe: Callable[[], Mapping[str, object]] = dict,
    ):
        self.path, self._provenance, self.taps = path, provenance, taps
        self._marks_skipped, self._store_dtype, self._force = marks_skipped, store_dtype, force
        self._on_step, self._on_size, self._describe = on_step, on_size, describe
        self.on_recorder: Callable[[], None] = lambda: None  # told when one was made
        self.recorders: list[Recorder] = []
        self._planned = self._committed = 0
        self._open: Recorder | None = None

    def begin(self, generation: Generation) -> None:
        self._planned, self._committed = generation.steps, 0
        if self._on_size is not None:
            self._on_size(expected_size(generation, self._store_dtype, self.path))
        recorder = Recorder(
            generation_path(self.path, len(self.recorders) + 1),
            grid=generation.grid,
            prediction_type=generation.prediction_type,
            branches=generation.branches,
            items=generation.items,
            planned_steps=generation.steps,
            provenance=self._sections(generation),
            taps={name: TapAxes(size.tokens, size.channels, size.dtype) for name, size in generation.taps.items()},
            force=self._force,
            options=RecorderOptions(store_dtype=self._store_dtype, marks_skipped=self._marks_skipped),
        )
        self.recorders.append(recorder)
        self._open = recorder
        self.on_recorder()

    def put(self, signal: str, values: np.ndarray, *, item: int, branch: str, dtype: str) -> None:
        self.recorders[-1].put(signal, values, item=item, branch=branch, dtype=dtype)

    def commit(self, facts: StepFacts) -> None:
        self.recorders[-1].commit(
            timestep=facts.timestep,
            alpha=facts.alpha,
            sigma=facts.sigma,
            time_s=facts.time_s,
            peak_bytes=facts.peak_bytes,
            absent=facts.absent,
            skipped=facts.skipped,
        )
        self._committed += 1
        if self._on_step is not None:
            self._on_step(self._committed, self._planned)

    def end(self, error: BaseException | None) -> None:
        """Close the recording; nothing to do where none began, which was refused."""
        recorder, self._open = self._open, None
        if recorder is None:
            return
        if isinstance(error, KeyboardInterrupt):
            recorder.close("interrupted")
        elif error is not None:
            recorder.close(f"failed: {type(error).__name__}: {error}")
        elif self._committed < self._planned:
            recorder.close(f"the pipeline stopped after {self._committed} of {self._planned} steps")
        else:
            recorder.close()

    def _sections(self, generation: Generation) -> dict[str, dict[str, object]]:
        """What was told and what was seen; the seen wins."""
        seen: dict[str, dict[str, object]] = {
            "run": {**self._describe(), "steps": generation.steps, "device": generation.device, "dtype": generation.dtype},
            "model": {"transformer": dict(generation.transformer)},
            "scheduler": {**generation.scheduler, "prediction_type": generation.prediction_type},
            "capture": {"text_tokens": generation.text_tokens},
        }
        seen["capture"]["attachments"] = [
            {"component": component, **one.to_json()} for component, every in generation.attachments.items() for one in every
        ]
        if generation.boundary is not None:
            seen["capture"]["boundary"] = generation.boundary
        if self.taps:
            seen["capture"]["taps"] = {tap.name: self._thinned(tap, generation) for tap in self.taps}
        return {name: {**self._provenance.get(name, {}), **seen.get(name, {})} for name in {*self._provenance, *seen}}

    def _thinned(self, tap: Tap, generation: Generation) -> dict[str, object]:
        """What of the module's output was kept, for a reader that wants to place it."""
        size = generation.taps[tap.name]
        kept = {"tokens": size.tokens, "channels": size.channels}
        strides = {"token_stride": size.token_stride, "channel_stride": size.channel_stride}
        return {"steps": list(tap.steps), **kept, **strides}


def human_size(count: float) -> str:
    """Bytes for people, in binary units."""
    power = min(4, int(math.log(count, 1024))) if count >= 1 else 0
    return f"{count / 1024**power:.1f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
