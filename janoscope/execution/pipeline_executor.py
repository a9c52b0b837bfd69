"""What both executors share: where they stand on a pipeline's instances, and how generations begin, step and end.

Methods are replaced on the networks and the scheduler that the pipeline holds, and nowhere else.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch

from ..capture.attachments import unwrapped
from ..capture.followed import Followed
from ..capture.patch import InstancePatch, Wrapper
from ..capture.protocols import Pipeline, Scheduler
from ..capture.watch import networks_of
from ..errors import ExecutionError
from ..plan import Plan
from ..probe import Probe
from .refusal import RUN_PLAIN, refuse_held_scheduler
from .summary import RunSummary


class Generation(Protocol):
    """State of one generation under an executor.

    summary: what it computed so far. skipped: bool (token,), not computed at the last closed step; None: all were.
    """

    summary: RunSummary
    skipped: np.ndarray | None

    @property
    def plan(self) -> Plan | None:
        """The plan in force; None while there is none."""
        ...

    def end(self) -> None:
        """Let go of whatever was kept of outputs and attentions; the summary stays readable."""
        ...


AnyGeneration = TypeVar("AnyGeneration", bound=Generation)


class PipelineExecutor(ABC, Generic[AnyGeneration]):
    """Attached to `pipe` from construction until `remove`; a context manager. Every generation starts afresh.

    An implementation prepares itself, then calls `_attach`.
    """

    def __init__(self, pipe: Pipeline, probe: Probe, plan: Plan | None):
        self._pipe, self._probe, self._given_plan = pipe, probe, plan
        self._calls_seen = self._steps_seen = 0  # of the generation
        self._any_call = False
        networks_of(pipe, probe.tap.components)  # refuses a pipeline without any
        self._run = self._new_run()
        self._parts = Followed(pipe, (*probe.tap.components, "scheduler"), self._attach, self._replaced)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._pipe).__name__}, {self._probe.family})"

    @property
    def summary(self) -> RunSummary:
        """What the last generation computed; an empty summary before the first."""
        return self._run.summary

    @property
    def plan(self) -> Plan | None:
        """The plan given, or made by the last generation; None while there is none."""
        return self._given_plan or self._run.plan

    @property
    def skipped(self) -> np.ndarray | None:
        """Tokens that the last closed step did not compute, bool (token,); None when it computed all."""
        return self._run.skipped

    @property
    def is_unused(self) -> bool:
        """Whether not one network call was seen."""
        return not self._any_call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.remove()
        if error is None:
            self.refuse_unseen()

    def remove(self) -> None:
        """Give the pipeline back as it was and let go of caches and outputs; the summary and the plan stay readable."""
        self._parts.remove()
        self._run.end()

    def refuse_unseen(self) -> None:
        """Raise ExecutionError where the network was called and no step was seen: the generation was not accelerated."""
        if self._calls_seen and not self._steps_seen:
            raise ExecutionError(
                f"{self._calls_seen} network calls came without a step of {type(self._pipe.scheduler).__name__}, so nothing was "
                f"accelerated: the pipeline samples with another scheduler; {RUN_PLAIN}."
            )

    # --- what an implementation says ---

    @abstractmethod
    def _new_run(self) -> AnyGeneration:
        """The state of a generation that begins."""

    @abstractmethod
    def _hook_network(self, name: str, network: torch.nn.Module) -> Iterator[Callable[[], None]]:
        """Replace what it needs on a network, with `_patch_forward` last; gives what takes each replacement off."""

    @abstractmethod
    def _call(
        self, name: str, network: torch.nn.Module, arguments: Mapping[str, object], compute: Callable[[], object]
    ) -> object:
        """One network call; gives what the pipeline gets."""

    @abstractmethod
    def _step_ends(self, scheduler: Scheduler, arguments: Mapping[str, object]) -> None:
        """The scheduler is about to step; arguments: of its `step`, by name."""

    def _check_networks(self) -> None:
        """Timesteps were set: refuse networks that were changed since they were hooked."""

    def _replaced(self, names: set[str]) -> None:
        """Other objects were attached to: another scheduler, whose set_timesteps nobody could see, or another network."""
        self._begin()

    # --- on the pipeline's instances ---

    def _attach(self, name: str, part: Any) -> Iterator[Callable[[], None]]:
        if name == "scheduler":
            refuse_held_scheduler(part)
            yield self._patch(part, "set_timesteps", self._wrap_set_timesteps).remove
            yield self._patch(part, "step", self._wrap_step(part)).remove
        elif isinstance(part, torch.nn.Module):
            yield from self._hook_network(name, part)

    def _patch(self, owner: object, name: str, wrap: Wrapper) -> InstancePatch:
        return InstancePatch(owner, name, wrap, by=f"janoscope.{type(self).__name__}")

    def _patch_forward(self, name: str, module: torch.nn.Module) -> InstancePatch:
        network = unwrapped(module)
        signature = inspect.signature(type(network).forward)

        def wrap(original: Callable[..., object]) -> Callable[..., object]:
            def forward(*args: object, **kwargs: object) -> object:
                self._parts.follow()
                if not self._parts.holds(name, module):
                    return original(*args, **kwargs)  # no longer the pipeline's
                arguments = signature.bind(network, *args, **kwargs).arguments
                seen, self._calls_seen, self._any_call = self._calls_seen, 0, True
                output = self._call(name, network, arguments, lambda: original(*args, **kwargs))
                self._calls_seen = seen + 1  # a call that was broken off ended its generation: nothing of it is missing
                return output

            return forward

        return self._patch(module, "forward", wrap)

    def _wrap_set_timesteps(self, original: Callable[..., object]) -> Callable[..., object]:
        def set_timesteps(*args: object, **kwargs: object) -> object:
            result = original(*args, **kwargs)
            self._parts.follow()
            self._check_networks()
            self._begin()
            return result

        return set_timesteps

    def _wrap_step(self, scheduler: Scheduler) -> Wrapper:
        signature = inspect.signature(type(scheduler).step)

        def wrap(original: Callable[..., object]) -> Callable[..., object]:
            def step(*args: object, **kwargs: object) -> object:
                arguments = signature.bind(scheduler, *args, **kwargs).arguments
                self._steps_seen += 1
                self._step_ends(scheduler, arguments)
                return original(*args, **kwargs)

            return step

        return wrap

    def _begin(self) -> None:
        """A generation begins."""
        self._run.end()
        self._run = self._new_run()
        self._calls_seen = self._steps_seen = 0


def refuse_missing_calls(calls: int) -> None:
    """Refuse a scheduler step before which no network call passed."""
    if calls == 0:
        raise ExecutionError(
            "the scheduler stepped and no network call passed the executor: something took its hooks off. Attach the "
            "executor last, after whatever else changes the network."
        )
