"""Methods that `compare` puts side by side: how each is spelled, and how one generation is made with it."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch

from ...capture.patch import InstancePatch
from ...errors import InputError
from ...execution import Executor
from ...execution.flops import CallKind, CountedNetwork, FlopCounter, FlopMeter, flop_counter, shapes_of
from ...pipeline.call import PipelineCall
from ...pipeline.generate import Generated, generate
from ...pipeline.model import Model
from ...plan import OUTPUTS, Plan, PlanSelector, Policy, RandomSelector, RasOptions, RasSelector, random_scores
from ...plan.fingerprint import Identity
from ...plan.levels import words_of
from ..apply.departures import departures_of_call
from .measure import Cost, clock, device_of
from .oracle import reuse_error_of
from .spec import Options, Spec, flag, fraction, integers, numbers, positive


class Method(Protocol):
    """Makes generations its own way. counts_apart: FLOPs differ from call to call and cost a generation of their own to count."""

    spec: Spec
    counts_apart: bool

    def generate(self, model: Model, call: PipelineCall, count: bool) -> tuple[Generated, Cost]:
        """One generation; with `count` its FLOPs are counted, and its time means nothing."""
        ...


class Plain:
    """The pipeline as it is: the full run, or one of fewer steps."""

    counts_apart = False

    def __init__(self, spec: Spec, change: Callable[[PipelineCall], PipelineCall] = lambda call: call):
        self.spec, self._change, self._meter = spec, change, FlopMeter()

    def generate(self, model: Model, call: PipelineCall, count: bool) -> tuple[Generated, Cost]:
        with noted_calls(model, self._meter) as calls, clock(device_of(model)) as told:
            made = generate(model, self._change(call))
        each = [network.flops(kind) for network, kind in calls]
        flops = None if None in each else sum(count for count in each if count is not None)
        if flops is None and count:  # the network reads values, so only a real generation shows its FLOPs
            flops = _flops_of_generation(model, self._change(call))
        return made, Cost(flops=flops, cache_bytes=0, **told)


def _flops_of_generation(model: Model, call: PipelineCall) -> int:
    """FLOPs of all network calls of a generation made for this."""
    counters: list[FlopCounter] = []

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            with flop_counter() as counter:
                output = original(*args, **kwargs)
            counters.append(counter)
            return output

        return forward

    networks = [module for name in model.probe.tap.components if (module := getattr(model.pipe, name, None)) is not None]
    patches = [InstancePatch(network, "forward", wrap) for network in networks]
    try:
        generate(model, call)
    finally:
        for patch in patches:
            patch.remove()
    return sum(int(counter.get_total_flops()) for counter in counters)


@contextmanager
def noted_calls(model: Model, meter: FlopMeter) -> Iterator[list[tuple[CountedNetwork, CallKind]]]:
    """Of what kind every network call is, appended to the yielded list; their FLOPs are counted when somebody asks."""
    calls: list[tuple[CountedNetwork, CallKind]] = []
    patches = []

    def wrap_of(name: str, module: torch.nn.Module) -> Any:
        network, signature = meter.network(name, module), inspect.signature(type(module).forward)

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                arguments = signature.bind(module, *args, **kwargs).arguments
                kind = CallKind(shapes_of(arguments))
                network.note(kind, arguments)
                calls.append((network, kind))
                return original(*args, **kwargs)

            return forward

        return wrap

    for name in model.probe.tap.components:
        module = getattr(model.pipe, name, None)
        if module is not None:
            patches.append(InstancePatch(module, "forward", wrap_of(name, module)))
    try:
        yield calls
    finally:
        for patch in patches:
            patch.remove()


class Executed:
    """Our executor, with what `arguments` gives for a model and call: policy, plan, selector, choose."""

    counts_apart = False  # the account counts when the generation is over, each kind of call once

    def __init__(self, spec: Spec, arguments: Callable[[Model, PipelineCall], Mapping[str, Any]]):
        self.spec, self._arguments, self._meter = spec, arguments, FlopMeter()

    def generate(self, model: Model, call: PipelineCall, count: bool) -> tuple[Generated, Cost]:
        arguments = self._arguments(model, call)
        identity = Identity(model.name, call.prompt, call.seed, call.guidance_facts())
        options: dict[str, Any] = {"identity": identity, "meter": self._meter, "on_select": model.on_select, **arguments}
        with Executor(model.pipe, model.probe, **options) as executor:
            with clock(device_of(model)) as told:
                made = generate(model, call)
            account = executor.account
        note = account.warning or (f"{account.nonfinite} non-finite values" if account.nonfinite else "")
        if executor.policy is not None and not note:
            note = " ".join(departures_of_call(executor.policy, model, call))
        return made, Cost(flops=sum(s.flops for s in account.steps), cache_bytes=account.cache_bytes, note=note, **told)


POLICY_OPTIONS = (
    "preset or file, map, tile=F/R/C, thresholds=S/M, quantiles=S/M, intervals=S/M/A, warmup, cooldown, output, keys, "
    "cache=STRATEGY, device_mib, window"
)


def policy_maker(spec: Spec, options: Options) -> Callable[[Model], Policy]:
    """What makes the policy of a spec for a model: a preset or file (else the model's default) with changes."""
    if {"preset", "file"} <= set(spec.options):
        raise InputError(f"--method {spec.text}: preset or file, one of the two.")
    name = options.take("preset", str, None) or options.take("file", str, None)
    changes: dict[str, Any] = {}
    for key, kind in (("map", str), ("warmup", int), ("cooldown", int)):
        if (value := options.take(key, kind, None)) is not None:
            changes[key] = value
    if "output" in spec.options:
        changes["output"] = options.one_of("output", OUTPUTS, "hold")
    cache = _cache_changes(spec, options)
    for key in ("thresholds", "quantiles"):
        if (values := options.take(key, numbers(2), None)) is not None:
            changes[key] = dict(zip(("static", "moderate"), values, strict=True))
    if {"thresholds", "quantiles"} <= set(changes):
        raise InputError(f"--method {spec.text}: thresholds or quantiles, one of the two.")
    if (values := options.take("tile", integers(3), None)) is not None:
        changes["tile"] = list(values)
    if (values := options.take("intervals", integers(3), None)) is not None:
        changes["intervals"] = dict(zip(("static", "moderate", "active"), values, strict=True))

    def make(model: Model) -> Policy:
        table = model.policy(name).to_json()
        if cache:  # another strategy than the policy's brings none of its settings along
            table["cache"] = cache if "strategy" in cache else {**table["cache"], **cache}
        if {"thresholds", "quantiles"} & set(changes):
            table = {key: value for key, value in table.items() if key not in ("thresholds", "quantiles")}
        return Policy.from_table(table | changes, f"--method {spec.text}")

    return make


def _cache_changes(spec: Spec, options: Options) -> dict[str, Any]:
    cache: dict[str, Any] = {}
    if "keys" in spec.options:
        cache["forecast"] = options.one_of("keys", ("hold", "forecast"), "hold") == "forecast"
    for key, name, kind in (("strategy", "cache", str), ("device_mib", "device_mib", float), ("window", "window", int)):
        if (value := options.take(name, kind, None)) is not None:
            cache[key] = value
    return cache


# --- our methods ---


def _full(spec: Spec) -> Method:
    Options(spec).end("no options")
    return Plain(spec)


def _fewer_steps(spec: Spec) -> Method:
    options = Options(spec)
    steps, compute = options.take("steps", positive, None), options.take("compute", fraction, None)
    options.end("steps or compute")
    if (steps is None) == (compute is None):
        raise InputError(f"--method {spec.text}: steps=N or compute=C is needed, one of the two.")

    def change(call: PipelineCall) -> PipelineCall:
        if steps is None and call.steps is None:
            raise InputError(f"--method {spec.text}: the pipeline's own number of steps is not known; give steps=N.")
        count = steps or max(1, round(compute * (call.steps or 0)))
        return replace(call, arguments={**call.arguments, "num_inference_steps": count})

    return Plain(spec, change)


def _jano(spec: Spec) -> Method:
    options = Options(spec)
    make = policy_maker(spec, options)
    options.end(POLICY_OPTIONS)
    return Executed(spec, lambda model, call: {"policy": make(model)})


def _uniform(spec: Spec) -> Method:
    """Every k-th step between warm-up and cool-down, all tokens of it; the others hold or forecast the output."""
    options = Options(spec)
    every, output = options.take("k", positive, 2), options.one_of("output", OUTPUTS, "hold")
    warmup, cooldown = options.take("warmup", int, None), options.take("cooldown", int, None)
    options.end("k, output, warmup, cooldown")

    def make(model: Model) -> Policy:
        default = model.policy(None)
        ends = {
            "warmup": default.warmup if warmup is None else warmup,
            "cooldown": default.cooldown if cooldown is None else cooldown,
        }
        intervals = {"static": every, "moderate": every, "active": every}
        table = {"name": spec.text, "map": "random", "tile": list(default.tile), "quantiles": {"static": 0, "moderate": 0}}
        return Policy.from_table({**table, **ends, "intervals": intervals, "output": output}, f"--method {spec.text}")

    return Executed(spec, lambda model, call: {"policy": make(model)})


def _random(spec: Spec) -> Method:
    """A policy's plan with its levels handed out to random tiles, or its tokens drawn anew at every step."""
    options = Options(spec)
    draw, seed = options.one_of("draw", ("tiles", "steps"), "tiles"), options.take("rng", int, 0)
    make = policy_maker(spec, options)
    options.end(f"draw=tiles or steps, rng, {POLICY_OPTIONS}")

    def arguments(model: Model, call: PipelineCall) -> dict[str, Any]:
        stream = 1000 * seed + call.seed
        if draw == "steps":
            return {"policy": make(model), "choose": lambda plan: RandomSelector(plan, stream)}
        return {"policy": make(model), "choose": lambda plan: PlanSelector(with_levels_by(plan, _random_tiles(plan, stream)))}

    return Executed(spec, arguments)


def _random_tiles(plan: Plan, seed: int) -> np.ndarray:
    """Random scores, as blocky as the policy's map, for every token."""
    from ...analysis import token_means

    grid = plan.fingerprint.grid
    return np.asarray(token_means(random_scores(grid.tiles(plan.policy.tile), seed), grid, plan.policy.tile))


def _oracle(spec: Spec) -> Method:
    """A policy's plan with its levels handed out by the full run's own reuse error: the ceiling of any map at its budget."""
    options = Options(spec)
    make = policy_maker(spec, options)
    options.end(POLICY_OPTIONS)
    known: dict[tuple[str, int], np.ndarray] = {}

    def arguments(model: Model, call: PipelineCall) -> dict[str, Any]:
        key = call.prompt, call.seed
        if key not in known:
            known[key] = reuse_error_of(model, call)
        return {"policy": make(model), "choose": lambda plan: PlanSelector(with_levels_by(plan, known[key]))}

    return Executed(spec, arguments)


def with_levels_by(plan: Plan, scores: np.ndarray) -> Plan:
    """The plan with as many tokens of each level, the highest of the scores (token,) active, the lowest static."""
    ranks = np.empty_like(plan.ranks)
    ranks[np.argsort(scores, kind="stable")] = np.sort(plan.ranks)
    return replace(plan, token_level=words_of(ranks))


def _ras(spec: Spec) -> Method:
    options = Options(spec)
    default = RasOptions(end=30)
    chosen = RasOptions(
        start=options.take("start", int, default.start),
        end=options.take("end", lambda text: None if text == "N" else int(text), default.end),
        resets=options.take("resets", lambda text: tuple(int(part) for part in text.split("/")), default.resets),
        ratio=options.take("ratio", float, default.ratio),
        high_ratio=options.take("high_ratio", float, default.high_ratio),
        starvation=options.take("starvation", float, default.starvation),
        skip_step=options.take("skip_step", int, default.skip_step),
        skip_length=options.take("skip_length", int, default.skip_length),
        metric=options.one_of("metric", ("std", "l2norm"), default.metric),  # type: ignore[arg-type]
        official=options.take("official", flag, default.official),
    )
    known = "start, end (a step or N), resets=A/B, ratio, high_ratio, starvation, skip_step, skip_length, metric, official"
    options.end(known)
    return Executed(spec, lambda model, call: {"selector": lambda steps, grid: RasSelector(chosen, steps, grid.count)})


OUR_METHODS: Mapping[str, Callable[[Spec], Method]] = {
    "full": _full,
    "jano": _jano,
    "policy": _jano,
    "ras": _ras,
    "fewer-steps": _fewer_steps,
    "uniform": _uniform,
    "random": _random,
    "oracle": _oracle,
}
