"""A policy in words, for people: a row a rule, as (name, text)."""

from ..plan import Policy
from ..plan.policy import skips_steps_only
from ..plan.step_schedule import StepSchedule

STAND_INS = {
    "hold": "the last output is reused",
    "forecast": "extrapolated linearly from the last two computed outputs",
    "corrected": "extrapolated, and corrected at the next computed step",
}
MOST_STEPS = 40  # longer lists of computed steps are cut in the middle

Rows = list[tuple[str, str]]


def policy_rows(policy: Policy) -> Rows:
    """The rules of a policy that have an effect, in words; of one that skips whole steps no map, tile or levels.

    Example:
        >>> from janoscope.plan import Policy
        >>> policy = Policy.from_table({"name": "every third", "schedule": {"every": 3, "warmup": 5, "cooldown": 2}}, "example")
        >>> policy_rows(policy)[:2]
        [('skips', 'whole steps, all tokens alike'), ('computed steps', 'the first 5, every 3rd after them, and the last 2')]
    """
    if policy.schedule is not None:
        rules = _schedule_rows(policy.schedule, len(policy.learned))
    elif skips_steps_only(policy):
        rules = [("skips", "whole steps, all tokens alike"), ("computed steps", _interval_words(policy))]
    else:
        rules = _token_rows(policy)
    skipped = "skipped steps" if skips_whole_steps(policy) else "skipped tokens"
    source = [("source", policy.source)] if policy.source else []
    return [*rules, (skipped, STAND_INS[policy.output]), *source]


def skips_whole_steps(policy: Policy) -> bool:
    """Whether a step is computed for all tokens or for none."""
    return policy.is_step_level or skips_steps_only(policy)


def _schedule_rows(schedule: StepSchedule, learned: int) -> Rows:
    rows = [("skips", "whole steps, all tokens alike")]
    if schedule.every:
        first = f"the first {max(schedule.warmup, 1)}, every {_ordinal(schedule.every)} after them"
        rows.append(("computed steps", first + (f", and the last {schedule.cooldown}" if schedule.cooldown else "")))
    else:
        rows.append(("computed steps", f"{len(schedule.computed)} of {schedule.steps}: {_listed(schedule.computed)}"))
    if learned:
        rows.append(("coefficients", f"{learned}, learned from recordings, in the place of the line's"))
    return rows


def _interval_words(policy: Policy) -> str:
    every = sorted({policy.intervals.static, policy.intervals.moderate, policy.intervals.active} - {0})
    multiples = " and ".join(f"every {_ordinal(interval)}" for interval in every)
    if policy.intervals.static == 0 or policy.intervals.moderate == 0 or 1 in every:
        return "all"
    return f"the first {policy.warmup}, {multiples} after them" + (f", and the last {policy.cooldown}" if policy.cooldown else "")


def _token_rows(policy: Policy) -> Rows:
    enhance = policy.enhance
    rows = [
        ("map", f"{policy.map}, made after {policy.warmup} warm-up steps" if policy.warmup else policy.map),
        ("levels", _level_words(policy)),
        ("token rule", f"{policy.tokens} of a token's tiles"),
        ("intervals", _level_intervals(policy)),
        ("tile", f"{' × '.join(map(str, policy.tile))} latent cells (frames × rows × columns)"),
        ("cool-down", f"{policy.cooldown} full steps at the end" if policy.cooldown else "none"),
        ("cache", _cache_words(policy)),
    ]
    if policy.map == "jano":
        strength = f"strength {enhance.strength:g}, {enhance.distance:g} tiles far" if enhance.strength else "off"
        rows += [
            ("inward diffusion", strength),
            ("first signal", "the initial noise" if policy.initial_latent else "the first prediction"),
            ("weight of time", f"{policy.temporal_weight:g}"),
        ]
    return rows


def _level_words(policy: Policy) -> str:
    if policy.quantiles is not None:
        static, moderate = policy.quantiles.static, policy.quantiles.moderate
        return f"the lowest {static:.0%} of the tiles static, the next {moderate - static:.0%} moderate, the rest active"
    assert policy.thresholds is not None  # a policy has exactly one of the two
    return f"static below a score of {policy.thresholds.static:g}, moderate below {policy.thresholds.moderate:g}, else active"


def _level_intervals(policy: Policy) -> str:
    every = policy.intervals
    if not every.static or not every.moderate:
        return "every step is full"
    pairs = (("static", every.static), ("moderate", every.moderate), ("active", every.active))
    return ", ".join(f"{level} tokens every {'step' if n == 1 else f'{n} steps'}" for level, n in pairs)


def _cache_words(policy: Policy) -> str:
    names = {"kv": "attention keys and values", "hidden": "hidden states", "kv-fp8": "keys and values in 8-bit floats",
             "kv-int8": "keys and values in 8-bit integers", "offload": "keys and values, in host memory"}  # fmt: skip
    return names[policy.cache.strategy] + (", extrapolated linearly" if policy.cache.forecast else "")


def _listed(steps: tuple[int, ...]) -> str:
    if len(steps) <= MOST_STEPS:
        return ", ".join(map(str, steps))
    half = MOST_STEPS // 2
    return f"{', '.join(map(str, steps[:half]))} … {', '.join(map(str, steps[-half:]))}"


def _ordinal(number: int) -> str:
    """Such as `2nd`.

    >>> [_ordinal(number) for number in (1, 2, 3, 4, 11, 22)]
    ['1st', '2nd', '3rd', '4th', '11th', '22nd']
    """
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
