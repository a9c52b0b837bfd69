"""The executor of step-level policies: skips whole steps on a stock pipeline of any family that can be recorded.

It needs no [execution] facts: at a skipped step the network is not called, and a combination of the outputs of computed steps
takes the place of its output (`StepSkipper`).

Guidance branches are told apart by the order of calls within a step, as for recordings.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ..capture.attachments import unwrapped
from ..capture.branches import first_half
from ..capture.describe import describe_scheduler, describe_transformer
from ..capture.followed import Followed
from ..capture.layout import grid_of_call
from ..capture.noise_level import steps_to_come
from ..capture.patch import InstancePatch
from ..capture.sampler_weights import sampler_weights
from ..capture.watch import networks_of
from ..errors import ExecutionError, InputError
from ..grid import TokenGrid
from ..plan import Cache, CacheBytes, Plan, Policy, Selection, StepKind, StepSchedule, TokenLevel, plan_from_ranks
from ..plan.fingerprint import Identity, fingerprint_of
from ..probe import Probe
from .caching.forecast import forecast_coordinates
from .executor import Executor, check_plan
from .flops import CallKind, FlopMeter, shapes_of
from .refusal import RUN_PLAIN, refuse_held_scheduler
from .run import CountedCall, counted_step
from .step_skipper import StepSkipper
from .summary import RunSummary

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]
_Key = tuple[str, int]


class _Generation:
    """One generation: the network calls of its first step, then a skipper that knows the sampler."""

    def __init__(self) -> None:
        self.account = RunSummary(cache_strategy="outputs")
        self.skipper: StepSkipper | None = None
        self.plan: Plan | None = None
        self.steps: int | None = None
        self.skipped: np.ndarray | None = None  # bool (token,): all, after a skipped step; None after a computed one
        self.first_calls: list[tuple[_Key, object, Any]] = []
        self.step = 0
        self.calls: list[CountedCall] = []  # of this step


class StepExecutor:
    """Attached to `pipe` from construction until `remove`; a context manager. Every generation starts afresh.

    Args:
        policy: a step-level policy; makes a plan for each generation.
        plan: a plan of such a policy, obeyed as it is; refused when it was made for another run.
        identity: what the pipeline cannot show: model, guidance, prompt, seed.
        any_prompt: accept a plan made for another prompt or seed.
        on_select: told what every step computes, before it does.
        meter: of FLOPs, shared by executors of one pipeline so that each kind of call is counted once.

    Raises:
        InputError: policy and plan do not fit.
        ExecutionError: the sampler's skipped steps cannot be corrected; a call cannot be accelerated. The pipeline is restored.
    """

    def __init__(
        self,
        pipe: Any,
        sheet: Probe,
        *,
        policy: Policy | None = None,
        plan: Plan | None = None,
        identity: Identity | None = None,
        any_prompt: bool = False,
        on_select: Callable[[Selection], object] | None = None,
        meter: FlopMeter | None = None,
    ):
        if (policy is None) == (plan is None):
            raise InputError("the step executor needs a policy or a plan, one of the two.")
        self._policy, self._given_plan = (plan.policy if plan else policy), plan
        if self._policy is None or not self._policy.is_step_level:
            raise InputError("the step executor needs a policy with a [schedule].")
        self._pipe, self._probe = pipe, sheet
        self._identity, self._any_prompt, self._on_select = identity or Identity(), any_prompt, on_select
        self._calls_seen = self._steps_seen = 0
        self._any_call, self._meter = False, meter or FlopMeter()
        self._run = _Generation()
        networks_of(pipe, sheet.tap.components)
        self._parts = Followed(pipe, (*sheet.tap.components, "scheduler"), self._attach, lambda _: self._begin())

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        assert self._policy is not None
        return self._policy

    @property
    def account(self) -> RunSummary:
        """What the last generation computed; an empty account before the first."""
        return self._run.account

    @property
    def plan(self) -> Plan | None:
        """The plan given, or made by the last generation; None while there is none."""
        return self._given_plan or self._run.plan

    @property
    def skipped(self) -> np.ndarray | None:
        """Tokens that the last closed step did not compute, bool (token,); None when it computed all."""
        return self._run.skipped

    def __enter__(self) -> "StepExecutor":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.remove()
        if error is None:
            self.refuse_unseen()

    def remove(self) -> None:
        """Give the pipeline back as it was and drop the kept outputs; the account and the plan stay readable."""
        self._parts.remove()
        self._run.skipper = None
        self._run.first_calls = []

    def refuse_unseen(self) -> None:
        """Raise ExecutionError where the network was called and no step was seen: nothing was accelerated."""
        if self._calls_seen and not self._steps_seen:
            raise ExecutionError(
                f"{self._calls_seen} network calls came without a step of {type(self._pipe.scheduler).__name__}, so nothing was "
                f"accelerated: the pipeline samples with another scheduler; {RUN_PLAIN}."
            )

    @property
    def is_unused(self) -> bool:
        """Whether not one network call was seen."""
        return not self._any_call

    # --- on the pipeline's instances ---

    def _attach(self, name: str, part: Any) -> Iterator[Callable[[], None]]:
        if name == "scheduler":
            refuse_held_scheduler(part)
            yield self._patch(part, "set_timesteps", self._wrap_set_timesteps).remove
            yield self._patch(part, "step", self._wrap_step(part)).remove
        elif isinstance(part, torch.nn.Module):
            yield self._patch(part, "forward", self._wrap_network(name, part)).remove

    def _patch(self, owner: Any, name: str, wrap: Wrapper) -> InstancePatch:
        return InstancePatch(owner, name, wrap, by="janoscope.StepExecutor")

    def _begin(self) -> None:
        self._run = _Generation()
        self._calls_seen = self._steps_seen = 0

    def _wrap_network(self, name: str, module: torch.nn.Module) -> Wrapper:
        network = unwrapped(module)
        signature = inspect.signature(type(network).forward)

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                self._parts.follow()
                if not self._parts.holds(name, module):
                    return original(*args, **kwargs)  # no longer the pipeline's
                arguments = signature.bind(network, *args, **kwargs).arguments
                self._any_call, self._calls_seen = True, self._calls_seen + 1
                return self._call(name, network, arguments, lambda: original(*args, **kwargs))

            return forward

        return wrap

    def _wrap_set_timesteps(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._parts.follow()
            self._begin()
            return result

        return set_timesteps

    def _wrap_step(self, scheduler: Any) -> Wrapper:
        signature = inspect.signature(type(scheduler).step)

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any, **kwargs: Any) -> Any:
                given = signature.bind(scheduler, *args, **kwargs).arguments
                self._steps_seen += 1
                self._step_ends(scheduler, given)
                return original(*args, **kwargs)

            return step

        return wrap

    # --- a generation ---

    def _call(self, name: str, network: Any, arguments: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        run = self._run
        if run.steps is not None and run.step >= run.steps:
            raise ExecutionError(f"the pipeline takes more than its {run.steps} steps, which cannot be accelerated; {RUN_PLAIN}.")
        key, shapes = (name, len(run.calls)), shapes_of(arguments)
        counted, kind = self._meter.network(name, network), CallKind(shapes)
        counted.note(kind, arguments, lambda: _estimated_flops(network, arguments))
        if run.skipper is None:
            self._network, self._network_config, self._arguments = network, network.config, arguments
            run.calls.append(CountedCall(counted, kind, kind))
            output = compute()
            run.first_calls.append((key, shapes, output))
            return output
        if torch.is_grad_enabled() and not run.skipper.is_computed(run.step):
            raise ExecutionError("kept outputs carry no gradient; run the pipeline under torch.no_grad().")
        if not run.calls and self._on_select is not None:
            self._on_select(self._selection(run.step))
        before = run.skipper.network_calls
        output = run.skipper(run.step, compute, key, shapes)
        run.calls.append(CountedCall(counted, kind if run.skipper.network_calls > before else None, kind))
        return output

    def _selection(self, step: int) -> Selection:
        assert self._run.skipper is not None
        if self._run.skipper.is_computed(step):
            return Selection(StepKind.REFRESH, None)
        return Selection(StepKind.REUSE, np.empty(0, dtype=np.int64))

    def _step_ends(self, scheduler: Any, given: Mapping[str, Any]) -> None:
        run = self._run
        if not run.calls:
            raise ExecutionError(
                "the scheduler stepped and no network call passed the executor: something took its hooks off. Attach the "
                "executor last, after whatever else changes the network."
            )
        if run.skipper is None:
            self._first_step(scheduler, given)
        assert run.skipper is not None
        computed = [call for call in run.calls if call.done is not None]
        whole, tokens = len(computed) == len(run.calls), run.account.image_tokens
        run.skipped = None if whole else np.ones(tokens, dtype=bool)
        kind = StepKind.REFRESH if whole else StepKind.REUSE
        forced = bool(computed) and not run.skipper.is_computed(run.step)
        run.account.add(partial(counted_step, run.calls, run.step, str(kind), tokens if whole else 0, forced))
        run.account.note_cache(CacheBytes(run.skipper.bytes, 0))
        run.step, run.calls = run.step + 1, []

    def _first_step(self, scheduler: Any, given: Mapping[str, Any]) -> None:
        """All that a schedule needs is known now: the sampler, its arguments, the grid."""
        run, policy = self._run, self.policy
        timestep = float(torch.as_tensor(given["timestep"]).max()) if "timestep" in given else 0.0
        run.steps = steps_to_come(self._pipe, scheduler, timestep)
        sample = first_half(given["sample"]) if self._probe.guidance.stacked_step else given["sample"]
        grid = grid_of_call(self._probe, self._network_config, self._arguments, sample)
        run.account.image_tokens = grid.count
        coordinate = forecast_coordinates(scheduler)
        coordinate = coordinate[len(coordinate) - run.steps :]
        weights = None
        if policy.output == "corrected":
            weights = sampler_weights(scheduler, given)
            weights = weights[len(weights) - run.steps :]
        if self._given_plan is not None:
            check_plan(self._given_plan, self._fingerprint(scheduler, grid), self._any_prompt)
            policy = _as_planned(self._given_plan)
        run.skipper = StepSkipper(policy, coordinate, weights)
        schedule = policy.schedule
        if run.skipper.carried and schedule is not None:
            warnings.warn(
                f"policy {policy.name} lists steps of a run of {schedule.steps}; this run of {run.steps} computes "
                "its share of them where the same sigmas are passed. It was not measured so.",
                RuntimeWarning,
                stacklevel=2,
            )
        run.plan = self._plan(scheduler, grid, run.skipper)
        for key, shapes, output in run.first_calls:
            run.skipper(0, partial(_given, output), key, shapes)
        run.first_calls = []

    def _plan(self, scheduler: Any, grid: TokenGrid, skipper: StepSkipper) -> Plan:
        """What this generation does, with the steps that were carried over as a list of its own."""
        schedule = StepSchedule(len(skipper.coordinate), skipper.computed)
        policy = replace(self.policy, schedule=schedule, learned=() if skipper.carried else self.policy.learned)
        ranks = np.full(grid.count, TokenLevel.ACTIVE.rank)
        return plan_from_ranks(policy, ranks, self._fingerprint(scheduler, grid))

    def _fingerprint(self, scheduler: Any, grid: TokenGrid) -> Any:
        assert self._run.steps is not None
        described = describe_transformer(self._network), describe_scheduler(scheduler)
        return fingerprint_of(*described, grid, self._run.steps, self._identity)


def executor_for(
    pipe: Any,
    sheet: Probe,
    *,
    policy: Policy | None = None,
    plan: Plan | None = None,
    cache: Cache | None = None,
    identity: Identity | None = None,
    any_prompt: bool = False,
    on_select: Callable[[Selection], object] | None = None,
    meter: FlopMeter | None = None,
) -> Executor | StepExecutor:
    """The executor that a policy or plan asks for: of tokens, or of whole steps.

    Raises:
        InputError: a cache was given for a policy that skips whole steps, which keeps nothing of attentions.
    """
    in_force = plan.policy if plan else policy
    if in_force is None or not in_force.is_step_level:
        return Executor(
            pipe,
            sheet,
            policy=policy,
            plan=plan,
            identity=identity,
            any_prompt=any_prompt,
            on_select=on_select,
            cache=cache,
            meter=meter,
        )
    if cache is not None:
        raise InputError(f"policy {in_force.name} skips whole steps and caches nothing of attentions; leave the cache out.")
    return StepExecutor(
        pipe, sheet, policy=policy, plan=plan, identity=identity, any_prompt=any_prompt, on_select=on_select, meter=meter
    )


def _as_planned(plan: Plan) -> Policy:
    """The plan's own steps, which may have been edited by hand."""
    computed = tuple(step for step, kind in enumerate(plan.step_kind) if kind.is_full)
    learned = plan.policy.learned if plan.policy.schedule and plan.policy.schedule.computed == computed else ()
    return replace(plan.policy, schedule=StepSchedule(len(plan.step_kind), computed), learned=learned)


def _given(output: Any) -> Any:
    return output


def _estimated_flops(network: torch.nn.Module, arguments: Mapping[str, Any]) -> int:
    """Where a network cannot be traced: shares of one network come out right, larger batches and networks cost more."""
    items = max((value.shape[0] for value in arguments.values() if isinstance(value, torch.Tensor) and value.ndim), default=1)
    return 2 * items * sum(parameter.numel() for parameter in network.parameters())
