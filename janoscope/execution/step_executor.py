"""The executor of step-level policies: skips whole steps on a stock pipeline of any family that can be recorded.

It needs no [execution] facts: at a skipped step the network is not called, and a combination of the outputs of computed steps
takes the place of its output (`StepSkipper`).

Guidance branches are told apart by the order of calls within a step, as for recordings.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ..capture.attachments import unwrapped
from ..capture.branches import first_half
from ..capture.describe import config_of, describe_scheduler, describe_transformer
from ..capture.layout import grid_of_call
from ..capture.noise_level import steps_to_come
from ..capture.protocols import Pipeline, Scheduler
from ..capture.sampler_weights import sampler_weights
from ..errors import ExecutionError, InputError
from ..grid import TokenGrid
from ..plan import Cache, CacheBytes, Fingerprint, Plan, Policy, Selection, StepKind, StepSchedule, TokenLevel, plan_from_ranks
from ..plan.fingerprint import Identity, fingerprint_of
from ..probe import Probe
from .caching.forecast import forecast_coordinates
from .counting.flops import CallKind, FlopMeter, shapes_of
from .executor import Executor, check_plan
from .pipeline_executor import PipelineExecutor, refuse_missing_calls
from .refusal import RUN_PLAIN
from .run import CountedCall, counted_step
from .step_skipper import StepSkipper
from .summary import RunSummary


@dataclass(frozen=True)
class _FirstCall:
    """A network call of the first step, when the sampler's own arguments are not known yet.

    branch: component and number of the call within the step. shapes: of the arguments.
    """

    branch: tuple[str, int]
    shapes: object
    network: torch.nn.Module
    arguments: Mapping[str, object]
    output: object


class _Generation:
    """One generation: the network calls of its first step, then a skipper that knows the sampler."""

    def __init__(self) -> None:
        self.summary = RunSummary(cache_strategy="outputs")
        self.skipper: StepSkipper | None = None
        self.plan: Plan | None = None
        self.steps: int | None = None
        self.skipped: np.ndarray | None = None  # bool (token,): all, after a skipped step; None after a computed one
        self.first_calls: list[_FirstCall] = []
        self.step = 0
        self.calls: list[CountedCall] = []  # of this step

    def end(self) -> None:
        self.skipper = None
        self.first_calls = []


class StepExecutor(PipelineExecutor[_Generation]):
    """Skips whole steps. Attached to `pipe` from construction until `remove`; a context manager.

    Args:
        policy: a step-level policy; makes a plan for each generation.
        plan: a plan of such a policy, obeyed as it is; refused when it was made for another run.
        identity: what the pipeline cannot show: model, guidance, prompt, seed; or what says it when a run begins.
        any_prompt: accept a plan made for another prompt or seed.
        on_select: called with what every step computes, before it does.
        meter: of FLOPs, shared by executors of one pipeline so that each kind of call is counted once.

    Raises:
        InputError: policy and plan do not fit.
        ExecutionError: the sampler's skipped steps cannot be corrected; a call cannot be accelerated. The pipeline is restored.
    """

    def __init__(
        self,
        pipe: Pipeline,
        probe: Probe,
        *,
        policy: Policy | None = None,
        plan: Plan | None = None,
        identity: Identity | Callable[[], Identity] | None = None,
        any_prompt: bool = False,
        on_select: Callable[[Selection], object] | None = None,
        meter: FlopMeter | None = None,
    ):
        if (policy is None) == (plan is None):
            raise InputError("the step executor needs a policy or a plan, one of the two.")
        in_force = plan.policy if plan else policy
        if in_force is None or not in_force.is_step_level:
            raise InputError("the step executor needs a policy with a [schedule].")
        self.policy = in_force
        self._identity, self._any_prompt, self._on_select = identity or Identity(), any_prompt, on_select
        self._meter = meter or FlopMeter()
        super().__init__(pipe, probe, plan)

    def _new_run(self) -> _Generation:
        return _Generation()

    def _hook_network(self, name: str, network: torch.nn.Module) -> Iterator[Callable[[], None]]:
        yield self._patch_forward(name, network).remove

    def _call(
        self, name: str, network: torch.nn.Module, arguments: Mapping[str, object], compute: Callable[[], object]
    ) -> object:
        network, run = unwrapped(network), self._run
        if run.steps is not None and run.step >= run.steps:
            raise ExecutionError(f"the pipeline takes more than its {run.steps} steps, which cannot be accelerated; {RUN_PLAIN}.")
        branch, shapes = (name, len(run.calls)), shapes_of(arguments)
        counted, kind = self._meter.network(name, network), CallKind(shapes)
        counted.note(kind, arguments, lambda: _estimated_flops(network, arguments))
        if run.skipper is None:
            run.calls.append(CountedCall(counted, kind, kind))
            output = compute()
            run.first_calls.append(_FirstCall(branch, shapes, network, arguments, output))
            return output
        if torch.is_grad_enabled() and not run.skipper.is_computed(run.step):
            raise ExecutionError("kept outputs carry no gradient; run the pipeline under torch.no_grad().")
        if not run.calls and self._on_select is not None:
            self._on_select(_selection(run.skipper, run.step))
        before = run.skipper.network_calls
        output = run.skipper(run.step, compute, branch, shapes)
        run.calls.append(CountedCall(counted, kind if run.skipper.network_calls > before else None, kind))
        return output

    def _step_ends(self, scheduler: Scheduler, arguments: Mapping[str, object]) -> None:
        run = self._run
        refuse_missing_calls(len(run.calls))
        skipper = run.skipper or self._first_step(scheduler, arguments)
        computed = [call for call in run.calls if call.done is not None]
        whole, tokens = len(computed) == len(run.calls), run.summary.image_tokens
        run.skipped = None if whole else np.ones(tokens, dtype=bool)
        kind = StepKind.REFRESH if whole else StepKind.REUSE
        forced = bool(computed) and not skipper.is_computed(run.step)
        run.summary.add(partial(counted_step, run.calls, run.step, str(kind), tokens if whole else 0, forced))
        run.summary.note_cache(CacheBytes(skipper.bytes, 0))
        run.step, run.calls = run.step + 1, []

    def _first_step(self, scheduler: Scheduler, arguments: Mapping[str, object]) -> StepSkipper:
        """The skipper of a generation: all that a schedule needs is known now, the sampler, its arguments, the grid."""
        run, last = self._run, self._run.first_calls[-1]
        run.steps = steps_to_come(self._pipe, scheduler, _timestep(arguments))
        sample = arguments["sample"]
        assert isinstance(sample, torch.Tensor)
        sample = first_half(sample) if self._probe.guidance.stacked_step else sample
        grid = grid_of_call(self._probe, config_of(last.network), last.arguments, sample)
        run.summary.image_tokens = grid.count
        described = describe_transformer(last.network), describe_scheduler(scheduler)
        identity = self._identity() if callable(self._identity) else self._identity
        fingerprint = fingerprint_of(*described, grid, run.steps, identity)
        policy = self.policy
        if self._given_plan is not None:
            check_plan(self._given_plan, fingerprint, self._any_prompt)
            policy = _as_planned(self._given_plan)
        run.skipper = self._skipper(policy, scheduler, arguments, run.steps)
        run.plan = self._plan(run.skipper, grid, fingerprint)
        for call in run.first_calls:
            run.skipper(0, partial(_same, call.output), call.branch, call.shapes)
        run.first_calls = []
        return run.skipper

    def _skipper(self, policy: Policy, scheduler: Scheduler, arguments: Mapping[str, object], steps: int) -> StepSkipper:
        coordinate: Sequence[float] = forecast_coordinates(scheduler)[-steps:]
        weights = sampler_weights(scheduler, arguments)[-steps:] if policy.output == "corrected" else None
        skipper = StepSkipper(policy, coordinate, weights)
        if skipper.carried and policy.schedule is not None:
            warnings.warn(
                f"policy {policy.name} lists steps of a run of {policy.schedule.steps}; this run of {steps} computes "
                "its share of them where the same sigmas are passed. It was not measured so.",
                RuntimeWarning,
                stacklevel=2,
            )
        return skipper

    def _plan(self, skipper: StepSkipper, grid: TokenGrid, fingerprint: Fingerprint) -> Plan:
        """What this generation does, with the steps that were carried over as a list of its own."""
        schedule = StepSchedule(len(skipper.coordinate), skipper.computed)
        policy = replace(self.policy, schedule=schedule, learned=() if skipper.carried else self.policy.learned)
        ranks = np.full(grid.count, TokenLevel.ACTIVE.rank)
        return plan_from_ranks(policy, ranks, fingerprint)


def _selection(skipper: StepSkipper, step: int) -> Selection:
    if skipper.is_computed(step):
        return Selection(StepKind.REFRESH, None)
    return Selection(StepKind.REUSE, np.empty(0, dtype=np.int64))


def _same(output: object) -> object:
    return output


def _timestep(arguments: Mapping[str, object]) -> float:
    """The first step's timestep; 0 where the scheduler takes none."""
    return float(torch.as_tensor(arguments["timestep"]).max()) if "timestep" in arguments else 0.0


def executor_for(
    pipe: Pipeline,
    probe: Probe,
    *,
    policy: Policy | None = None,
    plan: Plan | None = None,
    cache: Cache | None = None,
    identity: Identity | Callable[[], Identity] | None = None,
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
            probe,
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
        pipe, probe, policy=policy, plan=plan, identity=identity, any_prompt=any_prompt, on_select=on_select, meter=meter
    )


def _as_planned(plan: Plan) -> Policy:
    """The plan's own steps, which may have been edited by hand."""
    computed = tuple(step for step, kind in enumerate(plan.step_kind) if kind.is_full)
    learned = plan.policy.learned if plan.policy.schedule and plan.policy.schedule.computed == computed else ()
    return replace(plan.policy, schedule=StepSchedule(len(plan.step_kind), computed), learned=learned)


def _estimated_flops(network: torch.nn.Module, arguments: Mapping[str, object]) -> int:
    """Where a network cannot be traced: shares of one network come out right, larger batches and networks cost more."""
    items = max((value.shape[0] for value in arguments.values() if isinstance(value, torch.Tensor) and value.ndim), default=1)
    return 2 * items * sum(parameter.numel() for parameter in network.parameters())
