"""Run: one generation under the executor, from the first network call to the last scheduler step.

For each step: for each network call `call` (look up the step's kind and rows, let the hooks work, check that they did), then
`step_ends` (the scheduler takes the prediction; the summary grows; the selector observes what it wants to know).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from ..analysis.arrays import as_numpy_on_cpu
from ..array_api import AnyArray
from ..capture.branches import first_half
from ..capture.layout import to_tokens
from ..capture.noise_level import final_noise_level, noise_levels, predicted_quantity
from ..capture.protocols import Pipeline
from ..capture.sampler_weights import sampler_weights
from ..conversion import NoisePath
from ..errors import ExecutionError
from ..plan import Cache, ModelFacts, Plan, Policy, Selection, Selector, StepKind, run_facts
from ..plan.cost import step_flops
from ..plan.fingerprint import Identity
from ..probe import Probe
from .caching.branch_cache import BranchCache, BranchCaches
from .caching.forecast import OutputTokens, forecast_coordinates
from .caching.out_of_memory import is_out_of_memory, out_of_memory
from .caching.strategies import keeper_of
from .counting.flops import CallKind, CountedNetwork, FlopMeter, SomeTokens, shapes_of
from .generation_facts import GenerationFacts
from .hooks import CallState, Mode, NetworkHooks
from .pipeline_executor import refuse_missing_calls
from .refusal import refuse_call, refuse_channels
from .rows import Rows
from .summary import RunSummary, StepSummary


class CountedCall(NamedTuple):
    """A network call: what it computed, None where the last output was used again, and the same call for every token."""

    network: CountedNetwork
    done: CallKind | None
    full: CallKind

    @property
    def flops(self) -> tuple[int, int]:
        """(done, of the full call)."""
        return 0 if self.done is None else self.network.flops(self.done) or 0, self.network.flops(self.full) or 0


def counted_step(calls: Sequence[CountedCall], step: int, kind: str, tokens: int, forced: bool) -> StepSummary:
    flops = [call.flops for call in calls]
    return StepSummary(step, kind, tokens, sum(done for done, _ in flops), sum(full for _, full in flops), len(calls), forced)


@dataclass(frozen=True)
class RunOptions:
    """What holds for every generation of an executor.

    policy: in force; None under a selector of the user's own. cache: what is kept of attentions. meter: counts FLOPs. selector:
    makes the selector of a generation, once its first network call has shown the facts. on_select: called with what every step
    computes, before it does.
    """

    policy: Policy | None
    cache: Cache
    identity: Identity | Callable[[], Identity]
    meter: FlopMeter
    selector: Callable[["Run"], Selector]
    on_select: Callable[[Selection], object] | None = None

    @property
    def forecasts_output(self) -> bool:
        return self.policy is not None and self.policy.output != "hold"

    @property
    def corrects(self) -> bool:
        return self.policy is not None and self.policy.output == "corrected"


@dataclass
class _OpenStep:
    """The step under way. rows: None where every token is computed. forced: full where the plan had not said so."""

    selection: Selection
    rows: Rows | None
    calls: list[CountedCall] = field(default_factory=list)
    forced: bool = False


class Run:
    """State of one generation; made when the pipeline sets its timesteps, and read-only once `ended`."""

    def __init__(self, pipe: Pipeline, probe: Probe, options: RunOptions):
        assert probe.execution is not None
        self._pipe, self._probe, self._execution, self._options = pipe, probe, probe.execution, options
        self.summary = RunSummary(cache_strategy=options.cache.strategy)
        self.skipped: np.ndarray | None = None  # bool (token,): not computed at the last closed step; None: all were
        self._facts: GenerationFacts | None = None  # these two from the first call on
        self._selector: Selector | None = None
        self._coordinates: list[float] | None = None  # where forecasts run, a value a step
        self._weights: np.ndarray | None = None  # where outputs are corrected, from the first scheduler step on
        self._output_tokens: OutputTokens | None = None
        self._caches = BranchCaches(keeper_of(options.cache, lambda: self.selector.skipped_groups()))
        self._rows_of: dict[int, tuple[np.ndarray, Rows]] = {}
        self._networks: dict[str, CountedNetwork] = {}
        self._open: _OpenStep | None = None
        self._step = 0
        self._branches = self._stacked = 1  # guidance branches, and how many of them share a call
        self._nonfinite: torch.Tensor | None = None

    # --- what the first call shows ---

    @property
    def facts(self) -> GenerationFacts:
        """What the first network call showed."""
        assert self._facts is not None, "no network call yet"
        return self._facts

    @property
    def selector(self) -> Selector:
        """What chooses this generation's tokens, from the first network call on."""
        assert self._selector is not None, "no network call yet"
        return self._selector

    @property
    def plan(self) -> Plan | None:
        """The plan in force; None while there is none."""
        return self._selector.plan if self._selector else None

    def _begin(self, module: torch.nn.Module, arguments: Mapping[str, object]) -> None:
        options = self._options
        identity = options.identity() if callable(options.identity) else options.identity
        facts = self._facts = GenerationFacts.of_call(self._pipe, self._probe, module, arguments, identity)
        self.summary.image_tokens = facts.grid.count
        if options.forecasts_output or options.cache.forecast:
            self._coordinates = forecast_coordinates(self._pipe.scheduler)[facts.left_out :]
        if options.forecasts_output:
            self._output_tokens = OutputTokens(self._probe.tokens.layout, facts.grid)
        self._selector = options.selector(self)
        self._count_levels()

    def path(self) -> NoisePath:
        """Noise levels of every step to come, and in which the run ends."""
        timestep, alpha, sigma = (np.array(values[self.facts.left_out :]) for values in noise_levels(self._pipe.scheduler))
        return NoisePath(timestep, alpha, sigma, final_noise_level(self._pipe.scheduler))

    def sigma(self) -> list[float]:
        """Of every step to come and after the last."""
        _, _, sigma = noise_levels(self._pipe.scheduler)
        return [*sigma[self.facts.left_out :], final_noise_level(self._pipe.scheduler)[1]]

    def prediction(self) -> str:
        """What the network predicts, `flow` or diffusers' prediction_type."""
        return predicted_quantity(self._pipe.scheduler, self._probe.output.prediction)

    def model_facts(self) -> ModelFacts | None:
        """Sizes for predictions, as far as the run has shown them."""
        return run_facts(
            self._execution,
            self.facts.config,
            dtype=self.facts.dtype,
            text_tokens=self.facts.text_tokens,
            branches=self._branches,
            stacked=self._stacked,
        )

    # --- a network call ---

    def call(
        self, hooks: NetworkHooks, state: CallState, arguments: Mapping[str, object], compute: Callable[[], object]
    ) -> object:
        """One network call under this step's kind; gives what the pipeline gets."""
        refuse_call(self._probe, arguments)
        if self._selector is None:
            self._begin(hooks.module, arguments)
        step = self._open = self._open or self._begin_step()
        cache = self._cache(hooks, len(step.calls))
        mode = self._mode(step, cache, arguments)
        rows = step.rows if mode is Mode.PARTIAL else None
        step.calls.append(self._counted(hooks, arguments, mode, rows))
        if mode is Mode.REUSE:
            return cache.reused_output()
        with self._explaining_memory(mode), state.during(mode, cache, rows):
            output = compute()
            hooks.check_served()
        sample = arguments[self._probe.tap.input]
        assert isinstance(sample, torch.Tensor)
        return cache.keep_output(output, None if rows is None else rows.image(sample.device))

    def _counted(self, hooks: NetworkHooks, arguments: Mapping[str, object], mode: Mode, rows: Rows | None) -> CountedCall:
        """Of what kind a call is, for its FLOPs to be counted when the generation is over."""
        name = hooks.name
        if name not in self._networks:
            self._networks[name] = self._options.meter.network(name, hooks.module, self._execution)
        network, full, tokens = self._networks[name], CallKind(shapes_of(arguments)), self.facts.grid.count
        network.note(full, arguments, partial(self._estimated_flops, tokens))
        done: CallKind | None = full
        if mode is Mode.REUSE:
            done = None
        elif rows is not None:
            done = CallKind(full.shapes, SomeTokens(rows.count, tokens, self._recomputes))
            network.note(done, arguments, partial(self._estimated_flops, rows.count))
        return CountedCall(network, done, full)

    @property
    def _recomputes(self) -> bool:
        """Whether keys and values are projected again from what is kept."""
        return self._options.cache.strategy == "hidden"

    def _estimated_flops(self, computed: int) -> int:
        """By formula, for a network that cannot be traced; its tokens alone where its sizes are not in the config."""
        sizes = self.model_facts()
        if sizes is None:
            return computed * self.facts.batch
        return round(step_flops(sizes, computed, self.facts.grid.count, self._recomputes) * self.facts.batch)

    def _begin_step(self) -> _OpenStep:
        if self._step >= self.facts.steps:
            raise ExecutionError(
                f"the pipeline takes more than its {self.facts.steps} scheduler steps, which cannot be accelerated."
            )
        selection = self.selector.select(self._step)
        step = _OpenStep(selection, self._rows_at(selection))
        if self._options.on_select is not None:
            self._options.on_select(selection)
        return step

    def _rows_at(self, selection: Selection) -> Rows | None:
        """The selection as index tensors; a plan's are the same at every step, so they travel to the device once."""
        indices = selection.indices
        if indices is None:
            return None
        stored = self._rows_of.get(id(indices))
        if stored is None or stored[0] is not indices:
            stored = indices, Rows(self.facts.grid.count, torch.from_numpy(indices), self._execution)
            if len(self._rows_of) >= len(StepKind):
                self._rows_of.clear()
            self._rows_of[id(indices)] = stored
        stored[1].forget_tables()
        return stored[1]

    def _cache(self, hooks: NetworkHooks, call: int) -> BranchCache:
        """The cache of a network and branch; branches are told apart by the order of calls within the step."""
        corrected, tokens = self._options.corrects, self.facts.grid.count
        make = partial(BranchCache, tokens, output=self._output_tokens, corrected=corrected)
        cache = self._caches.of(hooks.name, call, make, hooks.layers)
        cache.at = self._coordinates[self._step] if self._coordinates else 0.0
        cache.weight = float(self._weights[self._step]) if self._weights is not None else 0.0
        return cache

    @contextmanager
    def _explaining_memory(self, mode: Mode) -> Iterator[None]:
        """Where memory runs out the error says what the cache needs, and what needs less."""
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            sizes = self.model_facts(), self.facts.grid.count, self.facts.batch // self._stacked
            cache, caching = self._options.cache, mode is not Mode.OFF
            raise out_of_memory(self._step, cache, self._caches.bytes, *sizes, caching=caching) from error

    def _mode(self, step: _OpenStep, cache: BranchCache, arguments: Mapping[str, object]) -> Mode:
        """The step's mode, or a refresh where this branch has nothing stored that fits."""
        kind = step.selection.kind
        shapes = shapes_of(arguments)
        fits, cache.input_shapes = cache.input_shapes == shapes, shapes
        if kind.is_full:
            return Mode.REFRESH if self.selector.writes_keys(self._step) else Mode.OFF
        if torch.is_grad_enabled():
            raise ExecutionError("cached keys and values carry no gradient; run the pipeline under torch.no_grad().")
        if kind is StepKind.REUSE and fits and cache.has_output:
            return Mode.REUSE
        if kind is not StepKind.REUSE and fits and cache.is_filled:
            return Mode.PARTIAL
        step.forced = True
        return Mode.REFRESH

    # --- a scheduler step ---

    def step_ends(self, arguments: Mapping[str, object]) -> None:
        """The scheduler was handed this step's guided prediction. arguments: of its `step`, by name."""
        refuse_missing_calls(0 if self._open is None else len(self._open.calls))
        assert self._open is not None
        sample, model_output = arguments["sample"], arguments["model_output"]
        assert isinstance(sample, torch.Tensor)
        assert isinstance(model_output, torch.Tensor)
        if self._step == 0:
            refuse_channels(self._probe, self.facts.grid, sample)
            self._count_branches(len(self._open.calls), model_output)
            if self._options.corrects:
                self._weights = sampler_weights(self._pipe.scheduler, arguments)[-self.facts.steps :]
        bad = (~torch.isfinite(model_output)).sum()
        self._nonfinite = bad if self._nonfinite is None else self._nonfinite + bad
        if self.selector.wants(self._step):
            self.selector.observe(self._step, self._latents(sample), self._latents(model_output))
            self._count_levels()
        self._close_step(self._open)
        if self._step == self.facts.steps:
            self.end()

    def _count_branches(self, calls: int, model_output: torch.Tensor) -> None:
        """Of the first step: how many branches there are, and how many share a call."""
        stepped = first_half(model_output) if self._probe.guidance.stacked_step else model_output
        self._stacked = max(1, self.facts.batch // stepped.shape[0])
        self._branches = calls * self._stacked

    def _latents(self, latent: torch.Tensor) -> AnyArray:
        """(item, channel, frame, row, col); NumPy on the CPU, 16-bit floats widened, else a tensor on the device."""
        # copied: a sampler may write to its sample in place
        tokens = to_tokens(latent.detach(), self._probe.tokens.layout, self.facts.grid).clone()
        return self.facts.grid.unpack(as_numpy_on_cpu(tokens))

    def _count_levels(self) -> None:
        if self.plan is not None and not self.summary.token_levels:
            levels = [str(level) for level in self.plan.token_level]
            self.summary.token_levels = {level: levels.count(level) for level in ("static", "moderate", "active")}

    def _close_step(self, step: _OpenStep) -> None:
        kind, tokens = step.selection.kind, self.facts.grid.count
        self.skipped = None
        if not (kind.is_full or step.forced or step.rows is None):
            self.skipped = np.ones(tokens, dtype=bool)
            self.skipped[step.selection.indices] = False
            tokens = step.rows.count
        self.summary.add(partial(counted_step, step.calls, self._step, str(kind), tokens, step.forced))
        self._step, self._open = self._step + 1, None
        self._caches.step_ends()
        self.summary.note_cache(self._caches.bytes)

    def end(self) -> None:
        """Free the caches; waits for the device once, to read the count of non-finite values."""
        if self._nonfinite is not None:
            self.summary.nonfinite, self._nonfinite = int(self._nonfinite), None
        self._caches.close()
        self._rows_of.clear()
