"""Tool taps: the inner modules that other tools' step caches are calibrated from, by the probe's [residual]."""

from collections.abc import Sequence

from ...capture import Tap, parse_tap
from ...errors import InputError
from ...probe import Probe

TOOLS = ("teacache", "magcache")
SAMPLE = 1024  # tokens of a tap; 64 of 256 of the bundled model give every ratio within .007, every distance within 1.4 %
_NEEDS = {"teacache": ("modulated",), "magcache": ("first", "last")}


def export_taps(sheet: Probe, tools: Sequence[str]) -> tuple[Tap, ...]:
    """The inner modules to record for these tools, of every step, with at most `SAMPLE` tokens.

    Raises InputError for an unknown tool, and for a family whose probe does not name what the tool needs.
    """
    found: dict[str, Tap] = {}
    for tool in tools:
        for text in needed_taps(sheet, tool):
            tap = parse_tap(f"{text}:tokens={SAMPLE}")
            found[tap.name] = tap
    return tuple(found.values())


def needed_taps(sheet: Probe, tool: str) -> list[str]:
    """The taps of one tool as the probe writes them; raises as `export_taps` does."""
    if tool not in TOOLS:
        raise InputError(f"no export for {tool!r}; legal: {', '.join(TOOLS)}.")
    named = [getattr(sheet.residual, key) if sheet.residual else None for key in _NEEDS[tool]]
    taps = [name for name in named if name is not None]
    if len(taps) < len(named):
        keys = " and ".join(_NEEDS[tool])
        raise InputError(f"the probe {sheet.family} names no {keys} under [residual], which {tool} needs (docs/probes.md).")
    return taps
