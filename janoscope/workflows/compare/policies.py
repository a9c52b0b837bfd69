"""The policy that a method's options describe."""

from collections.abc import Callable

from ...errors import InputError
from ...pipeline.model import Model
from ...plan import OUTPUTS, Policy
from .spec import Options, Spec, integers, numbers, positive

POLICY_OPTIONS = (
    "preset or file, map, tile=F/R/C, thresholds=S/M, quantiles=S/M, intervals=S/M/A, warmup, cooldown, output, keys, "
    "cache=STRATEGY, device_mib, window"
)
SCHEDULE_OPTIONS = "preset or file, or every with warmup and cooldown; output"
PolicyMaker = Callable[[Model], Policy]


def policy_maker(spec: Spec, options: Options) -> PolicyMaker:
    """What makes the policy of a spec for a model: a preset or file (else the model's default) with changes.

    Raises InputError for options that contradict each other; the maker does so for changes that the policy cannot have.
    """
    name = _name(spec, options)
    changes: dict[str, object] = {}
    for key, value in (
        ("map", options.take("map", str, None)),
        ("warmup", options.take("warmup", int, None)),
        ("cooldown", options.take("cooldown", int, None)),
    ):
        if value is not None:
            changes[key] = value
    if "output" in spec.options:
        changes["output"] = options.one_of("output", OUTPUTS, "hold")
    cache = _cache_changes(spec, options)
    for key in ("thresholds", "quantiles"):
        if (levels := options.take(key, numbers(2), None)) is not None:
            changes[key] = dict(zip(("static", "moderate"), levels, strict=True))
    if {"thresholds", "quantiles"} <= set(changes):
        raise InputError(f"--method {spec.text}: thresholds or quantiles, one of the two.")
    if (tile := options.take("tile", integers(3), None)) is not None:
        changes["tile"] = tile
    if (intervals := options.take("intervals", integers(3), None)) is not None:
        changes["intervals"] = dict(zip(("static", "moderate", "active"), intervals, strict=True))

    def make(model: Model) -> Policy:
        policy = model.policy(name)
        table = policy.to_json()
        if cache:  # another strategy than the policy's brings none of its settings along
            table["cache"] = cache if "strategy" in cache else {**table.get("cache", {}), **cache}
        if {"thresholds", "quantiles"} & set(changes):
            table = {key: value for key, value in table.items() if key not in ("thresholds", "quantiles")}
        if policy.is_step_level and "output" in changes:  # learned coefficients belong to the output they were fitted for
            table.pop("learned", None)
        return Policy.from_table(table | changes, f"--method {spec.text}")

    return make


def schedule_maker(spec: Spec, options: Options) -> PolicyMaker:
    """What makes the step-level policy of a spec: a preset or file with a [schedule], or every k-th step.

    Raises InputError where neither or both are given; the maker does so where the policy has no [schedule].
    """
    name = _name(spec, options)
    every = options.take("every", positive, None)
    ends = {"warmup": options.take("warmup", int, None), "cooldown": options.take("cooldown", int, None)}
    output = options.one_of("output", OUTPUTS, "corrected") if every or "output" in spec.options else None
    if (name is None) == (every is None):
        raise InputError(f"--method {spec.text}: file=PATH, preset=NAME or every=K is needed, one of them.")
    if name is not None and any(value is not None for value in ends.values()):
        raise InputError(f"--method {spec.text}: warmup and cooldown belong to every=K; a policy has its own steps.")
    if every is not None:
        rule = {"every": every, **{key: value for key, value in ends.items() if value is not None}}
        policy = Policy.from_table({"name": spec.text, "output": output, "schedule": rule}, f"--method {spec.text}")
        return lambda model: policy

    def make(model: Model) -> Policy:
        policy = model.policy(name)
        if not policy.is_step_level:
            raise InputError(f"--method {spec.text}: policy {policy.name} has no [schedule]; run it with policy:{spec.place}.")
        table = policy.to_json()
        if output is not None and output != policy.output:
            table = {key: value for key, value in table.items() if key != "learned"} | {"output": output}
        return Policy.from_table(table, f"--method {spec.text}")

    return make


def token_level(spec: Spec, policy: Policy) -> Policy:
    """The policy; InputError for one that skips whole steps, which has no levels to hand out."""
    if policy.is_step_level:
        raise InputError(f"--method {spec.text}: policy {policy.name} skips whole steps and gives tokens no levels.")
    return policy


def _name(spec: Spec, options: Options) -> str | None:
    if {"preset", "file"} <= set(spec.options):
        raise InputError(f"--method {spec.text}: preset or file, one of the two.")
    return options.take("preset", str, None) or options.take("file", str, None)


def _cache_changes(spec: Spec, options: Options) -> dict[str, object]:
    cache: dict[str, object] = {}
    if "keys" in spec.options:
        cache["forecast"] = options.one_of("keys", ("hold", "forecast"), "hold") == "forecast"
    for key, value in (
        ("strategy", options.take("cache", str, None)),
        ("device_mib", options.take("device_mib", float, None)),
        ("window", options.take("window", int, None)),
    ):
        if value is not None:
            cache[key] = value
    return cache
