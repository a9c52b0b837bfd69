"""The account of a generation: what was computed at every step, against what a full run computes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..plan import CacheBytes


@dataclass(frozen=True)
class StepSummary:
    """One scheduler step. tokens: image tokens computed; flops: of all its network calls; full_flops: of the same calls, had
    every token been computed; forced: refreshed out of turn."""

    step: int
    kind: str
    tokens: int
    flops: int
    full_flops: int
    calls: int
    forced: bool = False


@dataclass
class RunSummary:
    """Filled while a generation runs. Fractions are against every token and every FLOP of the full run.

    FLOPs are counted when `steps` are first read, not while the generation runs.
    cache_device_bytes, cache_host_bytes: the most that was kept of attentions, between steps; cache_bytes is their sum.
    """

    image_tokens: int = 0
    cache_strategy: str = "kv"
    cache_device_bytes: int = 0
    cache_host_bytes: int = 0
    nonfinite: int = 0
    token_levels: dict[str, int] = field(default_factory=dict)
    _counted: list[StepSummary] = field(default_factory=list)
    _uncounted: list[Callable[[], StepSummary]] = field(default_factory=list)

    @property
    def steps(self) -> list[StepSummary]:
        """Every step that was made, its FLOPs counted."""
        while self._uncounted:
            self._counted.append(self._uncounted[0]())
            del self._uncounted[0]
        return self._counted

    def add(self, step: Callable[[], StepSummary]) -> None:
        """A step has been made; `step` counts its FLOPs."""
        self._uncounted.append(step)

    @property
    def cache_bytes(self) -> int:
        return self.cache_device_bytes + self.cache_host_bytes

    def note_cache(self, held: CacheBytes) -> None:
        """What is kept after a step."""
        self.cache_device_bytes = max(self.cache_device_bytes, held.device)
        self.cache_host_bytes = max(self.cache_host_bytes, held.host)

    @property
    def compute(self) -> float:
        """FLOPs done / FLOPs of a full run that makes the same network calls: guidance that ends midway leaves fewer."""
        full = sum(step.full_flops for step in self.steps)
        return sum(step.flops for step in self.steps) / full if full else 1.0

    @property
    def token_fraction(self) -> float:
        full = self.image_tokens * len(self.steps)
        return sum(step.tokens for step in self.steps) / full if full else 1.0

    @property
    def kinds(self) -> list[str]:
        return [step.kind for step in self.steps]

    @property
    def warning(self) -> str | None:
        """A sentence where the policy saved next to nothing."""
        if self.compute > 0.95:
            return f"only {1 - self.compute:.1%} of the FLOPs were saved; loosen the thresholds or lengthen the intervals."
        return None

    def to_json(self) -> dict[str, Any]:
        return {
            "compute": self.compute,
            "token_fraction": self.token_fraction,
            "cache_bytes": self.cache_bytes,
            "cache_device_bytes": self.cache_device_bytes,
            "cache_host_bytes": self.cache_host_bytes,
            "cache_strategy": self.cache_strategy,
            "nonfinite": self.nonfinite,
            "token_levels": self.token_levels,
            "steps": [vars(step) for step in self.steps],
        }

    def __repr__(self) -> str:
        """Steps, share of the FLOPs and cache; what prints whole is `str`."""
        if not self.steps:
            return "RunSummary(no step yet)"
        cache = f"{self.cache_strategy} {self.cache_bytes / 2**20:.1f} MiB"
        return f"RunSummary({len(self.steps)} steps, {self.compute:.1%} of the FLOPs, cache {cache})"

    def __str__(self) -> str:
        by_kind = Counter(self.kinds)
        tokens = {step.kind: step.tokens for step in self.steps}
        shares = {step.kind: step.flops / step.full_flops if step.full_flops else 1.0 for step in self.steps}
        lines = [f"{'step kind':<10} {'steps':>5} {'tokens':>8} {'FLOPs of a full step':>21}"]
        for kind, count in by_kind.items():
            lines.append(f"{kind:<10} {count:>5} {tokens[kind]:>8} {shares[kind]:>20.1%}")
        levels = ", ".join(f"{count} {level}" for level, count in self.token_levels.items())
        host = f" and {self.cache_host_bytes / 2**20:.1f} MiB on the host" if self.cache_host_bytes else ""
        cache = f"cache ({self.cache_strategy}) {self.cache_device_bytes / 2**20:.1f} MiB{host}"
        lines.append(f"tokens: {levels or 'no level yet'}; {cache}")
        lines.append(f"compute {self.compute:.3f} of the full run's FLOPs ({self.token_fraction:.3f} of its tokens)")
        if forced := sum(step.forced for step in self.steps):
            lines.append(f"{forced} steps were refreshed out of turn")
        if self.nonfinite:
            lines.append(f"{self.nonfinite} non-finite values were predicted")
        return "\n".join(lines)
