"""Policy: the rules that fit any prompt. A preset holds one, calibration finds one, a user edits one as TOML (docs/policy.md)."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeGuard

from ..decode import decode_toml
from ..errors import InputError
from .step_schedule import StepSchedule, schedule_faults

MAPS = ("jano", "x0-gradient", "velocity-change", "ras", "random", "oracle")
PADDINGS = ("count", "exclude")
TOKEN_RULES = ("majority", "packed", "maximum")
OUTPUTS = ("hold", "forecast", "corrected")
STRATEGIES = ("kv", "hidden", "kv-fp8", "kv-int8", "offload")
OFFLOAD_ONLY = ("device_mib", "window")  # keys of the cache table that mean nothing to the other strategies


@dataclass(frozen=True)
class Split:
    """Where scores are cut into levels: score thresholds, or cumulative fractions of the tiles (quantiles)."""

    static: float
    moderate: float


@dataclass(frozen=True)
class Intervals:
    """Steps between two computations of a level. 0 for static or moderate: every step is full."""

    static: int
    moderate: int
    active: int = 1


@dataclass(frozen=True)
class Enhance:
    """Inward diffusion of a tile map: gain per mean contour score, reach in tiles. Strength 0 switches it off."""

    strength: float = 0.8
    distance: float = 2


@dataclass(frozen=True)
class Cache:
    """What attention keeps of skipped tokens, and whether K and V are extrapolated linearly instead of held.

    device_mib, window: of `offload`; MiB on the device that decide how many layers stay there, working buffers included, and how
    many layers ahead are fetched.
    """

    strategy: str = "kv"
    forecast: bool = False
    device_mib: float = 0
    window: int = 2

    @classmethod
    def from_table(cls, table: Mapping[str, Any], origin: str) -> "Cache":
        """A cache table by itself; raises InputError naming `origin` and every fault."""
        if faults := _faults_of("cache", table):
            raise InputError(f"{origin}: {'; '.join(faults)}. See docs/policy.md.")
        return cls(**table)


@dataclass(frozen=True)
class Policy:
    """Everything that turns scores into token levels and steps into kinds. Fields as in docs/policy.md.

    Build it with `from_table`, `from_toml` or `from_json`, which check every value; the constructor trusts its caller.
    `tile` is in latent cells (frames, rows, columns); steps count from 0; exactly one of `thresholds` and `quantiles` is set.
    A step-level policy has a `schedule` in the place of map, warm-up, tile, cuts and intervals: it skips whole steps.
    """

    name: str
    warmup: int = 0
    cooldown: int = 0
    tile: tuple[int, int, int] = (1, 1, 1)
    intervals: Intervals = Intervals(0, 0)
    thresholds: Split | None = None
    quantiles: Split | None = None
    map: str = "jano"
    temporal_weight: float = 0.0
    initial_latent: bool = True
    padding: Literal["count", "exclude"] = "count"
    enhance: Enhance = field(default_factory=Enhance)
    tokens: str = "majority"
    output: str = "hold"
    cache: Cache = field(default_factory=Cache)
    source: str = ""
    measured_on: Mapping[str, object] = field(default_factory=dict)
    schedule: StepSchedule | None = None
    learned: tuple[tuple[int, int, float], ...] = ()  # (step, computed step, coefficient): in the place of the line's

    @classmethod
    def from_table(cls, table: Mapping[str, Any], origin: str) -> "Policy":
        """A policy from its TOML or JSON table; raises InputError naming `origin` and every fault with the legal values."""
        faults = _faults(table)
        if faults:
            raise InputError(f"{origin} is not a policy: {'; '.join(faults)}. See docs/policy.md.")
        values = {key: _PARTS[key](**value) if key in _PARTS else value for key, value in table.items()}
        if "schedule" in table:
            values["schedule"] = StepSchedule.from_table(table["schedule"])
            values["learned"] = tuple((int(n), int(m), float(share)) for n, m, share in table.get("learned", ()))
        else:
            values["tile"] = tuple(table["tile"])
        return cls(**values)

    @classmethod
    def from_toml(cls, text: str, origin: str = "policy") -> "Policy":
        return cls.from_table(decode_toml(text, origin, "Correct that line."), origin)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], origin: str = "policy") -> "Policy":
        """The inverse of `to_json`."""
        return cls.from_table(data, origin)

    @property
    def is_step_level(self) -> bool:
        """Whether it skips whole steps of all tokens, and needs nothing of the inside of a network."""
        return self.schedule is not None

    @property
    def least_warmup(self) -> int:
        """The fewest warm-up steps that its map can be made from."""
        return {"random": 0, "oracle": 0, "velocity-change": 2}.get(self.map, 1)

    def to_json(self) -> dict[str, Any]:
        """A plain dict in the order of the contract; unset parts are left out."""
        keys = _STEP_LEVEL if self.is_step_level else _TOKEN_LEVEL
        return {key: _plain(value) for key in keys if (value := getattr(self, key)) not in (None, {}, ())}

    def to_toml(self) -> str:
        """TOML text that `from_toml` reads back to an equal policy."""
        data = self.to_json()
        tables = {key: data.pop(key) for key in ("schedule", "measured_on") if key in data}
        lines = [f"{key} = {_toml(value)}" for key, value in data.items()]
        for name, table in tables.items():
            lines += ["", f"[{name}]", *(f"{_toml_key(key)} = {_toml(value)}" for key, value in table.items())]
        return "\n".join(lines) + "\n"


def preset(policies: Mapping[str, Mapping[str, Any]], name: str | None = None) -> Policy:
    """A preset of a probe's `[policies]` table by name; without a name the first, which is the family's default."""
    if not policies:
        raise InputError("this model family has no preset policies; write a policy file (docs/policy.md) and pass --policy FILE.")
    chosen = next(iter(policies)) if name is None else name
    if chosen not in policies:
        raise InputError(f"no preset policy {chosen!r}; legal: {', '.join(policies)}, or pass the path of a policy file.")
    return Policy.from_table({"name": chosen, **policies[chosen]}, f"preset {chosen}")


Check = Callable[[object], str]  # what would have been legal; empty where the value is


def _plain(value: object) -> object:
    if isinstance(value, Cache) and value.strategy != "offload":
        return {key: inner for key, inner in asdict(value).items() if key not in OFFLOAD_ONLY}
    if isinstance(value, Split | Intervals | Enhance | Cache):
        return asdict(value)
    if isinstance(value, StepSchedule):
        return value.to_json()
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: object) -> str:
    return "" if isinstance(value, str) else "text is needed"


def _flag(value: object) -> str:
    return "" if isinstance(value, bool) else "legal: true, false"


def _at_least(least: int) -> Check:
    return lambda value: "" if _is_int(value) and value >= least else f"legal: integers from {least}"


def _between(low: float, high: float) -> Check:
    return lambda value: "" if _is_number(value) and low <= value <= high else f"legal: numbers from {low:g} to {high:g}"


def _number(value: object) -> str:
    return "" if _is_number(value) else "a finite number is needed"


def _positive(value: object) -> str:
    return "" if _is_number(value) and value > 0 else "legal: numbers above 0"


def _one_of(choices: tuple[str, ...]) -> Check:
    return lambda value: "" if isinstance(value, str) and value in choices else f"legal: {', '.join(choices)}"


def _tile(value: object) -> str:
    good = isinstance(value, list | tuple) and len(value) == 3 and all(_is_int(size) and size >= 1 for size in value)
    return "" if good else "legal: three integers from 1, latent cells (frames, rows, columns)"


def _table(value: object) -> str:
    return "" if isinstance(value, Mapping) else "a table is needed"


def _learned(value: object) -> str:
    legal = "legal: a list of [step, computed step, coefficient]"
    rows = value if isinstance(value, list | tuple) else [None]
    good = all(isinstance(r, list | tuple) and len(r) == 3 and _is_int(r[0]) and _is_int(r[1]) and _is_number(r[2]) for r in rows)
    return "" if good else legal


_FRACTION = _between(0, 1)
_PARTS: dict[str, Any] = {"thresholds": Split, "quantiles": Split, "intervals": Intervals, "enhance": Enhance, "cache": Cache}
# a check gives "" or what would have been legal; a dict of checks is a table with exactly those keys; order is the contract's
_CHECKS: dict[str, Check | dict[str, Check]] = {
    "name": _text,
    "map": _one_of(MAPS),
    "warmup": _at_least(0),
    "cooldown": _at_least(0),
    "tile": _tile,
    "temporal_weight": _between(0, 1),
    "initial_latent": _flag,
    "padding": _one_of(PADDINGS),
    "enhance": {"strength": _between(0, 1e6), "distance": _positive},
    "tokens": _one_of(TOKEN_RULES),
    "thresholds": {"static": _number, "moderate": _number},
    "quantiles": {"static": _FRACTION, "moderate": _FRACTION},
    "intervals": {"static": _at_least(0), "moderate": _at_least(0), "active": _at_least(1)},
    "output": _one_of(OUTPUTS),
    "cache": {"strategy": _one_of(STRATEGIES), "forecast": _flag, "device_mib": _between(0, 1e9), "window": _at_least(1)},
    "source": _text,
    "measured_on": _table,
    "learned": _learned,
}
_TOKEN_LEVEL = tuple(key for key in _CHECKS if key != "learned")
_STEP_LEVEL = ("name", "output", "learned", "source", "schedule", "measured_on")
_REQUIRED = ("name", "warmup", "cooldown", "tile", "intervals")
_REQUIRED_IN = {"thresholds": ("static", "moderate"), "quantiles": ("static", "moderate"), "intervals": ("static", "moderate")}


def _faults(table: object) -> list[str]:
    if not isinstance(table, Mapping):
        return [f"it is {table!r}, not a table"]
    if "schedule" in table:
        return _step_level_faults(table)
    faults = [f"lacks {key!r}" for key in _REQUIRED if key not in table]
    if "learned" in table:
        faults.append("'learned' belongs to a policy with a [schedule]")
    if ("thresholds" in table) == ("quantiles" in table):
        faults.append("needs exactly one of 'thresholds' and 'quantiles'")
    for key, value in table.items():
        faults += _faults_of(key, value)
    quantiles = table.get("quantiles")
    if isinstance(quantiles, Mapping) and not _faults_of("quantiles", quantiles) and quantiles["moderate"] < quantiles["static"]:
        faults.append(
            f"quantiles.moderate = {quantiles['moderate']} lies below quantiles.static = {quantiles['static']}; "
            "both are cumulative fractions, so moderate is the larger"
        )
    return faults


def _step_level_faults(table: Mapping[str, Any]) -> list[str]:
    faults = [] if "name" in table else ["lacks 'name'"]
    if beside := [key for key in table if key in _CHECKS and key not in _STEP_LEVEL]:
        faults.append(f"{', '.join(beside)} mean nothing beside schedule, which skips whole steps; leave them out")
    faults += schedule_faults(table["schedule"])
    for key, value in table.items():
        if key in _STEP_LEVEL and key != "schedule":
            faults += _faults_of(key, value)
        elif key not in _CHECKS and key != "schedule":
            faults.append(f"unknown key {key!r} (known: {', '.join(_STEP_LEVEL)})")
    if "learned" in table and not faults:
        faults += _learned_faults(table)
    return faults


def _learned_faults(table: Mapping[str, Any]) -> list[str]:
    schedule, computed = table["schedule"], set(table["schedule"].get("computed", ()))
    if not computed:
        return ["learned coefficients belong to a list of computed steps, not to every k-th step; give schedule.computed"]
    if table.get("output", "hold") == "hold":
        return ['learned coefficients need output = "forecast" or "corrected"']
    wrong = [row for row in table["learned"] if not 0 <= row[0] < schedule["steps"] or row[1] not in computed or row[1] > row[0]]
    return [f"learned holds {list(wrong[0])}, whose second number is no computed step at or before the first"] if wrong else []


def _cache_faults(table: Mapping[str, Any]) -> list[str]:
    cache, faults = Cache(**table), []
    if cache.forecast and cache.strategy != "kv":
        faults.append(
            f"cache.forecast draws a line through keys and values, which strategy {cache.strategy!r} does not hold two of; "
            "take strategy kv, or leave forecast out"
        )
    if cache.strategy != "offload" and (idle := [f"cache.{key}" for key in OFFLOAD_ONLY if key in table]):
        faults.append(f"{' and '.join(idle)} belong to strategy offload, not to {cache.strategy!r}")
    return faults


def _faults_of(key: str, value: object) -> list[str]:
    check = _CHECKS.get(key)
    if check is None:
        return [f"unknown key {key!r} (known: {', '.join(_CHECKS)})"]
    if not isinstance(check, dict):
        return [f"{key} = {value!r}; {legal}"] if (legal := check(value)) else []
    if not isinstance(value, Mapping):
        return [f"{key} = {value!r}; a table with {', '.join(check)} is needed"]
    faults = [f"{key} has no key {inner!r} (known: {', '.join(check)})" for inner in value if inner not in check]
    faults += [f"{key} lacks {inner!r}" for inner in _REQUIRED_IN.get(key, ()) if inner not in value]
    faults += [
        f"{key}.{inner} = {value[inner]!r}; {legal}"
        for inner in check
        if inner in value and (legal := check[inner](value[inner]))
    ]
    return faults or (_cache_faults(value) if key == "cache" else [])


def _toml_key(key: str) -> str:
    return key if key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key) else _toml_string(key)


def _toml_string(text: str) -> str:
    # a JSON string is a TOML basic string, but for the raw delete character that JSON leaves alone
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(key)} = {_toml(inner)}" for key, inner in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # TOML writes nan, inf and -inf as Python does
    if value is None or not isinstance(value, str | bool | int | float):
        raise InputError(f"measured_on holds {value!r}, which TOML cannot write; use text, numbers, true/false, lists or tables.")
    return _toml_string(value) if isinstance(value, str) else json.dumps(value)


def skips_steps_only(policy: Policy) -> bool:
    """Whether a step is computed whole or not at all: every token is active, or all levels have one interval."""
    every = policy.intervals
    all_active = policy.quantiles is not None and policy.quantiles.moderate == 0
    return all_active or every.static == every.moderate == every.active
