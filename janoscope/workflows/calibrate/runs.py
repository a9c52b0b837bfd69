"""The real generations that a calibration makes: full ones, recorded or not, and ones under a policy, each a task of its own.

A task's figures are a line of `runs.jsonl`; a rerun takes it from there. Tasks spread as recordings of a set do (fanout.py).
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from ...capture.describe import describe_transformer
from ...errors import ExecutionError, InputError
from ...execution import executor_for
from ...execution.counting.flops import FlopMeter
from ...metrics import quality
from ...parallel.tasks import fan_out
from ...pipeline.call import CallOptions, PipelineCall, make_call
from ...pipeline.generate import Generated, generate
from ...pipeline.model import Model, load_model
from ...pipeline.model_options import ModelOptions
from ...pipeline.provenance import RunOptions
from ...plan import Policy, transformer_identity
from ...plan.fingerprint import Identity
from ...results.files import append_line, read_arrays, read_journal
from ...results.writing import write_arrays
from ..record.session import Recorded, record_model
from .directory import claim
from .surrogate import CAP_DB, TimedStep

RUNS = "runs.jsonl"
ADVICE = "Remove that line, or take another directory."
AGAIN = "Remove it, and it is made again."
RECORDINGS, REFERENCES = "recordings", "references"
OnRun = Callable[[int, int], None]


@dataclass(frozen=True)
class Generation:
    """One run to make. policy: None for the full run, whose images are kept; with `recorded` it is recorded as well."""

    prompt: str
    seed: int
    policy: Policy | None = None
    recorded: bool = False

    @property
    def key(self) -> str:
        rules = None if self.policy is None else {k: v for k, v in self.policy.to_json().items() if k not in ("name", "source")}
        identity = json.dumps([self.prompt, self.seed, rules], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    @property
    def full(self) -> "Generation":
        """The full run that it is compared with."""
        return replace(self, policy=None, recorded=False)


@dataclass(frozen=True)
class Ran:
    """A run's figures. psnr (dB) and compute are against the full run, None for the full run itself. steps: all but the first.
    model: what the main process has to know of it, from full runs."""

    key: str
    prompt: str
    seed: int
    wall_s: float
    psnr: float | None = None
    compute: float | None = None
    steps: tuple[TimedStep, ...] = ()
    warnings: tuple[str, ...] = ()
    model: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSource:
    """The model that a calibration runs: named, then each worker loads it; or loaded already, then this process uses it alone."""

    name: str
    options: ModelOptions = field(default_factory=ModelOptions)
    loaded: Model | None = None

    def load(self) -> Model:
        return self.loaded or load_model(self.name, self.options)

    def to_json(self) -> dict[str, object]:
        """What every run depends on, for recipe.json: of a loaded model its network and scheduler too."""
        facts = self.options.to_json(self.name)
        if self.loaded is None:
            return facts
        pipe = self.loaded.pipe
        network = describe_transformer(getattr(pipe, self.loaded.probe.tap.components[0]))
        identity = transformer_identity(network["class"], network["config"])
        return facts | {"pipeline": type(pipe).__name__, "transformer": identity, "scheduler": type(pipe.scheduler).__name__}


class Runs:
    """The runs of a calibration in `directory`: known ones are read, others made. count: generations so far, all sittings."""

    def __init__(self, directory: Path, source: ModelSource, call: CallOptions, *, ray: str | None = None):
        self.directory, self._source, self._call, self._ray = directory, source, call, ray
        self._journal = directory / RUNS
        self.known = {ran.key: ran for ran in read_journal(self._journal, Ran, "journal of runs", ADVICE)}
        self.failures: list[str] = []
        self._worker: Callable[[Generation], Ran] | None = None

    @property
    def count(self) -> int:
        return len(self.known)

    def recording(self, generation: Generation) -> Path:
        return self.directory / RECORDINGS / f"{generation.key}.h5"

    def make(self, wanted: Sequence[Generation], on_run: OnRun | None = None) -> list[Ran | None]:
        """What each found, in order; None for one that failed. Raises InputError where all failed, with the first reason."""
        todo = [g for g in {g.key: g for g in wanted}.values() if not self._is_known(g)]
        claim(self.directory, (name for g in todo for name in _files_of(g)))
        errors: list[str] = []
        for outcome in fan_out(todo, self._make_worker(), ray=self._ray):
            if outcome.result is None:
                errors.append(f"{outcome.task.prompt!r}: {outcome.error}")
            else:
                self._keep(outcome.result)
            if on_run is not None:
                on_run(len(wanted) - len(todo) + sum(g.key in self.known for g in todo) + len(errors), len(wanted))
        found = [self.known.get(g.key) for g in wanted]
        if wanted and not any(found):
            raise InputError(f"none of {len(wanted)} runs succeeded; the first failed: {errors[0] if errors else 'unknown'}")
        self.failures += errors
        return found

    def _is_known(self, generation: Generation) -> bool:
        kept = [self.directory / REFERENCES / f"{generation.key}.npz"] if generation.policy is None else []
        kept += [self.recording(generation)] if generation.recorded else []
        return generation.key in self.known and all(path.exists() for path in kept)

    def _make_worker(self) -> Callable[[], Callable[[Generation], Ran]]:
        made = partial(generation_worker, str(self.directory.resolve()), self._source, self._call)
        if self._ray is not None:
            return made

        def once() -> Callable[[Generation], Ran]:
            self._worker = self._worker or made()  # the model is loaded once for all stages
            return self._worker

        return once

    def _keep(self, ran: Ran) -> None:
        self.known[ran.key] = ran
        append_line(self._journal, asdict(ran))


def _files_of(task: Generation) -> list[str]:
    """What the run leaves beside its line, relative to the directory."""
    if task.policy is not None:
        return []
    recorded = [f"{RECORDINGS}/{task.key}.h5", f"{RECORDINGS}/{task.key}.partial.h5"] if task.recorded else []
    return [f"{REFERENCES}/{task.key}.npz", *recorded]


def generation_worker(directory: str, source: ModelSource, options: CallOptions) -> Callable[[Generation], Ran]:
    """Load the model; the worker makes one generation after another. Raises ExecutionError where the family cannot."""
    model, meter = source.load(), FlopMeter()
    if model.probe.execution is None:  # before hours of full runs
        raise ExecutionError(
            f"{model.probe.title} can be recorded and analysed, not executed, so no policy can be tried on it; calibrate its "
            "recordings alone."
        )
    root = Path(directory)
    asked_for = RunOptions(None if source.loaded else source.name, source.options, options.extra or {})

    def work(task: Generation) -> Ran:
        call = make_call(model, replace(options, prompt=task.prompt, seed=task.seed))
        if task.policy is None:
            return _full_run(model, call, task, root, partial(record_model, asked_for=asked_for))
        return _accelerated_run(model, call, task, root, meter)

    return work


def _full_run(model: Model, call: PipelineCall, task: Generation, root: Path, record: Callable[..., Recorded]) -> Ran:
    clock = _StepClock(model)
    if task.recorded:
        path = root / RECORDINGS / f"{task.key}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = record(model, call, path, keep_output=False, force=True).generated
    else:
        made = generate(model, call, clock.tick)
    frames = _frames(made)
    (root / REFERENCES).mkdir(parents=True, exist_ok=True)
    write_arrays(root / REFERENCES / f"{task.key}.npz", {"frames": frames})
    steps = tuple(TimedStep("full", 1.0, seconds) for seconds in clock.seconds)
    return Ran(task.key, task.prompt, task.seed, made.wall_s, None, None, steps, call.warnings, _model_facts(model, call))


def _accelerated_run(model: Model, call: PipelineCall, task: Generation, root: Path, meter: FlopMeter) -> Ran:
    reference = _reference(root / REFERENCES / f"{task.full.key}.npz")
    identity = Identity(model.name, call.prompt, call.seed, call.guidance_facts())
    clock = _StepClock(model)
    with executor_for(model.pipe, model.probe, policy=task.policy, identity=identity, meter=meter) as executor:
        made = generate(model, call, clock.tick)
        account = executor.summary
    measured = quality(reference, _frames(made), None)
    done = [(step.kind, step.flops / step.full_flops if step.full_flops else 1.0) for step in account.steps[1:]]
    steps = tuple(TimedStep(*what, seconds) for what, seconds in zip(done, clock.seconds, strict=False))
    return Ran(task.key, task.prompt, task.seed, made.wall_s, min(measured.psnr, CAP_DB), account.compute, steps)


def _reference(path: Path) -> np.ndarray:
    """The full run's frames, (frame, row, col, 3) uint8."""
    frames = read_arrays(path, "full run", AGAIN).get("frames")
    if frames is None or frames.dtype != np.uint8 or frames.ndim != 4:
        raise InputError(f"full run {path} cannot be read: it holds no frames. {AGAIN}")
    return frames


def _model_facts(model: Model, call: PipelineCall) -> dict[str, object]:
    """What the main process, which may have no model, has to know."""
    pipe = model.pipe
    two = getattr(pipe, "transformer_2", None) is not None
    boundary = getattr(pipe, "config", {}).get("boundary_ratio") if two else None
    sizes = {key: call.arguments.get(key) for key in ("height", "width", "num_frames", "video_length")}
    facts = {"name": model.name, "revision": model.revision, "boundary": boundary, "device": str(model.device)}
    return facts | {"size": {key: value for key, value in sizes.items() if value is not None}}


def _frames(made: Generated) -> np.ndarray:
    if made.frames is None:
        raise InputError("the pipeline returned latents, which no picture metric can measure; leave output_type out.")
    return made.frames


class _StepClock:
    """Seconds from each scheduler step to the next; the first step, which holds the encoders' time, is not among them."""

    def __init__(self, model: Model):
        self._cuda = model.device.type == "cuda"
        self._last: float | None = None
        self.seconds: list[float] = []

    def tick(self, done: int, steps: int) -> None:
        if self._cuda:
            import torch

            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now
