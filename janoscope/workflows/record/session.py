"""Record: a pipeline's generations into files. Joins `capture`, which sees the pipeline, and `recording`, which keeps them."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

from ...capture import Capture, Tap, parse_tap
from ...capture.protocols import Pipeline
from ...errors import InputError, RecordingError
from ...execution import Executor, RunSummary, StepExecutor, executor_for
from ...parallel.pair import Pair
from ...pipeline.call import PipelineCall
from ...pipeline.generate import Generated, generate
from ...pipeline.handle import Handle
from ...pipeline.model import Model, probe_of
from ...pipeline.model_directory import named_policy
from ...pipeline.model_options import ProbeSource
from ...pipeline.provenance import RunDescription, RunOptions, installed_versions, probe_fields
from ...pipeline.shown_call import shown_call
from ...plan import Plan, Policy
from ...plan.fingerprint import Identity
from ...probe import Probe
from ...recording import Recorder, prepare_destination
from ...results.images import output_name, save_frames
from ...results.writing import refuse_existing
from .sink import Expected, RecordingSink

STOPPED = r"recording of .* stopped"  # how a Recorder warns of a full disk
OUTPUT_ENDINGS = (".png", ".mp4")  # which of them is known when the frames are


class RecordHandle(Handle):
    """What `record` gives: attached to the pipeline, see `Handle`; the files of the generations so far, and what they cost.

    executor: of an accelerated recording, else None. capture: None in the second process of a pair, which writes nothing.
    """

    def __init__(
        self,
        layers: ExitStack,
        sink: RecordingSink,
        capture: Capture | None,
        executor: Executor | StepExecutor | None,
    ):
        super().__init__(layers, f'record(pipe, "{sink.path}")', "recorded", lambda: capture is not None and capture.is_unused)
        self.capture, self.executor, self._sink = capture, executor, sink
        sink.on_recorder = self.close_first_at_exit

    @property
    def recorders(self) -> list[Recorder]:
        return self._sink.recorders

    @property
    def paths(self) -> list[Path]:
        """The recordings in the order of their generations; the last is complete when the handle is closed."""
        return [recorder.path for recorder in self._sink.recorders]

    @property
    def summary(self) -> RunSummary | None:
        """What the last generation computed, of an accelerated recording."""
        return self.executor.summary if self.executor else None

    @property
    def plan(self) -> Plan | None:
        """The plan that the last generation made, of an accelerated recording."""
        return self.executor.plan if self.executor else None

    @property
    def overhead_s(self) -> float:
        """Seconds that the pipeline waited for the recording."""
        return self.capture.overhead_s if self.capture else 0.0


class SaidOfRun(TypedDict, total=False):
    """What a user may say of a run by name; see `RunDescription`. sheet: the old name of `probe`."""

    prompt: str
    seed: int | str
    negative_prompt: str | None
    guidance: float | str | None
    model: str
    revision: str
    sheet: ProbeSource | None


def record(
    pipe: Pipeline,
    path: str | Path,
    *,
    probe: ProbeSource | None = None,
    taps: Sequence[Tap | str] = (),
    policy: Policy | str | Path | None = None,
    store_dtype: str | None = None,
    force: bool = False,
    on_step: Callable[[int, int], None] | None = None,
    on_size: Callable[[Expected], None] | None = None,
    pair: Pair | None = None,
    run: RunDescription | None = None,
    **said: Unpack[SaidOfRun],
) -> RecordHandle:
    """Record every generation that `pipe` makes from now on until the handle is closed, by `close()` or the end of a `with`.

    Prompt, negative prompt, seed, guidance scale and size are read off the pipeline's call where its family shows them; what is
    said here wins, and what neither says is `unknown` in the file.

    Args:
        pipe: any diffusers pipeline with a transformer or U-Net that a probe knows.
        path: the recording; a second generation goes to `<name>-2.h5`.
        probe: a probe, or the path of its file, other than the one that matches the network.
        taps: inner modules to record too, as `transformer_blocks.0:steps=::5:tokens=256` (see `parse_tap`).
        policy: accelerate the generations with it; the recording marks the tokens that were skipped.
        store_dtype: float16, bfloat16, float32 or float64 instead of the source's.
        force: replace a recording that is there.
        on_step: called with (steps done, steps in all).
        on_size: called with the expected size before anything is written.
        pair: make every generation together with a second process, a guidance branch each (`Pair.join`). The process that
            leads writes one recording with both branches.
        run: all that is to be said of the run, for callers that make the call themselves.
        **said: prompt, seed, negative_prompt, guidance, model, revision, in the place of what the call shows.

    Returns:
        The handle: `paths` of the recordings, `summary` and `plan` of an accelerated generation.

    Raises:
        InputError: no probe matches, a tap names no module, the recording cannot be written there (see `prepare_destination`).

    Example:
        >>> with janoscope.record(pipe, "run.h5"):  # doctest: +SKIP
        ...     pipe("a cat", generator=torch.Generator().manual_seed(3))
        >>> handle = janoscope.record(pipe, "run.h5")  # doctest: +SKIP
        >>> pipe("a cat")  # doctest: +SKIP
        >>> handle.close()  # doctest: +SKIP
    """
    target = Path(path)
    if pair is None or pair.leads:
        prepare_destination(target, force)
    if pair is not None and taps:
        raise InputError("a process of a pair sees the inner modules of its own branch only; record taps without a pair.")
    family = probe_of(pipe, probe, said.get("sheet"))
    description = _described(run or RunDescription(), said)
    rules = policy if policy is None or isinstance(policy, Policy) else named_policy(family, str(policy))

    def completed() -> RunDescription:
        return description.completed(shown_call(pipe, family))

    sink = RecordingSink(
        target,
        {
            "model": description.model_fields(type(pipe).__name__),
            "packages": dict(installed_versions()),
            "capture": probe_fields(pipe, family) | _layer_fields(rules, pair),
        },
        taps=tuple(parse_tap(tap) if isinstance(tap, str) else tap for tap in taps),
        marks_skipped=rules is not None,
        store_dtype=store_dtype,
        force=force,
        on_step=on_step,
        on_size=on_size,
        describe=lambda: completed().run_fields(),
    )
    return _attach(pipe, family, sink, rules, lambda: completed().identity(), pair)


def _described(run: RunDescription, said: SaidOfRun) -> RunDescription:
    return replace(
        run,
        prompt=said.get("prompt", run.prompt),
        seed=said.get("seed", run.seed),
        negative_prompt=said.get("negative_prompt", run.negative_prompt),
        guidance=said.get("guidance", run.guidance),
        model=said.get("model", run.model),
        revision=said.get("revision", run.revision),
    )


def _layer_fields(rules: Policy | None, pair: Pair | None) -> dict[str, object]:
    """What lies on the pipeline beside the capture, for the provenance."""
    return ({"policy": rules.to_json()} if rules else {}) | ({"guidance_parallel": 2} if pair else {})


def _attach(
    pipe: Pipeline,
    probe: Probe,
    sink: RecordingSink,
    rules: Policy | None,
    identity: Callable[[], Identity],
    pair: Pair | None,
) -> RecordHandle:
    """Capture, executor and pair on the pipeline, each over the one before; the process that follows has no capture."""
    with ExitStack() as stack:
        capture = stack.enter_context(Capture(pipe, probe, sink, taps=sink.taps)) if pair is None or pair.leads else None
        executor: Executor | StepExecutor | None = None
        if rules is not None:
            on_select = pair.selected if pair else None
            attached = executor_for(pipe, probe, policy=rules, identity=identity, on_select=on_select)
            stack.enter_context(attached)
            executor = attached
            if capture is not None:
                capture.skipped = lambda: attached.skipped  # after the executor, whose step is closed when the capture looks
        if pair is not None:
            stack.enter_context(pair.attached(pipe, probe))
            if capture is not None:
                capture.received = (1,)
        return RecordHandle(stack.pop_all(), sink, capture, executor)


def refuse_unwritable(path: Path, force: bool, keep_output: bool) -> None:
    """Raise before a model is loaded where the recording, or the image beside it, may not be written."""
    prepare_destination(path, force)
    for ending in OUTPUT_ENDINGS if keep_output else ():
        refuse_existing(path.with_suffix(ending), force)


@dataclass(frozen=True)
class Recorded:
    """One recorded generation. overhead: seconds the pipeline waited for the recording, over its own.

    nonfinite: values the model gave; nonfinite_created: those that storing made. compute: FLOPs of an accelerated run over the
    full run's. notices: for people.
    """

    path: Path
    picture: Path | None
    generated: Generated
    steps: int
    bytes: int
    overhead: float
    nonfinite: int
    nonfinite_created: int
    storage_loss: float
    compute: float | None = None
    notices: tuple[str, ...] = ()


def record_model(
    model: Model,
    call: PipelineCall,
    path: Path,
    *,
    asked_for: RunOptions | None = None,
    taps: Sequence[Tap | str] = (),
    policy: Policy | None = None,
    store_dtype: str | None = None,
    keep_output: bool = True,
    force: bool = False,
    on_step: Callable[[int, int], None] | None = None,
    on_size: Callable[[Expected], None] | None = None,
) -> Recorded:
    """Generate once with a loaded model and record it; the decoded output goes beside the recording unless `keep_output` is off.

    asked_for: what the user typed, kept in the provenance.

    Raises RecordingError after the image is saved when the recording itself could not be completed (a full disk).
    """
    refuse_unwritable(path, force, keep_output)
    with (
        _stop_told_once(),
        record(
            model.pipe,
            path,
            run=RunDescription(
                prompt=call.prompt,
                seed=call.seed,
                negative_prompt=call.negative_prompt,
                guidance=call.guidance,
                model=model.name,
                revision=model.revision,
                arguments=call.arguments,
                options=asked_for or RunOptions(),
                default_policy=model.policy_table,
            ),
            probe=model.probe,
            taps=taps,
            policy=policy,
            store_dtype=store_dtype,
            force=force,
            on_step=on_step,
            on_size=on_size,
            pair=model.pair,
        ) as recorded,
    ):
        generated = generate(model, call)
        _keep_actual_size(recorded, generated)
    picture, trouble = _save_picture(generated, path) if keep_output else (None, "")
    recorder = recorded.recorders[-1]
    _refuse_incomplete(recorder, path, picture, trouble)
    return Recorded(
        path=recorder.path,
        picture=picture,
        generated=generated,
        steps=recorder.steps_done,
        bytes=recorder.bytes_written,
        overhead=recorded.overhead_s / max(generated.wall_s - recorded.overhead_s, 1e-9),
        nonfinite=sum(recorder.nonfinite.values()),
        nonfinite_created=sum(recorder.nonfinite_created.values()),
        storage_loss=max(recorder.storage_loss.values(), default=0.0),
        compute=recorded.summary.compute if recorded.summary else None,
        notices=tuple(r.notice for r in recorded.recorders if r.notice),
    )


def _refuse_incomplete(recorder: Recorder, path: Path, picture: Path | None, trouble: str) -> None:
    """Raise RecordingError where recording or image could not be written to the end. trouble: with the image."""
    if recorder.failure:
        kept = f"; the picture is {picture}" if picture else trouble
        again = "Make room and record again" + (" with --force" if picture and not trouble else "")
        partial = f"what was recorded is {recorder.partial_path.name}" if recorder.steps_done else "no step is on file"
        raise RecordingError(
            f"{path.name} stopped after {recorder.steps_done} steps: {recorder.failure}{kept}. {again}; {partial}."
        )
    if trouble:
        advice = f"It is {picture}; move it to where there is room" if picture else "Make room and record again for the picture"
        raise RecordingError(f"{recorder.path} is complete{trouble}. {advice}.")


def follow(model: Model, call: PipelineCall, *, policy: Policy | None = None) -> None:
    """The part of the process of a pair that does not lead, where the other calls `record_model`: it writes nothing."""
    with record(model.pipe, "", probe=model.probe, policy=policy, pair=model.pair, model=model.name, seed=call.seed):
        generate(model, call)


@contextmanager
def _stop_told_once() -> Iterator[None]:
    """Without the warning of a full disk: the error says the same once the image is saved."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=STOPPED, category=RuntimeWarning)
        yield


def _keep_actual_size(recorded: RecordHandle, generated: Generated) -> None:
    """What came out, beside what was asked for: a model's defaults and roundings are not among the arguments."""
    if generated.frames is None or recorded.recorders[-1].failure:
        return
    frames, height, width = generated.frames.shape[:3]
    recorded.recorders[-1].update_provenance("run", {"actual": {"height": height, "width": width, "frames": frames}})


def _save_picture(generated: Generated, path: Path) -> tuple[Path | None, str]:
    """(where the decoded output lies, what went wrong). A disk that the recording has filled must not cost the generation."""
    if generated.frames is None:
        return None, ""
    target = output_name(path, generated.frames)
    try:
        return save_frames(generated.frames, target), ""
    except OSError as error:
        trouble = f"; its picture {target.name} could not be written: {error.strerror or error}"
    try:
        return save_frames(generated.frames, Path(tempfile.mkdtemp(prefix="janoscope-")) / target.name), trouble
    except OSError:
        return None, trouble
