"""The executor: runs a plan, a policy that becomes a plan after its warm-up, or a selector, on a stock pipeline.

It replaces methods on the pipeline's own instances and hands what it meets to a `Run`, one a generation. It decides nothing: a
selector says what to compute.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..capture.followed import Followed
from ..capture.patch import InstancePatch
from ..capture.watch import networks_of
from ..errors import ExecutionError, InputError
from ..grid import TokenGrid
from ..plan import Cache, Fingerprint, Plan, PlanSelector, Policy, Selection, Selector, step_kinds
from ..plan.fingerprint import Identity
from ..probe import Probe, as_probe
from .flops import FlopMeter
from .hooks import CallState, NetworkHooks
from .refusal import RUN_PLAIN, refuse_attached, refuse_cache, refuse_compiled, refuse_held_scheduler, refuse_noise, refuse_policy
from .run import Run
from .summary import RunSummary
from .warmup import Choosing, Planned, Steering

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


class Executor:
    """Attached to `pipe` from construction until `remove`; a context manager. Every generation starts afresh.

    Args:
        pipe: a diffusers pipeline. probe: its family's probe, or the path of its file; it needs an [execution] section.
        policy: makes a plan of its own for each generation, after the warm-up.
        plan: obeyed as it is; refused when it was made for another model, grid, schedule, guidance, prompt or seed.
        selector: chooses without a plan: called with (steps, grid), gives the selector of one generation.
        choose: what obeys the plan, where there is one; controls put another selector here.
        identity: what the pipeline cannot show: model, guidance, prompt, seed.
        any_prompt: accept a plan made for another prompt or seed.
        meter: shares the FLOP counts of another executor of the same pipeline, so that nothing is counted twice.
        on_select: told what every step computes, before it does.
        cache: what is kept of attentions, in the place of the policy's or the plan's own.

    Raises:
        ExecutionError: the family, a module or a call cannot be accelerated correctly; the pipeline is restored.
        InputError: policy and plan do not fit; names the field.
    """

    def __init__(
        self,
        pipe: Any,
        probe: Probe | str | Path,
        *,
        policy: Policy | None = None,
        plan: Plan | None = None,
        selector: Callable[[int, TokenGrid], Selector] | None = None,
        choose: Callable[[Plan], Selector] = PlanSelector,
        identity: Identity | None = None,
        any_prompt: bool = False,
        meter: FlopMeter | None = None,
        on_select: Callable[[Selection], object] | None = None,
        cache: Cache | None = None,
    ):
        if sum(given is not None for given in (policy, plan, selector)) != 1:
            raise InputError("the executor needs a policy, a plan or a selector, one of the three.")
        sheet = as_probe(probe)
        if sheet.execution is None:
            raise ExecutionError(f"{sheet.title} can be recorded and analysed, not executed: its probe has no [execution].")
        if cache is not None:
            policy, plan = policy and replace(policy, cache=cache), plan and plan.with_cache(cache)
        self._given_policy, self._given_plan, self._given_selector = policy, plan, selector
        self._cache = cache or (self.policy.cache if self.policy else Cache())
        refuse_cache(self._cache)
        if self.policy is not None:
            refuse_policy(self.policy, planned=plan is not None)
        self._pipe, self._probe, self._choose = pipe, sheet, choose
        self._identity, self._any_prompt, self._meter = identity or Identity(), any_prompt, meter or FlopMeter()
        self._on_select = on_select
        self._call = CallState()
        self._networks: dict[str, tuple[NetworkHooks, InstancePatch]] = {}
        self._calls_seen = self._steps_seen = 0  # of the generation
        self._any_call = False
        self._run = self._new_run()
        networks_of(pipe, sheet.tap.components)  # refuses a pipeline without any
        self._parts = Followed(pipe, (*sheet.tap.components, "scheduler"), self._attach, self._replaced)

    @property
    def policy(self) -> Policy | None:
        """The policy in force: given, or the plan's own; None under a selector."""
        return self._given_plan.policy if self._given_plan else self._given_policy

    @property
    def account(self) -> RunSummary:
        """What the last generation computed; an empty account before the first."""
        return self._run.account

    @property
    def plan(self) -> Plan | None:
        """The plan given, or made by the last generation; None while there is none."""
        return self._run.steering.plan if self._run.steering else self._given_plan

    @property
    def skipped(self) -> np.ndarray | None:
        """Tokens that the last closed step did not compute, bool (token,); None when it computed all."""
        return self._run.skipped

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.remove()
        if error is None:
            self.refuse_unseen()

    def remove(self) -> None:
        """Give the pipeline back as it was and drop the caches; the account and the plan stay readable."""
        self._parts.remove()
        self._run.end()

    def refuse_unseen(self) -> None:
        """Raise ExecutionError where the network was called and no step was seen: the generation was not accelerated."""
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
        assert self._probe.execution is not None
        if name == "scheduler":
            refuse_held_scheduler(part)
            yield self._patch(part, "set_timesteps", self._wrap_set_timesteps).remove
            yield self._patch(part, "step", self._wrap_step(part)).remove
        elif isinstance(part, torch.nn.Module):
            refuse_compiled(name, part)
            refuse_attached(name, part)
            hooks = NetworkHooks(name, part, self._probe.execution, self._call)
            yield hooks.remove
            patch = self._patch(part, "forward", self._wrap_network(hooks, part))
            yield patch.remove
            self._networks[name] = hooks, patch

    def _replaced(self, names: set[str]) -> None:
        """Another scheduler, whose set_timesteps nobody could see, or another network, of which no count holds."""
        if names - {"scheduler"}:
            self._meter = FlopMeter()
        self._begin_generation()

    def _begin_generation(self) -> None:
        self._run.end()
        self._run = self._new_run()
        self._calls_seen = self._steps_seen = 0

    def _patch(self, owner: Any, name: str, wrap: Wrapper) -> InstancePatch:
        return InstancePatch(owner, name, wrap, by="janoscope.Executor")

    def _wrap_network(self, hooks: NetworkHooks, module: torch.nn.Module) -> Wrapper:
        signature = inspect.signature(type(module).forward)

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                self._parts.follow()
                if not self._parts.holds(hooks.name, module):
                    return original(*args, **kwargs)  # no longer the pipeline's
                arguments = signature.bind(module, *args, **kwargs).arguments
                seen, self._calls_seen, self._any_call = self._calls_seen, 0, True
                output = self._run.call(hooks, self._call, module, arguments, lambda: original(*args, **kwargs))
                self._calls_seen = seen + 1  # a call that was broken off ended its generation: nothing of it is missing
                return output

            return forward

        return wrap

    def _wrap_set_timesteps(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._parts.follow()
            for hooks, patch in self._networks.values():
                refuse_attached(hooks.name, hooks.module, attached=True)
                hooks.check_in_place()
                patch.renew()
            self._begin_generation()
            return result

        return set_timesteps

    def _wrap_step(self, scheduler: Any) -> Wrapper:
        signature = inspect.signature(type(scheduler).step)

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any, **kwargs: Any) -> Any:
                given = signature.bind(scheduler, *args, **kwargs).arguments
                if self.policy is not None and self.policy.output == "corrected":
                    refuse_noise(given)
                self._steps_seen += 1
                self._run.step_ends(given["sample"], given["model_output"])
                return original(*args, **kwargs)

            return step

        return wrap

    # --- what steers a generation ---

    def _new_run(self) -> Run:
        made = self._identity, self._meter, self._steer, self._on_select
        return Run(self._pipe, self._probe, self.policy, self._cache, *made)

    def _steer(self, run: Run) -> Steering:
        if self._given_selector is not None:
            return Choosing(self._given_selector(run.steps, run.grid), run.grid, run.sigma())
        policy, plan = self.policy, self._given_plan
        assert policy is not None
        if plan is not None:
            check_plan(plan, run.fingerprint, self._any_prompt)
            return Planned(plan.step_kind, self._choose, plan=plan, forecast_keys=policy.cache.forecast)
        warmup = run.warmup(policy)
        return Planned(
            step_kinds(policy, run.steps),
            self._choose,
            collect=warmup.add,
            make_plan=lambda: warmup.make_plan(run.facts()),
            warmup=policy.warmup,
            forecast_keys=policy.cache.forecast,
        )


def check_plan(plan: Plan, fingerprint: Fingerprint, any_prompt: bool) -> None:
    """Refuse a plan that was made for another run, naming the fields that differ."""
    differences = plan.fingerprint.difference(fingerprint, any_prompt=any_prompt)
    if differences:
        told = "; ".join(f"{d.field}: plan {d.mine!r}, this run {d.theirs!r}" for d in differences)
        forgivable = {d.field for d in differences} <= {"prompt", "seed"}
        hint = "make a plan from a recording of this run"
        if forgivable:
            hint = "pass --any-prompt to use it all the same (in Python: say prompt and seed to `apply`, or any_prompt=True)"
        raise InputError(f"the plan was made for another run ({told}); {hint}.")
