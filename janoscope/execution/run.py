"""Run: one generation under the executor, from the first network call to the last scheduler step.

For each step: for each network call `call` (look up the step's kind and rows, let the hooks work, check that they did), then
`step_ends` (the scheduler takes the prediction; the account grows; the steering learns what it wants to know).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ..analysis.arrays import at_the_door
from ..capture.branches import first_half
from ..capture.describe import describe_scheduler, describe_transformer, dtype_name
from ..capture.layout import grid_of_call, text_tokens, to_tokens
from ..capture.noise_level import announced_steps, first_step, noise_levels, predicted_quantity
from ..conversion import NoisePath
from ..errors import ExecutionError
from ..plan import Cache, Fingerprint, ModelFacts, Policy, Selection, StepKind, final_weights, run_facts
from ..plan.cost import step_flops
from ..plan.fingerprint import Identity, fingerprint_of
from ..probe import Probe
from .caching.branch_cache import BranchCache, BranchCaches
from .caching.forecast import OutputTokens, forecast_coordinates
from .caching.out_of_memory import is_out_of_memory, out_of_memory
from .caching.strategies import keeper_of
from .flops import CallKind, CountedNetwork, FlopMeter, SomeTokens, shapes_of
from .hooks import CallState, Mode, NetworkHooks
from .refusal import refuse_call, refuse_channels, refuse_sampler, refuse_sequence
from .refused_configs import refuse_config
from .rows import Rows
from .summary import RunSummary, StepSummary
from .warmup import Steering, Warmup

Steer = Callable[["Run"], Steering]


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


class Run:
    """State of one generation; made when the pipeline sets its timesteps, and read-only once `ended`.

    cache: what is kept of attentions. steer: makes the steering when the first network call has shown what the run is.
    """

    def __init__(
        self,
        pipe: Any,
        sheet: Probe,
        policy: Policy | None,
        cache: Cache,
        identity: Identity,
        meter: FlopMeter,
        steer: Steer,
        on_select: Callable[[Selection], object] | None = None,
    ):
        assert sheet.execution is not None
        self._pipe, self._probe, self._facts_of_probe = pipe, sheet, sheet.execution
        self.policy, self._identity, self._meter, self._steer = policy, identity, meter, steer
        self._on_select = on_select
        self.account = RunSummary(cache_strategy=cache.strategy)
        self.steering: Steering | None = None
        self._cache_rules = cache
        self._caches = BranchCaches(keeper_of(cache, self._skipped_groups))
        self._rows_of: dict[int, tuple[np.ndarray, Rows]] = {}
        self._step = self._calls = 0
        self._networks: dict[str, CountedNetwork] = {}
        self._made: list[CountedCall] = []  # of this step
        self._forced, self._branches, self._stacked = False, 1, 1
        self._nonfinite: torch.Tensor | None = None
        self.skipped: np.ndarray | None = None  # bool (token,): not computed at the last closed step; None: all were

    # --- what the first call shows ---

    def _begin(self, module: Any, arguments: Mapping[str, Any]) -> None:
        scheduler, given = self._pipe.scheduler, arguments[self._probe.tap.input]
        refuse_config(self._probe, module.config)
        self.grid = grid_of_call(self._probe, module.config, arguments, given, first_picture=True)
        refuse_sequence(self._probe, self.grid, given)
        # steps left out by a start from a clip whose scheduler knows of none (CogVideoX with DDIM)
        self._left_out = first_step(scheduler, _timestep(arguments), announced_steps(self._pipe)) - first_step(scheduler)
        self.steps = len(scheduler.timesteps) - first_step(scheduler) - self._left_out
        self._config, self._dtype = module.config, dtype_name(module)
        self._text_tokens, self._network_items = text_tokens(arguments), given.shape[0]
        self.account.image_tokens = self.grid.count
        self.fingerprint: Fingerprint = fingerprint_of(
            describe_transformer(module), describe_scheduler(scheduler), self.grid, self.steps, self._identity
        )
        self._coordinates = forecast_coordinates(scheduler)[self._left_out :] if self._forecasts else [0.0] * self.steps
        self._output_tokens = OutputTokens(self._probe.tokens.layout, self.grid) if self._forecasts_output else None
        self._weights = [0.0] * self.steps
        if self._corrects:
            refuse_sampler(scheduler)
            self._weights = final_weights(self._path(), self._prediction()).tolist()
        self.steering = self._steer(self)
        self._count_levels()

    @property
    def _forecasts_output(self) -> bool:
        return self.policy is not None and self.policy.output != "hold"

    @property
    def _corrects(self) -> bool:
        return self.policy is not None and self.policy.output == "corrected"

    @property
    def _forecasts_keys(self) -> bool:
        return self._cache_rules.forecast

    @property
    def _forecasts(self) -> bool:
        return self._forecasts_output or self._forecasts_keys

    def sigma(self) -> list[float]:
        """Of every step to come and after the last."""
        return [*self._levels()[2], describe_scheduler(self._pipe.scheduler)["final"][1]]

    def _levels(self) -> tuple[list[float], list[float], list[float]]:
        timestep, alpha, sigma = noise_levels(self._pipe.scheduler)
        return timestep[self._left_out :], alpha[self._left_out :], sigma[self._left_out :]

    def _path(self) -> NoisePath:
        timestep, alpha, sigma = (np.array(values) for values in self._levels())
        return NoisePath(timestep, alpha, sigma, tuple(describe_scheduler(self._pipe.scheduler)["final"]))

    def _prediction(self) -> str:
        return predicted_quantity(self._pipe.scheduler, self._probe.output.prediction)

    def warmup(self, policy: Policy) -> Warmup:
        """What collects this run's warm-up."""
        return Warmup(policy, self.fingerprint, self._prediction(), self._path())

    def facts(self) -> ModelFacts | None:
        """Sizes for predictions, as far as the run has shown them."""
        sizes = {"text_tokens": self._text_tokens, "branches": self._branches, "stacked": self._stacked}
        return run_facts(self._facts_of_probe, self._config, dtype=self._dtype, **sizes)

    def _skipped_groups(self) -> list[np.ndarray]:
        assert self.steering is not None
        return self.steering.skipped_groups(self.grid.count)

    # --- a network call ---

    def call(
        self,
        hooks: NetworkHooks,
        state: CallState,
        module: torch.nn.Module,
        arguments: Mapping[str, Any],
        compute: Callable[[], Any],
    ) -> Any:
        """One network call under this step's kind; gives what the pipeline gets."""
        refuse_call(self._probe, arguments)
        if self.steering is None:
            self._begin(module, arguments)
        if self._calls == 0:
            self._begin_step()
        cache = self._cache(hooks)
        self._calls += 1
        mode = self._mode(cache, arguments)
        rows = self._rows if mode is Mode.PARTIAL else None
        self._note(hooks.name, module, arguments, mode, rows)
        if mode is Mode.REUSE:
            return cache.reused_output()
        with self._memory_told(mode), state.during(mode, cache, rows):
            output = compute()
            hooks.check_served()
        return cache.keep_output(output, None if rows is None else rows.image(arguments[self._probe.tap.input].device))

    def _note(self, name: str, module: torch.nn.Module, arguments: Mapping[str, Any], mode: Mode, rows: Rows | None) -> None:
        """Of what kind a call is, for its FLOPs to be counted when the generation is over."""
        if name not in self._networks:
            self._networks[name] = self._meter.network(name, module, self._facts_of_probe)
        network, full = self._networks[name], CallKind(shapes_of(arguments))
        network.note(full, arguments, partial(self._estimated_flops, self.grid.count))
        done: CallKind | None = full
        if mode is Mode.REUSE:
            done = None
        elif rows is not None:
            done = CallKind(full.shapes, SomeTokens(rows.count, self.grid.count, self._cache_rules.strategy == "hidden"))
            network.note(done, arguments, partial(self._estimated_flops, rows.count))
        self._made.append(CountedCall(network, done, full))

    def _estimated_flops(self, computed: int) -> int:
        """By formula, for a network that cannot be traced; its tokens alone where the config does not tell its sizes."""
        facts = self.facts()
        if facts is None:
            return computed * self._network_items
        recomputes = self._cache_rules.strategy == "hidden"
        return round(step_flops(facts, computed, self.grid.count, recomputes) * self._network_items)

    def _begin_step(self) -> None:
        assert self.steering is not None
        if self._step >= self.steps:
            raise ExecutionError(f"the pipeline takes more than its {self.steps} scheduler steps, which cannot be accelerated.")
        self._selection = self.steering.select(self._step)
        self._rows = self._rows_at(self._selection)
        if self._on_select is not None:
            self._on_select(self._selection)

    def _rows_at(self, selection: Selection) -> Rows | None:
        """The selection as index tensors; a plan's are the same at every step, so they travel to the device once."""
        indices = selection.indices
        if indices is None:
            return None
        known = self._rows_of.get(id(indices))
        if known is None or known[0] is not indices:
            known = indices, Rows(self.grid.count, torch.from_numpy(indices), self._facts_of_probe)
            self._rows_of = {**self._rows_of, id(indices): known} if len(self._rows_of) < len(StepKind) else {id(indices): known}
        known[1].forget_tables()
        return known[1]

    def _cache(self, hooks: NetworkHooks) -> BranchCache:
        """The cache of a network and branch; the branch is told by the order of calls within the step."""
        make = partial(BranchCache, self.grid.count, output=self._output_tokens, corrected=self._corrects)
        cache = self._caches.of(hooks.name, self._calls, make, hooks.layers)
        cache.at, cache.weight = self._coordinates[self._step], self._weights[self._step]
        return cache

    @contextmanager
    def _memory_told(self, mode: Mode) -> Iterator[None]:
        """Out of memory is told with what the cache needs and what needs less."""
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            sizes = self.facts(), self.grid.count, self._network_items // self._stacked
            caching = mode is not Mode.OFF
            raise out_of_memory(self._step, self._cache_rules, self._caches.bytes, *sizes, caching=caching) from error

    def _mode(self, cache: BranchCache, arguments: Mapping[str, Any]) -> Mode:
        """The step's mode, or a refresh where this branch has nothing stored that fits."""
        assert self.steering is not None
        kind = self._selection.kind
        shapes = shapes_of(arguments)
        fits, cache.input_shapes = cache.input_shapes == shapes, shapes
        if kind.is_full:
            return Mode.REFRESH if self.steering.writes_keys(self._step) else Mode.OFF
        if torch.is_grad_enabled():
            raise ExecutionError("cached keys and values carry no gradient; run the pipeline under torch.no_grad().")
        if kind is StepKind.REUSE and fits and cache.has_output:
            return Mode.REUSE
        if kind is not StepKind.REUSE and fits and cache.is_filled:
            return Mode.PARTIAL
        self._forced = True
        return Mode.REFRESH

    # --- a scheduler step ---

    def step_ends(self, sample: torch.Tensor, model_output: torch.Tensor) -> None:
        """The scheduler was handed this step's guided prediction."""
        if self._calls == 0:
            raise ExecutionError(
                "the scheduler stepped and no network call passed the executor: something took its hooks off. Attach the "
                "executor last, after whatever else changes the network."
            )
        assert self.steering is not None, "the first call makes it"
        if self._step == 0:
            refuse_channels(self._probe, self.grid, sample)
            self._count_branches(model_output)
        bad = (~torch.isfinite(model_output)).sum()
        self._nonfinite = bad if self._nonfinite is None else self._nonfinite + bad
        if self.steering.wants(self._step):
            self.steering.step_ends(self._step, self._latents(sample), self._latents(model_output))
            self._count_levels()
        self._close_step()
        if self._step == self.steps:
            self.end()

    def _count_branches(self, model_output: torch.Tensor) -> None:
        """Of the first step: how many branches there are, and how many share a call."""
        stepped = first_half(model_output) if self._probe.guidance.stacked_step else model_output
        self._stacked = max(1, self._network_items // stepped.shape[0])
        self._branches = self._calls * self._stacked

    def _latents(self, latent: torch.Tensor) -> Any:
        """(item, channel, frame, row, col); NumPy on the CPU, 16-bit floats widened, else a tensor on the device."""
        # copied: a sampler may write to its sample in place
        return self.grid.unpack(at_the_door(to_tokens(latent.detach(), self._probe.tokens.layout, self.grid).clone()))

    def _count_levels(self) -> None:
        plan = self.steering.plan if self.steering else None
        if plan is not None and not self.account.token_levels:
            levels = [str(level) for level in plan.token_level]
            self.account.token_levels = {level: levels.count(level) for level in ("static", "moderate", "active")}

    def _close_step(self) -> None:
        kind = self._selection.kind
        full = kind.is_full or self._forced or self._rows is None
        count = self.grid.count if full else self._rows.count  # type: ignore[union-attr]
        self.skipped = None
        if not full:
            self.skipped = np.ones(self.grid.count, dtype=bool)
            self.skipped[self._selection.indices] = False
        self.account.add(partial(counted_step, self._made, self._step, str(kind), count, self._forced))
        self._step, self._calls, self._made, self._forced = self._step + 1, 0, [], False
        self._caches.step_ends()
        self.account.note_cache(self._caches.bytes)

    def end(self) -> None:
        """Free the caches; waits for the device once, to read the count of non-finite values."""
        if self._nonfinite is not None:
            self.account.nonfinite, self._nonfinite = int(self._nonfinite), None
        self._caches.close()
        self._rows_of.clear()


def _timestep(arguments: Mapping[str, Any]) -> float | None:
    """The first call's timestep, None where the network is told another number: fractions lie in 0..1."""
    given = arguments.get("timestep")
    if given is None:
        return None
    timestep = float(given.max() if isinstance(given, torch.Tensor) else given)
    return timestep if timestep > 1 else None
