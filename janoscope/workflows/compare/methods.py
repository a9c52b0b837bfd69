"""Methods that `compare` puts side by side: how each is spelled, and how one generation is made with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast

import numpy as np

from ...errors import InputError
from ...execution import Executor, StepExecutor, executor_for
from ...execution.counting.flops import FlopMeter
from ...grid import TokenGrid
from ...pipeline.call import PipelineCall
from ...pipeline.generate import Generated, generate
from ...pipeline.model import Model
from ...plan import OUTPUTS, Plan, PlanSelector, Policy, RandomSelector, RasOptions, RasSelector, Selector, random_scores
from ...plan.fingerprint import Identity
from ...plan.levels import words_of
from ..apply.departures import departures_of_call
from .measure import Cost, clock, device_of, flops_of_generation, noted_calls
from .oracle import reuse_error_of
from .policies import POLICY_OPTIONS, SCHEDULE_OPTIONS, PolicyMaker, policy_maker, schedule_maker, token_level
from .spec import Options, Spec, flag, fraction, positive


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
        with noted_calls(model, self._meter) as calls, clock(device_of(model)) as timing:
            generated = generate(model, self._change(call))
        each = [network.flops(kind) for network, kind in calls]
        flops = None if None in each else sum(count for count in each if count is not None)
        if flops is None and count:  # the network reads values, so only a real generation shows its FLOPs
            flops = flops_of_generation(model, self._change(call))
        return generated, timing.cost(flops, 0)


@dataclass(frozen=True)
class Instructions:
    """What the executor of one generation obeys: a policy, with who chooses the tokens of its plan, or a selector alone."""

    policy: Policy | None = None
    choose: Callable[[Plan], Selector] | None = None
    selector: Callable[[TokenGrid, Sequence[float]], Selector] | None = None


class Executed:
    """Our executors, of tokens or of whole steps, under the instructions for a model and call."""

    counts_apart = False  # the summary counts when the generation is over, each kind of call once

    def __init__(self, spec: Spec, instructions: Callable[[Model, PipelineCall], Instructions]):
        self.spec, self._instructions, self._meter = spec, instructions, FlopMeter()

    def generate(self, model: Model, call: PipelineCall, count: bool) -> tuple[Generated, Cost]:
        with self._executor(model, call) as executor:
            with clock(device_of(model)) as timing:
                generated = generate(model, call)
            summary = executor.summary
        note = summary.warning or (f"{summary.nonfinite} non-finite values" if summary.nonfinite else "")
        if executor.policy is not None and not note:
            note = " ".join(departures_of_call(executor.policy, model, call))
        return generated, timing.cost(sum(step.flops for step in summary.steps), summary.cache_bytes, note)

    def _executor(self, model: Model, call: PipelineCall) -> Executor | StepExecutor:
        orders = self._instructions(model, call)
        identity = Identity(model.name, call.prompt, call.seed, call.guidance_facts())
        if orders.choose is None and orders.selector is None:
            return executor_for(
                model.pipe,
                model.probe,
                policy=orders.policy,
                identity=identity,
                meter=self._meter,
                on_select=model.on_select,
            )
        return Executor(
            model.pipe,
            model.probe,
            policy=orders.policy,
            selector=orders.selector,
            choose=orders.choose or PlanSelector,
            identity=identity,
            meter=self._meter,
            on_select=model.on_select,
        )


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
        count = max(1, round((compute or 0) * (call.steps or 0))) if steps is None else steps
        return replace(call, arguments={**call.arguments, "num_inference_steps": count})

    return Plain(spec, change)


def _jano(spec: Spec) -> Method:
    options = Options(spec)
    make = policy_maker(spec, options)
    options.end(POLICY_OPTIONS)
    return _under(spec, make)


def _schedule(spec: Spec) -> Method:
    """A policy that skips whole steps, from a file, a preset or a rule."""
    options = Options(spec)
    make = schedule_maker(spec, options)
    options.end(SCHEDULE_OPTIONS)
    return _under(spec, make)


def _under(spec: Spec, make: PolicyMaker) -> Method:
    return Executed(spec, lambda model, call: Instructions(make(model)))


def _uniform(spec: Spec) -> Method:
    """Every k-th step between warm-up and cool-down, all tokens of it; the others reuse or forecast the output."""
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

    return _under(spec, make)


def _random(spec: Spec) -> Method:
    """A policy's plan with its levels handed out to random tiles, or its tokens drawn anew at every step."""
    options = Options(spec)
    draw, seed = options.one_of("draw", ("tiles", "steps"), "tiles"), options.take("rng", int, 0)
    make = policy_maker(spec, options)
    options.end(f"draw=tiles or steps, rng, {POLICY_OPTIONS}")

    def instructions(model: Model, call: PipelineCall) -> Instructions:
        policy, stream = token_level(spec, make(model)), 1000 * seed + call.seed
        if draw == "steps":
            return Instructions(policy, lambda plan: RandomSelector(plan, stream))
        return Instructions(policy, lambda plan: PlanSelector(with_levels_by(plan, _random_tiles(plan, stream))))

    return Executed(spec, instructions)


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
    errors: dict[tuple[str, int], np.ndarray] = {}

    def instructions(model: Model, call: PipelineCall) -> Instructions:
        policy, key = token_level(spec, make(model)), (call.prompt, call.seed)
        if key not in errors:
            errors[key] = reuse_error_of(model, call)
        return Instructions(policy, lambda plan: PlanSelector(with_levels_by(plan, errors[key])))

    return Executed(spec, instructions)


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
        metric=cast(Literal["std", "l2norm"], options.one_of("metric", ("std", "l2norm"), default.metric)),
        official=options.take("official", flag, default.official),
    )
    options.end("start, end (a step or N), resets=A/B, ratio, high_ratio, starvation, skip_step, skip_length, metric, official")
    rules = Instructions(selector=lambda grid, sigma: RasSelector(chosen, grid, sigma))
    return Executed(spec, lambda model, call: rules)


OUR_METHODS: Mapping[str, Callable[[Spec], Method]] = {
    "full": _full,
    "jano": _jano,
    "policy": _jano,
    "schedule": _schedule,
    "ras": _ras,
    "fewer-steps": _fewer_steps,
    "uniform": _uniform,
    "random": _random,
    "oracle": _oracle,
}
