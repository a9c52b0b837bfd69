"""Capture: turn what a Watch sees into (token, channel) arrays and push them into a Sink, step by step."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import InputError
from ..grid import TokenGrid
from ..probe import ProbeSheet
from .identity import describe_scheduler, describe_transformer, dtype_name
from .layout import grid_of_call, output_tensor, split_variance, text_tokens, to_tokens
from .noise_level import first_step, noise_level, prediction_type
from .watch import NetworkCall, SchedulerStep, Watch

GUIDED = "guided"


@dataclass(frozen=True)
class Generation:
    """What is known when the first step is complete. `branches` begins with `guided`; steps: scheduler steps to come in all.

    dtype: what the network computes in. text_tokens: length of the text that it was given.
   """

    grid: TokenGrid
    prediction_type: str
    branches: tuple[str, ...]
    items: int
    steps: int
    transformer: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    device: str
    dtype: str
    text_tokens: int


@dataclass(frozen=True)
class StepFacts:
    """Scalars of one step. time_s: network seconds by branch; a branch of a batched call is absent from it."""

    timestep: float
    alpha: float
    sigma: float
    time_s: Mapping[str, float]
    peak_bytes: int | None
    absent: tuple[str, ...] = ()


class Sink(Protocol):
    """Where arrays go. `put` must copy what it keeps; dtype is NumPy's name, or `bfloat16` for its bits in uint16."""

    def begin(self, generation: Generation) -> None: ...

    def put(self, signal: str, values: np.ndarray, *, item: int, branch: str, dtype: str) -> None: ...

    def commit(self, facts: StepFacts) -> None: ...

    def end(self, error: BaseException | None) -> None: ...


class Capture:
    """Captures every generation of `pipe` while attached; a context manager. Listener of its own Watch."""

    def __init__(self, pipe: Any, sheet: ProbeSheet, sink: Sink):
        self._pipe, self._sheet, self._sink = pipe, sheet, sink
        self._generation: Generation | None = None
        self._calls: list[NetworkCall] = []
        self.overhead_s = 0.0  # time that the pipeline waited for us
        self._watch = Watch(pipe, sheet.tap.components, self)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.remove(error)

    def remove(self, error: BaseException | None = None) -> None:
        """Detach; a generation under way ends with `error`, or as far as it came."""
        self._watch.remove()
        self._end_generation(error)

    def generation_begins(self) -> None:
        self._end_generation()

    def call_ends(self, call: NetworkCall) -> None:
        self._calls.append(call)

    def step_begins(self, step: SchedulerStep) -> None:
        started = time.perf_counter()
        self._record_step(step)
        self.overhead_s += time.perf_counter() - started

    def _record_step(self, step: SchedulerStep) -> None:
        extra = self._sheet.guidance.extra_call
        calls = [call for call in self._calls if all(call.arguments.get(name) is None for name in extra)]
        self._calls = []
        if self._sheet.guidance.stacked_step:
            step = replace(step, model_output=_first_half(step.model_output), sample=_first_half(step.sample))
        if not calls:
            raise InputError("the scheduler stepped without a call of the network; the probe sheet hooks the wrong component.")
        alpha, sigma = noise_level(self._pipe.scheduler, step.timestep)
        branches = self._branch_outputs(step, calls)
        if self._generation is None:
            self._generation = self._describe(step, calls[0], tuple(branches))
            self._sink.begin(self._generation)
        self._put_signals(step, branches, self._generation.grid)
        times = {GUIDED: sum(call.time_s() for call in calls)}
        if len(calls) == len(branches) - 1:
            times |= {name: call.time_s() for name, call in zip(list(branches)[1:], calls, strict=True)}
        absent = tuple(name for name in self._generation.branches if name not in branches)
        self._sink.commit(StepFacts(step.timestep, alpha, sigma, times, _peak_bytes(step.sample.device), absent))

    def _end_generation(self, error: BaseException | None = None) -> None:
        self._calls = []
        if self._generation is not None:
            self._generation = None
            self._sink.end(error)

    def _describe(self, step: SchedulerStep, call: NetworkCall, branches: tuple[str, ...]) -> Generation:
        module = getattr(self._pipe, call.component)
        scheduler = self._pipe.scheduler
        predicts = self._sheet.output.prediction
        return Generation(
            grid=grid_of_call(self._sheet, module.config, call.arguments, step.sample),
            prediction_type=prediction_type(scheduler) if predicts == "scheduler" else predicts,
            branches=branches,
            items=step.model_output.shape[0],
            steps=len(scheduler.timesteps) - first_step(scheduler),
            transformer=describe_transformer(module),
            scheduler=describe_scheduler(scheduler),
            device=str(step.sample.device),
            dtype=dtype_name(module),
            text_tokens=text_tokens(call.arguments),
        )

    def _branch_outputs(self, step: SchedulerStep, calls: list[NetworkCall]) -> dict[str, Any]:
        """Prediction by branch, `guided` first; a single unguided call has no branch of its own."""
        guided = step.model_output
        outputs = [output_tensor(call.output) for call in calls]
        names = self._sheet.guidance.branches
        if len(calls) > 1:
            if len(calls) > len(names):
                raise InputError(f"{len(calls)} network calls in one step; the probe sheet knows {len(names)} branches. Extend its [guidance].")
            return {GUIDED: guided, **dict(zip(names, outputs, strict=False))}
        items = len(outputs[0])
        if self._sheet.guidance.calls == "batched" and items == len(names) * guided.shape[0]:
            size = guided.shape[0]
            return {GUIDED: guided, **{name: outputs[0][i * size : (i + 1) * size] for i, name in enumerate(names)}}
        return {GUIDED: guided}

    def _put_signals(self, step: SchedulerStep, branches: Mapping[str, Any], grid: TokenGrid) -> None:
        layout, sign = self._sheet.tokens.layout, self._sheet.output.sign
        self._put("sample", step.sample, grid, GUIDED)
        for name, output in branches.items():
            prediction, variance = split_variance(output, grid.channels, layout)
            if name != GUIDED and sign < 0:
                prediction = [-p for p in prediction] if isinstance(prediction, list) else -prediction
            self._put("model_output", prediction, grid, name)
            if variance is not None:
                self._put("predicted_variance", variance, grid, name)

    def _put(self, signal: str, latent: Any, grid: TokenGrid, branch: str) -> None:
        tokens, dtype = to_numpy(to_tokens(latent, self._sheet.tokens.layout, grid))
        for item, values in enumerate(tokens):
            self._sink.put(signal, values, item=item, branch=branch, dtype=dtype)


def _first_half(stacked: torch.Tensor) -> torch.Tensor:
    # with guidance such a pipeline steps both branches' rows, alike; without, its batch is not stacked
    half = stacked.shape[0] // 2
    alike = stacked.shape[0] % 2 == 0 and torch.equal(stacked[:half], stacked[half:])
    return stacked[:half] if alike else stacked


def to_numpy(tensor: torch.Tensor) -> tuple[np.ndarray, str]:
    """(array, dtype name) on the host; bfloat16, which NumPy lacks, as its bits in uint16."""
    host = tensor.detach().to("cpu").contiguous()
    if host.dtype == torch.bfloat16:
        return host.view(torch.uint16).numpy(), "bfloat16"
    array = host.numpy()
    return array, array.dtype.name


def _peak_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
