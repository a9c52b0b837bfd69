"""The executor: runs a plan, a policy that becomes a plan after its warm-up, or a selector, on a stock pipeline.

It replaces methods on the pipeline's own instances and hands each call and step to a `Run`, one a generation. It decides
nothing: a selector says what to compute.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..capture.patch import InstancePatch
from ..capture.protocols import Pipeline, Scheduler
from ..errors import ExecutionError, InputError
from ..grid import TokenGrid
from ..plan import Cache, Fingerprint, Plan, PlanSelector, Policy, PolicySelector, Selection, Selector
from ..plan.fingerprint import Identity
from ..probe import Probe, as_probe
from .counting.flops import FlopMeter
from .hooks import CallState, NetworkHooks
from .pipeline_executor import PipelineExecutor
from .refusal import refuse_attached, refuse_cache, refuse_compiled, refuse_policy
from .run import Run, RunOptions


class Executor(PipelineExecutor[Run]):
    """Skips tokens. Attached to `pipe` from construction until `remove`; a context manager. Every generation starts afresh.

    Args:
        pipe: a diffusers pipeline. probe: its family's probe, or the path of its file; it needs an [execution] section.
        policy: makes a plan of its own for each generation, after the warm-up.
        plan: obeyed as it is; refused when it was made for another model, grid, schedule, guidance, prompt or seed.
        selector: chooses without a plan: called with the grid and sigma (step + 1,), of every step and after the last; gives the
            selector of one generation.
        choose: what obeys the plan, where there is one; controls put another selector here.
        identity: what the pipeline cannot show: model, guidance, prompt, seed; or what says it when a run begins.
        any_prompt: accept a plan made for another prompt or seed.
        meter: shares the FLOP counts of another executor of the same pipeline, so that nothing is counted twice.
        on_select: called with what every step computes, before it does.
        cache: what is kept of attentions, in the place of the policy's or the plan's own.

    Raises:
        ExecutionError: the family, a module or a call cannot be accelerated correctly; the pipeline is restored.
        InputError: policy and plan do not fit; names the field.
    """

    def __init__(
        self,
        pipe: Pipeline,
        probe: Probe | str | Path,
        *,
        policy: Policy | None = None,
        plan: Plan | None = None,
        selector: Callable[[TokenGrid, Sequence[float]], Selector] | None = None,
        choose: Callable[[Plan], Selector] = PlanSelector,
        identity: Identity | Callable[[], Identity] | None = None,
        any_prompt: bool = False,
        meter: FlopMeter | None = None,
        on_select: Callable[[Selection], object] | None = None,
        cache: Cache | None = None,
    ):
        if sum(source is not None for source in (policy, plan, selector)) != 1:
            raise InputError("the executor needs a policy, a plan or a selector, one of the three.")
        probe = as_probe(probe)
        if probe.execution is None:
            raise ExecutionError(f"{probe.title} can be recorded and analysed, not executed: its probe has no [execution].")
        if cache is not None:
            policy, plan = policy and replace(policy, cache=cache), plan and plan.with_cache(cache)
        self.policy = plan.policy if plan else policy
        cache = cache or (self.policy.cache if self.policy else Cache())
        refuse_cache(cache)
        self._selector, self._choose, self._execution = selector, choose, probe.execution
        if self.policy is not None:
            refuse_policy(self.policy, planned=plan is not None)
        self._any_prompt = any_prompt
        self._options = RunOptions(self.policy, cache, identity or Identity(), meter or FlopMeter(), self._selector_of, on_select)
        self._state = CallState()
        self._networks: dict[str, tuple[NetworkHooks, InstancePatch]] = {}
        super().__init__(pipe, probe, plan)

    def _new_run(self) -> Run:
        return Run(self._pipe, self._probe, self._options)

    def _hook_network(self, name: str, network: torch.nn.Module) -> Iterator[Callable[[], None]]:
        refuse_compiled(name, network)
        refuse_attached(name, network)
        hooks = NetworkHooks(name, network, self._execution, self._state)
        yield hooks.remove
        patch = self._patch_forward(name, network)
        yield patch.remove
        self._networks[name] = hooks, patch

    def _check_networks(self) -> None:
        for hooks, patch in self._networks.values():
            refuse_attached(hooks.name, hooks.module, attached=True)
            hooks.check_in_place()
            patch.renew()

    def _replaced(self, names: set[str]) -> None:
        if names - {"scheduler"}:
            self._options = replace(self._options, meter=FlopMeter())  # of another network no count holds
        super()._replaced(names)

    def _call(
        self, name: str, network: torch.nn.Module, arguments: Mapping[str, object], compute: Callable[[], object]
    ) -> object:
        return self._run.call(self._networks[name][0], self._state, arguments, compute)

    def _step_ends(self, scheduler: Scheduler, arguments: Mapping[str, object]) -> None:
        self._run.step_ends(arguments)

    def _selector_of(self, run: Run) -> Selector:
        """What chooses the tokens of a generation whose first network call was seen."""
        facts, plan, policy = run.facts, self._given_plan, self.policy
        if self._selector is not None:
            return self._selector(facts.grid, run.sigma())
        if plan is not None:
            check_plan(plan, facts.fingerprint, self._any_prompt)
            return self._choose(plan)
        assert policy is not None, "a policy, a plan or a selector"
        return PolicySelector(policy, facts.fingerprint, run.prediction(), run.path(), run.model_facts, self._choose)


def check_plan(plan: Plan, fingerprint: Fingerprint, any_prompt: bool) -> None:
    """Refuse a plan that was made for another run, naming the fields that differ."""
    differences = plan.fingerprint.difference(fingerprint, any_prompt=any_prompt)
    if differences:
        values = "; ".join(f"{d.field}: plan {d.mine!r}, this run {d.theirs!r}" for d in differences)
        forgivable = {d.field for d in differences} <= {"prompt", "seed"}
        hint = "make a plan from a recording of this run"
        if forgivable:
            hint = "pass --any-prompt to use it all the same (in Python: say prompt and seed to `apply`, or any_prompt=True)"
        raise InputError(f"the plan was made for another run ({values}); {hint}.")
