"""Capture: turn what a Watch sees into (token, channel) arrays and push them into a Sink, step by step."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ..errors import InputError
from ..probe import Probe
from .attachments import attachments_of, unwrapped
from .branches import COND, GUIDED, Seen, Share, first_half, shares_of
from .describe import describe_scheduler, describe_transformer, dtype_name
from .guidance import PipelineGuidance, check_guided, pipeline_guidance
from .layout import grid_of_call, own_output, split_variance, text_tokens, to_tokens
from .noise_level import announced_steps, first_step, noise_level, on_host, predicted_quantity, refuse_inversion, steps_to_come
from .protocols import Pipeline, Scheduler
from .sampler_weights import recorded_weights
from .sink import Generation, Sink, StepFacts, TapSize
from .taps import Tap, TapHooks
from .transfer import HostCopies, HostCopy, to_numpy
from .watch import NetworkCall, SchedulerStep, Watch, networks_of

_CALLS_PER_STEP = 32  # far above any sampler; beyond it the scheduler that we watch is not the one that steps


@dataclass(frozen=True)
class _Pending:
    """A step on its way to the sink; its maps may still be leaving the device. check: of the model outputs by branch."""

    maps: tuple[tuple[str, str, HostCopy], ...]
    facts: Callable[[], StepFacts]
    check: Callable[[Mapping[str, np.ndarray]], None] | None = None

    @property
    def in_flight(self) -> bool:
        return any(copy.in_flight for _, _, copy in self.maps)


class Capture:
    """Captures every generation of `pipe` while attached; a context manager. Listener of its own Watch.

    taps: inner modules to capture too. Set `skipped` where an executor works: asked at every step which tokens it left out,
    bool (token,) or None. Set `received` to the calls of a step whose output came from another process: they have no time.
    """

    def __init__(
        self,
        pipe: Pipeline,
        probe: Probe,
        sink: Sink,
        *,
        taps: tuple[Tap, ...] = (),
    ):
        self._pipe, self._probe, self._sink = pipe, probe, sink
        self.skipped: Callable[[], np.ndarray | None] = lambda: None
        self.received: tuple[int, ...] = ()
        self._generation: Generation | None = None
        self._tables: Scheduler | None = None  # the scheduler with its tables on the host, from the first step on
        self._begun = False  # the sink has taken this generation
        self._seen: list[Seen] = []
        self._step, self._steps = 0, None  # type: tuple[int, int | None]
        self._held: _Pending | None = None
        self._copies = HostCopies()
        self._dtypes: dict[str, torch.dtype] = {}
        self.overhead_s = 0.0  # time that the pipeline waited for us
        self._watch = Watch(pipe, probe.tap.components, self, self._tap_networks)
        try:
            self._taps = self._tapped(taps)
        except BaseException:
            self._watch.remove()
            raise

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.remove(error)
        if error is None:
            self.refuse_unseen()

    def refuse_unseen(self) -> None:
        """Raise InputError where the network was called and no step was seen: the generation is not recorded."""
        if calls := self._watch.calls_without_step:
            raise InputError(
                f"{calls} network calls came without a step of {type(self._pipe.scheduler).__name__}, so this generation is not "
                "recorded: the pipeline samples with another scheduler. Feed a Recorder from your own loop (docs/own-sampler.md)."
            )

    @property
    def is_unused(self) -> bool:
        """Whether not one network call was seen."""
        return not self._watch.any_call

    def _tapped(self, taps: tuple[Tap, ...]) -> TapHooks:
        return TapHooks({name: unwrapped(n) for name, n in networks_of(self._pipe, self._probe.tap.components).items()}, taps)

    def _tap_networks(self) -> None:
        """Tap another network that took the place of one."""
        self._taps.remove()
        self._taps = self._tapped(tuple(self._taps.taps.values()))

    def remove(self, error: BaseException | None = None) -> None:
        """Detach; a generation under way ends with `error`, or as far as it came."""
        self._watch.remove()
        self._taps.remove()
        self._end_generation(error)

    def generation_begins(self) -> None:
        self._end_generation()

    def call_ends(self, call: NetworkCall) -> None:
        if len(self._seen) >= _CALLS_PER_STEP:
            self._watch.forget_calls()
            raise InputError(
                f"{_CALLS_PER_STEP} network calls came without a step of {type(self._pipe.scheduler).__name__}; the pipeline "
                "samples with another scheduler. Feed a Recorder from your own loop (docs/own-sampler.md)."
            )
        self._seen.append(Seen(call, self._taps.take()))

    def step_begins(self, step: SchedulerStep) -> None:
        started = time.perf_counter()
        self._record_step(step)
        self.overhead_s += time.perf_counter() - started

    def _record_step(self, step: SchedulerStep) -> None:
        if step.per_token:
            raise InputError(
                f"{type(self._pipe).__name__} steps every token at a noise level of its own (per_token_timesteps), and a "
                "recording holds one a step. Feed a Recorder from your own loop (docs/own-sampler.md)."
            )
        extra = self._probe.guidance.extra_call
        seen = [s for s in self._seen if all(s.call.arguments.get(name) is None for name in extra)]
        all_seen, self._seen = len(seen) == len(self._seen), []
        if self._probe.guidance.stacked_step:
            step = replace(step, model_output=first_half(step.model_output), sample=first_half(step.sample))
        if not seen:
            raise InputError("the scheduler stepped without a call of the network; the probe hooks the wrong component.")
        ended = self._generation is not None and COND in self._generation.branches
        said, alone = pipeline_guidance(self._pipe, self._probe.guidance), COND if ended else GUIDED
        shares = shares_of(seen, self._probe.guidance, step.model_output.shape[0], alone=alone, pipeline=said)
        if self._generation is None:
            self._tables = on_host(self._pipe.scheduler)
            self._generation = self._describe(step, shares)
        known = self._generation.branches
        if late := {share.branch for share in shares} - set(known):
            warnings.warn(
                f"guidance began at step {self._step}, not at the first; only guided is recorded, not {', '.join(sorted(late))}.",
                RuntimeWarning,
                stacklevel=2,
            )
            shares = [share for share in shares if share.branch in known]
        maps = self._maps(step, shares)
        if self._step == 0:
            self._dtypes = common_dtypes(maps)
            names = {signal: str(dtype).removeprefix("torch.") for signal, dtype in self._dtypes.items()}
            self._generation = replace(self._generation, signals=names)
            self._sink.begin(self._generation)
            self._begun = True
        copies = tuple((signal, branch, self._copies.send(self._cast(signal, tensor))) for signal, branch, tensor in maps)
        plain = all_seen and not said.perturbed  # nothing but the branches went into guided
        check = self._guided_check(said) if plain and self._step == 0 and len(shares) > 1 else None
        self._send(_Pending(copies, self._facts(step, seen, shares), check))
        self._step += 1
        self._taps.at_step(self._step, self._steps)

    def _guided_check(self, said: PipelineGuidance) -> Callable[[Mapping[str, np.ndarray]], None] | None:
        assert self._generation is not None
        return None if said.scale is None else partial(check_guided, scale=said.scale, dtype=self._generation.dtype)

    def _cast(self, signal: str, tensor: torch.Tensor) -> torch.Tensor:
        """In the signal's one dtype: pipelines widen guided in mid-step (CogVideoX, LTX) and x_t between steps (HunyuanVideo)."""
        dtype = self._dtypes.get(signal, tensor.dtype)
        if torch.promote_types(dtype, tensor.dtype) != dtype and self._step:
            warnings.warn(
                f"{signal} became {tensor.dtype} at step {self._step}; it is kept as {dtype}.", RuntimeWarning, stacklevel=2
            )
        return tensor.to(dtype)

    def _send(self, pending: _Pending) -> None:
        """Deliver at once from the CPU; from a device one step later, when its copies have long arrived."""
        previous, self._held = self._held, pending
        if previous is not None:
            self._deliver(previous)
        if not pending.in_flight:
            self._held = None
            self._deliver(pending)

    def _deliver(self, pending: _Pending) -> None:
        outputs: dict[str, np.ndarray] = {}
        for signal, branch, copy in pending.maps:
            tokens, dtype = to_numpy(copy.arrived())
            if signal == "model_output" and pending.check is not None:
                outputs[branch] = copy.arrived()[0].float().numpy().copy()
            for item, values in enumerate(tokens):
                self._sink.put(signal, values, item=item, branch=branch, dtype=dtype)
            copy.release()
        if pending.check is not None:
            pending.check(outputs)
        self._sink.commit(pending.facts())

    def _end_generation(self, error: BaseException | None = None) -> None:
        held, self._held, self._seen = self._held, None, []
        self._step, self._steps = 0, None
        self._taps.take()
        self._taps.at_step(0, None)
        begun, self._begun, self._generation = self._begun, False, None
        if not begun:
            return
        if held is not None:
            self._deliver(held)
        self._sink.end(error)

    def _describe(self, step: SchedulerStep, shares: list[Share]) -> Generation:
        call, scheduler = shares[0].seen.call, self._pipe.scheduler
        module = getattr(self._pipe, call.component)
        tables = self._tables or on_host(scheduler)
        begin = first_step(tables, step.timestep, announced_steps(self._pipe))
        refuse_inversion(tables, begin)
        self._steps = steps_to_come(self._pipe, tables, step.timestep)
        return Generation(
            grid=grid_of_call(self._probe, module.config, call.arguments, step.sample),
            prediction_type=predicted_quantity(scheduler, self._probe.output.prediction),
            branches=tuple(dict.fromkeys((GUIDED, *(share.branch for share in shares)))),
            items=step.model_output.shape[0],
            steps=self._steps,
            transformer=describe_transformer(module),
            scheduler=describe_scheduler(tables, begin + self._steps) | {"weights": recorded_weights(tables, self._steps)},
            device=str(step.sample.device),
            dtype=dtype_name(module),
            text_tokens=text_tokens(call.arguments),
            taps=self._tap_sizes(shares[0]),
            attachments={n: attachments_of(m) for n, m in networks_of(self._pipe, self._probe.tap.components).items()},
            boundary=self._boundary(),
        )

    def _boundary(self) -> float | None:
        """Where the second of two networks takes over (Wan 2.2), as a share of the training timesteps."""
        config = getattr(self._pipe, "config", {})
        boundary = config.get("boundary_ratio") if len(networks_of(self._pipe, self._probe.tap.components)) > 1 else None
        return None if boundary is None else float(boundary)

    def _tap_sizes(self, share: Share) -> dict[str, TapSize]:
        sizes = {}
        for name, tap in self._taps.taps.items():
            if name not in share.seen.taps:
                raise InputError(f"{tap.path} was not called in the first step; it cannot be tapped in this pipeline.")
            value = share.tap(name)
            dtype, (_, tokens, channels) = str(value.dtype).removeprefix("torch."), value.shape
            sizes[name] = TapSize(tokens, channels, dtype, tap.count(self._steps or 0), *self._taps.strides[name])
        return sizes

    def _maps(self, step: SchedulerStep, shares: list[Share]) -> list[tuple[str, str, torch.Tensor]]:
        assert self._generation is not None
        grid, tokens, sign = self._generation.grid, self._probe.tokens, self._probe.output.sign
        guided, guided_variance = split_variance(step.model_output, grid.channels, tokens.layout)
        maps = [self._map("sample", GUIDED, step.sample), self._map("model_output", GUIDED, guided)]
        if guided_variance is not None and all(share.branch != GUIDED for share in shares):
            maps.append(self._map("predicted_variance", GUIDED, guided_variance))
        for share in shares:
            prediction, variance = split_variance(own_output(share.output, tokens, grid), grid.channels, tokens.layout)
            if share.branch != GUIDED:
                if sign < 0:
                    prediction = [-p for p in prediction] if isinstance(prediction, list) else -prediction
                maps.append(self._map("model_output", share.branch, prediction))
            if variance is not None:
                maps.append(self._map("predicted_variance", share.branch, variance))
            for name in share.seen.taps:
                if self._taps.taps[name].wants(self._step, self._steps or 0):
                    maps.append((name, share.branch, share.tap(name)))
        return maps

    def _map(self, signal: str, branch: str, latent: torch.Tensor | list[torch.Tensor]) -> tuple[str, str, torch.Tensor]:
        assert self._generation is not None
        name = signal if signal == "sample" else f"{signal} of {branch}"
        return signal, branch, to_tokens(latent, self._probe.tokens.layout, self._generation.grid, name)

    def _facts(self, step: SchedulerStep, seen: list[Seen], shares: list[Share]) -> Callable[[], StepFacts]:
        """What the step's row will say; network times are read when it is delivered, as reading them waits for the device."""
        assert self._generation is not None
        alpha, sigma = noise_level(self._pipe.scheduler, step.timestep, self._tables)
        absent = tuple(set(self._generation.branches) - {GUIDED, *(share.branch for share in shares)})
        peak, skipped = _peak_bytes(step.sample.device), self.skipped()
        batched = len({id(s.seen) for s in shares}) < len(shares)
        own = [] if batched else [s for s in shares if s.seen.call.index not in self.received]
        clocks = {s.branch: s.seen.call.time_s for s in own}
        every = [one.call.time_s for one in seen]

        def facts() -> StepFacts:
            times = {name: clock() for name, clock in clocks.items()} | {GUIDED: sum(clock() for clock in every)}
            return StepFacts(step.timestep, alpha, sigma, times, peak, absent, skipped)

        return facts


def common_dtypes(maps: list[tuple[str, str, torch.Tensor]]) -> dict[str, torch.dtype]:
    """One dtype a signal that holds every branch exactly; x_t's also holds what a sampler makes of the prediction."""
    dtypes: dict[str, torch.dtype] = {}
    for signal, _, tensor in maps:
        dtypes[signal] = torch.promote_types(dtypes.get(signal, tensor.dtype), tensor.dtype)
    return dtypes | {"sample": torch.promote_types(dtypes["sample"], dtypes["model_output"])}


def _peak_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
