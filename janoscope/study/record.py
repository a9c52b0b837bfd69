"""Record: a pipeline's generations into recordings. Joins `capture`, which sees the pipeline, and `recording`, which keeps files."""

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..capture import Capture, Generation, StepFacts
from ..errors import InputError, RecordingError
from ..probe import ProbeSheet
from ..recording import Recorder, generation_path
from .call import PipelineCall
from .generate import Generated, generate, output_name, save_frames
from .model import Model, sheet_of

UNKNOWN = "unknown"
_PACKAGES = ("janoscope", "torch", "diffusers", "transformers", "numpy", "h5py")


class RecordingSink:
    """Writes what a Capture sees: one file a generation, at `path`, then with -2, -3 ... before its ending."""

    def __init__(
        self,
        path: Path,
        provenance: Mapping[str, Mapping[str, Any]],
        *,
        store_dtype: str | None = None,
        force: bool = False,
        on_step: Callable[[int, int], None] | None = None,
    ):
        self._path, self._provenance = path, provenance
        self._store_dtype, self._force, self._on_step = store_dtype, force, on_step
        self.recorders: list[Recorder] = []
        self._planned = self._committed = 0

    def begin(self, generation: Generation) -> None:
        scheduler = {**generation.scheduler, "prediction_type": generation.prediction_type}
        seen = {
            "run": {"steps": generation.steps, "device": generation.device, "dtype": generation.dtype},
            "model": {"transformer": dict(generation.transformer)},
            "scheduler": scheduler,
            "capture": {"text_tokens": generation.text_tokens},
        }
        sections = {name: {**self._provenance.get(name, {}), **seen.get(name, {})} for name in {*self._provenance, *seen}}
        self._planned, self._committed = generation.steps, 0
        recorder = Recorder(
            generation_path(self._path, len(self.recorders) + 1),
            grid=generation.grid,
            prediction_type=generation.prediction_type,
            branches=generation.branches,
            items=generation.items,
            planned_steps=generation.steps,
            provenance=sections,
            store_dtype=self._store_dtype,
            force=self._force,
        )
        self.recorders.append(recorder)

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
        )
        self._committed += 1
        if self._on_step is not None:
            self._on_step(self._committed, self._planned)

    def end(self, error: BaseException | None) -> None:
        recorder = self.recorders[-1]
        if isinstance(error, KeyboardInterrupt):
            recorder.close("interrupted")
        elif error is not None:
            recorder.close(f"failed: {type(error).__name__}: {error}")
        elif self._committed < self._planned:
            recorder.close(f"the pipeline stopped after {self._committed} of {self._planned} steps")
        else:
            recorder.close()


@dataclass
class RecordedGenerations:
    """What `record` gives: the files of the generations so far, and what recording them cost."""

    sink: RecordingSink
    capture: Capture

    @property
    def recorders(self) -> list[Recorder]:
        return self.sink.recorders

    @property
    def paths(self) -> list[Path]:
        return [recorder.path for recorder in self.sink.recorders]

    @property
    def overhead_s(self) -> float:
        """Seconds that the pipeline waited for the recording."""
        return self.capture.overhead_s


@contextmanager
def record(
    pipe: Any,
    path: str | Path,
    *,
    prompt: str = UNKNOWN,
    seed: int | str = UNKNOWN,
    negative_prompt: str | None = UNKNOWN,
    guidance: float | str | None = UNKNOWN,
    model: str = UNKNOWN,
    revision: str = UNKNOWN,
    sheet: ProbeSheet | None = None,
    default_policy: Mapping[str, Any] | None = None,
    store_dtype: str | None = None,
    force: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[RecordedGenerations]:
    """Record every generation that `pipe` makes inside the context.

    Args:
        path: the recording; a second generation goes to `<name>-2.h5`.
        prompt, seed, negative_prompt, guidance, model, revision: what the hooks cannot see; `unknown` where not said.
        sheet: a probe sheet other than the one that matches the transformer.
        default_policy: the model's own policy table, with which `analyze` works unless told otherwise.
        on_step: called with (steps done, steps in all).

    Raises:
        InputError: no sheet matches. RecordingError: the file exists and `force` is not set.

    Example:
        >>> with janoscope.record(pipe, "run.h5", prompt="a cat", seed=3):  # doctest: +SKIP
        ...     pipe("a cat", generator=torch.Generator().manual_seed(3))
    """
    sheet = sheet or sheet_of(pipe)
    provenance = {
        "run": {"prompt": prompt, "seed": seed, "negative_prompt": negative_prompt, "guidance_scale": guidance},
        "model": {"id": model, "revision": revision, "pipeline": type(pipe).__name__, "default_policy": dict(default_policy or {})},
        "packages": installed_versions(),
        "capture": {"probe": sheet.family},
    }
    target = Path(path)
    refuse_existing(target, force)
    sink = RecordingSink(target, provenance, store_dtype=store_dtype, force=force, on_step=on_step)
    with Capture(pipe, sheet, sink) as capture:
        yield RecordedGenerations(sink, capture)


def refuse_existing(path: Path, force: bool) -> None:
    """Raise before any work is done, not after it."""
    if path.exists() and not force:
        raise InputError(f"{path} exists already; choose another name with -o, or pass --force to replace it.")


def installed_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = UNKNOWN
    return versions


@dataclass(frozen=True)
class Recorded:
    """One recorded generation. overhead: seconds the pipeline waited for the recording, over its own. notices: for people."""

    path: Path
    picture: Path | None
    generated: Generated
    steps: int
    bytes: int
    overhead: float
    nonfinite: int
    storage_loss: float
    notices: tuple[str, ...] = ()


def record_model(
    model: Model,
    call: PipelineCall,
    path: Path,
    *,
    store_dtype: str | None = None,
    keep_output: bool = True,
    force: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Recorded:
    """Generate once with a loaded model and record it; the decoded output goes beside the recording unless `keep_output` is off.

    Raises RecordingError after the picture is saved when the recording itself could not be completed (a full disk).
    """
    told = {"prompt": call.prompt, "seed": call.seed, "negative_prompt": call.negative_prompt, "guidance": call.guidance}
    with record(
        model.pipe,
        path,
        **told,
        model=model.name,
        revision=model.revision,
        sheet=model.sheet,
        default_policy=model.policy_table,
        store_dtype=store_dtype,
        force=force,
        on_step=on_step,
    ) as recorded:
        generated = generate(model, call)
    picture = None
    if keep_output and generated.frames is not None:
        picture = save_frames(generated.frames, output_name(path, generated.frames))
    recorder = recorded.recorders[-1]
    if recorder.failure:
        kept = f"; the picture is {picture}" if picture else ""
        raise RecordingError(
            f"{path.name} stopped after {recorder.steps_done} steps: {recorder.failure}{kept}. "
            f"Make room and record again; what was recorded is {recorder.partial_path.name}."
        )
    return Recorded(
        path=recorder.path,
        picture=picture,
        generated=generated,
        steps=recorder.steps_done,
        bytes=recorder.bytes_written,
        overhead=recorded.overhead_s / max(generated.wall_s - recorded.overhead_s, 1e-9),
        nonfinite=sum(recorder.nonfinite.values()) + sum(recorder.nonfinite_created.values()),
        storage_loss=max(recorder.storage_loss.values(), default=0.0),
        notices=tuple(r.notice for r in recorded.recorders if r.notice),
    )
