"""The executor: runs a plan, or a policy that becomes a plan after its warm-up, on a stock pipeline.

One generation reads: `generation_begins` (the scheduler got its steps) -> for each step, for each network call, `run_call`
(look up the step's kind and rows, let the hooks work, check that they did) -> `step_begins` (the scheduler takes the prediction;
the account grows; after the last warm-up step the plan is made). The executor decides nothing: a selector says what to compute.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..capture.capture import to_numpy
from ..capture.identity import describe_scheduler, describe_transformer, dtype_name
from ..capture.layout import grid_of_call, text_tokens, to_tokens
from ..capture.noise_level import first_step, noise_levels, prediction_type
from ..capture.watch import InstancePatch, NetworkCall, SchedulerStep, Watch
from ..errors import ExecutionError, InputError
from ..grid import TokenGrid
from ..plan import Fingerprint, ModelFacts, Plan, PlanSelector, Policy, Selection, StepKind, run_facts, step_kinds
from .account import Account, FlopMeter, StepAccount
from .cache import BranchCache
from .hooks import CallState, Mode, NetworkHooks
from .refusal import refuse_call, refuse_channels, refuse_config, refuse_policy
from .rows import Rows
from .warmup import Identity, Warmup, fingerprint_of

_MODES = {
    StepKind.WARMUP: Mode.OFF,
    StepKind.COOLDOWN: Mode.OFF,
    StepKind.REFRESH: Mode.REFRESH,
    StepKind.MODERATE: Mode.PARTIAL,
    StepKind.ACTIVE: Mode.PARTIAL,
    StepKind.REUSE: Mode.REUSE,
}


class Executor:
    """Attached to `pipe` from construction until `remove`; a context manager. Every generation starts afresh.

    Args:
        pipe: a diffusers pipeline whose family has an [execution] section in its probe sheet.
        policy: makes a plan of its own for each generation, after the warm-up.
        plan: obeyed as it is; refused when it was made for another model, grid, schedule, guidance, prompt or seed.
        identity: what the pipeline cannot show: model, guidance, prompt, seed.
        any_prompt: accept a plan made for another prompt or seed.

    Raises:
        ExecutionError: the family, a module or a call cannot be accelerated correctly; the pipeline is restored.
        InputError: policy and plan do not fit; names the field.
    """

    def __init__(
        self,
        pipe: Any,
        sheet: Any,
        *,
        policy: Policy | None = None,
        plan: Plan | None = None,
        identity: Identity | None = None,
        any_prompt: bool = False,
    ):
        if (policy is None) == (plan is None):
            raise InputError("the executor needs a policy or a plan, one of the two.")
        if sheet.execution is None:
            raise ExecutionError(f"{sheet.title} can be recorded and analysed, not executed: its probe sheet has no [execution].")
        self.policy = policy if plan is None else plan.policy
        refuse_policy(self.policy)
        self._pipe, self._sheet, self._given_plan = pipe, sheet, plan
        self._identity, self._any_prompt = identity or Identity(), any_prompt
        self._meter, self._call = FlopMeter(), CallState()
        self._undo: list[Callable[[], None]] = []
        self._hooks: dict[str, NetworkHooks] = {}
        self._start_over()
        try:
            self._attach()
        except BaseException:
            self.remove()
            raise

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Give the pipeline back as it was and drop the caches; the account and the plan stay readable."""
        while self._undo:
            self._undo.pop()()
        self._caches.clear()
        self._call.cache = BranchCache()

    def _attach(self) -> None:
        for name in self._sheet.tap.components:
            module = getattr(self._pipe, name, None)
            if module is None:
                continue
            hooks = NetworkHooks(name, module, self._sheet.execution, self._call)
            self._hooks[name] = hooks
            self._undo.append(hooks.remove)
            self._undo.append(InstancePatch(module, "forward", self._wrap_network(name, module)).remove)
        watch = Watch(self._pipe, self._sheet.tap.components, self)
        self._undo.append(watch.remove)

    def _start_over(self) -> None:
        self.account, self.plan = Account(), self._given_plan
        self._caches: dict[tuple[str, int], BranchCache] = {}
        self._step = self._calls = self._step_flops = 0
        self._forced, self._branches = False, 1
        self._grid: TokenGrid | None = None
        self._selector: PlanSelector | None = None
        self._selection: Selection | None = None
        self._rows: Rows | None = None
        self._warmup: Warmup | None = None
        self._nonfinite: torch.Tensor | None = None

    # --- the events of a generation, in order ---

    def generation_begins(self) -> None:
        self._start_over()

    def _wrap_network(self, name: str, module: torch.nn.Module) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        signature = inspect.signature(type(module).forward)

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                arguments = signature.bind(module, *args, **kwargs).arguments
                return self._run_call(name, module, arguments, lambda: original(*args, **kwargs))

            return forward

        return wrap

    def _run_call(self, name: str, module: torch.nn.Module, arguments: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        refuse_call(self._sheet, arguments)
        if self._grid is None:
            self._begin_grid(module, arguments)
        if self._calls == 0:
            self._begin_step()
        cache = self._caches.setdefault((name, self._calls), BranchCache())
        self._calls += 1
        mode = self._mode_of_call(cache, arguments)
        if mode is Mode.REUSE:
            return cache.reused_output()
        try:
            self._call.mode, self._call.cache, self._call.rows = mode, cache, self._rows
            self._call.served.clear()
            with self._meter.measure((name, mode, self._rows.count if mode is Mode.PARTIAL and self._rows else None, cache.input_shapes)):
                output = compute()
            self._hooks[name].check_served()
        finally:
            self._call.mode = Mode.OFF
        self._step_flops += self._meter.last
        if mode is not Mode.OFF:
            cache.keep_output(output)
        return output

    def call_ends(self, call: NetworkCall) -> None:
        """Part of being a listener; `_run_call` has seen the call already."""

    def step_begins(self, step: SchedulerStep) -> None:
        selection = self._selection
        assert selection is not None and self._grid is not None, "the scheduler stepped before the network was called"
        if self._step == 0:
            refuse_channels(self._sheet, self._grid, step.sample)
        bad = (~torch.isfinite(step.model_output)).sum()
        self._nonfinite = bad if self._nonfinite is None else self._nonfinite + bad
        if self._warmup is not None and self.plan is None:
            self._warmup.add(self._tokens(step.sample), self._tokens(step.model_output))
        self._branches = max(self._branches, self._calls * self._network_items // step.model_output.shape[0])
        self._close_step(selection)
        if self._warmup is not None and self.plan is None and self._step == self.policy.warmup:
            self._adopt(self._warmup.make_plan(self._facts()), self._grid)
        if self._step == self._steps:
            self._finish()

    # --- their parts ---

    def _begin_grid(self, module: torch.nn.Module, arguments: Mapping[str, Any]) -> None:
        grid = grid_of_call(self._sheet, module.config, arguments, arguments[self._sheet.tap.input])
        refuse_config(self._sheet, module.config)
        scheduler = self._pipe.scheduler
        self._grid, self._steps = grid, len(scheduler.timesteps) - first_step(scheduler)
        self._config, self._dtype = module.config, dtype_name(module)
        self._text_tokens, self._network_items = text_tokens(arguments), arguments[self._sheet.tap.input].shape[0]
        self.account.image_tokens = grid.count
        fingerprint = fingerprint_of(describe_transformer(module), describe_scheduler(scheduler), grid, self._steps, self._identity)
        if self._given_plan is not None:
            self._check_plan(self._given_plan, fingerprint)
            self._adopt(self._given_plan, grid)
            return
        assert self.policy is not None
        self._kinds = step_kinds(self.policy, self._steps)
        predicts = self._sheet.output.prediction
        kind = prediction_type(scheduler) if predicts == "scheduler" else predicts
        final = describe_scheduler(scheduler)["final"]
        self._warmup = Warmup(self.policy, fingerprint, kind, noise_levels(scheduler), final)

    def _check_plan(self, plan: Plan, fingerprint: Fingerprint) -> None:
        differences = plan.fingerprint.difference(fingerprint, any_prompt=self._any_prompt)
        if differences:
            told = "; ".join(f"{d.field}: plan {d.mine!r}, this run {d.theirs!r}" for d in differences)
            forgivable = {d.field for d in differences} <= {"prompt", "seed"}
            hint = "pass --any-prompt to use it all the same" if forgivable else "make a plan from a recording of this run"
            raise InputError(f"the plan was made for another run ({told}); {hint}.")

    def _facts(self) -> ModelFacts | None:
        execution, text = self._sheet.execution, self._text_tokens
        return run_facts(execution, self._config, dtype=self._dtype, text_tokens=text, branches=self._branches)

    def _adopt(self, plan: Plan, grid: TokenGrid) -> None:
        self.plan, self._selector = plan, PlanSelector(plan)
        levels = [str(level) for level in plan.token_level]
        self.account.token_levels = {level: levels.count(level) for level in ("static", "moderate", "active")}

    def _begin_step(self) -> None:
        assert self._grid is not None and self._sheet.execution is not None
        if self._step >= self._steps:
            raise ExecutionError(f"the pipeline takes more than its {self._steps} scheduler steps; such loops cannot be accelerated.")
        if self._selector is None:
            self._selection = Selection(self._kinds[self._step], None)
        else:
            self._selection = self._selector.select(self._step)
        indices = self._selection.indices
        self._rows = None if indices is None else Rows(self._grid.count, torch.from_numpy(indices), self._sheet.execution)

    def _mode_of_call(self, cache: BranchCache, arguments: Mapping[str, Any]) -> Mode:
        """The step's mode, or a refresh where this branch has nothing stored that fits."""
        assert self._selection is not None
        mode = _MODES[self._selection.kind]
        if mode is Mode.PARTIAL and torch.is_grad_enabled():
            raise ExecutionError("cached keys and values carry no gradient; run the pipeline under torch.no_grad().")
        shapes = tuple((key, tuple(value.shape)) for key, value in arguments.items() if isinstance(value, torch.Tensor))
        fits, cache.input_shapes = cache.input_shapes == shapes, shapes
        if mode in (Mode.PARTIAL, Mode.REUSE) and not (fits and cache.is_filled):
            self._forced = True
            return Mode.REFRESH
        return mode

    def _tokens(self, latent: torch.Tensor) -> Any:
        """(item, channel, frame, row, col); NumPy on the CPU, where it shares memory, else on the device."""
        assert self._grid is not None
        tokens = to_tokens(latent.detach(), self._sheet.tokens.layout, self._grid).clone()
        if tokens.device.type == "cpu" and tokens.dtype is not torch.bfloat16:
            return self._grid.unpack(to_numpy(tokens)[0])
        return self._grid.unpack(tokens)

    def _close_step(self, selection: Selection) -> None:
        assert self._grid is not None
        full = selection.kind.is_full or self._forced
        count = self._grid.count if full or self._rows is None else self._rows.count
        self.account.steps.append(StepAccount(self._step, str(selection.kind), count, self._step_flops, self._calls, self._forced))
        if selection.kind.is_full and not self.account.full_flops:
            self.account.full_flops = self._step_flops
        self._step, self._calls, self._step_flops, self._forced = self._step + 1, 0, 0, False
        self.account.cache_bytes = max(self.account.cache_bytes, sum(cache.bytes for cache in self._caches.values()))

    def _finish(self) -> None:
        self.account.nonfinite = int(self._nonfinite) if self._nonfinite is not None else 0
        self._caches.clear()
