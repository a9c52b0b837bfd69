"""One generation of a loaded model, and the image or video it made."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from ..capture import Watch
from ..capture.protocols import Pipeline
from ..capture.watch import NetworkCall, SchedulerStep
from ..errors import InputError
from .call import PipelineCall
from .model import Model

_PIPELINES = "diffusers.pipelines"
_INPUT_CHECKS = (_PIPELINES, "diffusers.schedulers")
_NOT_THE_CALLER = ("janoscope", "torch.nn", "diffusers.models")


@dataclass(frozen=True)
class Generated:
    """frames: (frame, row, col, RGB) uint8 of the first item, one frame for an image; latents with output_type latent."""

    frames: np.ndarray | None
    latents: object
    wall_s: float


class _StepCounter:
    """Tells `on_step` (steps done, steps in all) as the scheduler advances."""

    def __init__(self, pipe: Pipeline, on_step: Callable[[int, int], None]):
        self._pipe, self._on_step, self._done = pipe, on_step, 0

    def generation_begins(self) -> None:
        self._done = 0

    def call_ends(self, call: NetworkCall) -> None:
        """Only steps are counted."""

    def step_begins(self, step: SchedulerStep) -> None:
        self._done += 1
        self._on_step(self._done, len(self._pipe.scheduler.timesteps))


def generate(model: Model, call: PipelineCall, on_step: Callable[[int, int], None] | None = None) -> Generated:
    """Run the pipeline once, together with the other process of a pair where the model has one.

    The generator is set back to the seed first, so that the same call gives the same image again.
    """
    arguments = dict(call.arguments)
    arguments["generator"] = torch.Generator("cpu").manual_seed(call.seed)
    started = time.perf_counter()
    watch = nullcontext() if on_step is None else Watch(model.pipe, model.probe.tap.components, _StepCounter(model.pipe, on_step))
    shared = nullcontext() if model.pair is None else model.pair.attached(model.pipe, model.probe)
    try:
        with watch, shared:
            output = model.pipe(**arguments)
    except (ValueError, TypeError) as error:
        if not _is_about_the_call(error):
            raise
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{type(model.pipe).__name__} refuses this call: {said} Change that option.") from error
    wall_s = time.perf_counter() - started
    result = getattr(output, "images" if hasattr(output, "images") else "frames")
    if arguments.get("output_type") == "latent":
        return Generated(None, result, wall_s)
    frames = to_frames(result)
    if arguments.get("output_type", "pil") in ("pil", "np"):
        _tell_other_size(type(model.pipe).__name__, arguments, frames)
    return Generated(frames, None, wall_s)


def _tell_other_size(pipeline: str, arguments: Mapping[str, object], frames: np.ndarray) -> None:
    """Pipelines round sizes to what their networks take, and say so in a log that nobody sees."""
    made = {"height": frames.shape[1], "width": frames.shape[2], "num_frames": len(frames), "video_length": len(frames)}
    other = [f"{name} {arguments[name]} became {size}" for name, size in made.items() if arguments.get(name) not in (None, size)]
    if other:
        warnings.warn(f"{pipeline} makes other sizes than were asked for: {', '.join(other)}.", RuntimeWarning, stacklevel=2)


def _is_about_the_call(error: BaseException) -> bool:
    """Whether a pipeline raised it about what it was called with.

    That is: a pipeline or scheduler itself, or what it had prepare its input (image processor, tokenizer). Errors from inside
    a network or from our hooks are none of the caller's, and keep their traceback.
    """
    modules = []
    trace = error.__traceback__
    while trace is not None:
        modules.append(str(trace.tb_frame.f_globals.get("__name__", "")))
        trace = trace.tb_next
    if modules and modules[-1].startswith(_INPUT_CHECKS):
        return True
    pipeline = max((at for at, module in enumerate(modules) if module.startswith(_PIPELINES)), default=None)
    return pipeline is not None and not any(module.startswith(_NOT_THE_CALLER) for module in modules[pipeline:])


def to_frames(result: Sequence[object] | np.ndarray) -> np.ndarray:
    """What a pipeline returned -> (frame, row, col, RGB) uint8 of the first item. Floats are in 0..1."""
    first = result[0]
    frames = first if isinstance(first, list) else [first]
    if isinstance(first, np.ndarray) and first.ndim == 4:
        frames = list(first)
    arrays = [np.asarray(frame) for frame in frames]
    stacked = np.stack([a if a.dtype == np.uint8 else np.round(np.clip(a, 0, 1) * 255).astype(np.uint8) for a in arrays])
    return stacked if stacked.ndim == 4 else stacked[..., None].repeat(3, -1)
