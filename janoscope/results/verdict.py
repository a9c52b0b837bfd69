"""The verdict on a map: whether it separates the tokens that need compute, in one sentence that terminal and page show alike.

Two measures stand behind it, each with its bootstrap interval: AUROC of active against static tokens by the change of the flow
velocity, and Spearman's correlation of the map with the reuse error of every token. A measure is at chance
where its interval reaches chance (0.5, 0); it is strong from 0.7 (Hosmer and Lemeshow 2000: acceptable discrimination) or from
0.5 (Cohen 1988: a large correlation), and above chance in between.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from ..analysis import Estimate

CHANCE_AUROC, STRONG_AUROC = 0.5, 0.7
CHANCE_SPEARMAN, STRONG_SPEARMAN = 0.0, 0.5


Separations = Mapping[str, Mapping[str, object] | None]  # raw, converted -> auroc, interval


class VerdictLevel(StrEnum):
    SEPARATES = "separates"
    WEAK = "weak"
    NONE = "none"


class _Strength(IntEnum):
    AT_CHANCE = 0
    ABOVE_CHANCE = 1
    STRONG = 2


@dataclass(frozen=True)
class Verdict:
    """level: how well the map separates. sentence: the same in words, with the figures behind it."""

    level: VerdictLevel
    sentence: str

    def to_json(self) -> dict[str, str]:
        return {"level": self.level.value, "sentence": self.sentence}


_WORDS = {
    VerdictLevel.SEPARATES: "The map separates the tokens that need compute",
    VerdictLevel.WEAK: "The map separates the tokens that need compute only weakly",
    VerdictLevel.NONE: "The map does not separate the tokens that need compute",
}


def judge_map(auroc: Estimate, spearman: Estimate, cases: str = "") -> Verdict:
    """The verdict from two estimates; an estimate that is not defined is NaN and takes no part.

    Both strong: `separates`. Both above chance, or one strong: `weak`. Else `none`. Where one is not defined the other decides.

    Args:
        auroc: of active against static tokens, 0.5 is chance.
        spearman: of the map with the reuse error, 0 is chance.
        cases: what the intervals are over, if not the tiles of one recording, such as `over 5 recordings`.

    Example:
        >>> judge_map(Estimate(0.42, 0.34, 0.51), Estimate(-0.04, -0.1, 0.02)).level
        <VerdictLevel.NONE: 'none'>
    """
    measures = [(auroc, CHANCE_AUROC, STRONG_AUROC), (spearman, CHANCE_SPEARMAN, STRONG_SPEARMAN)]
    strengths = [_strength(*measure) for measure in measures if not math.isnan(measure[0].value)]
    level = _level(strengths)
    figures = f"AUROC of active against static tokens {_figure(auroc)}, Spearman with the reuse error {_figure(spearman)}"
    advice = "; what this plan skips is chosen hardly better than at random" if level is VerdictLevel.NONE else ""
    return Verdict(level, f"{_WORDS[level]}{' ' * bool(cases)}{cases}: {figures}{advice}.")


def judge_analysis(separation: Separations, map_predicts: Sequence[Mapping[str, object]], map_name: str, warmup: int) -> Verdict:
    """The verdict from sections of analysis.json, on the map that the policy cuts its levels from.

    Args:
        separation, map_predicts: the sections. map_name, warmup: of the policy.
    """
    return judge_map(*_estimates(separation, map_predicts, map_name, warmup))


def judge_recordings(
    separation: Separations, map_predicts: Sequence[Mapping[str, object]], map_name: str, warmup: int, recordings: int
) -> Verdict:
    """The same from sections of aggregate.json, whose intervals are over recordings."""
    return judge_map(*_estimates(separation, map_predicts, map_name, warmup), cases=f"over {recordings} recordings")


def _estimates(
    separation: Separations, map_predicts: Sequence[Mapping[str, object]], map_name: str, warmup: int
) -> tuple[Estimate, Estimate]:
    wanted = (map_name, warmup, "reuse_error")
    own: Mapping[str, object] = next((row for row in map_predicts if (row["map"], row["warmup"], row["target"]) == wanted), {})
    return _estimate(separation["converted"] or {}, "auroc"), _estimate(own, "spearman")


def _estimate(row: Mapping[str, object], name: str) -> Estimate:
    """A value that is not defined is NaN; an interval that is not (one recording) reaches everywhere."""
    value, ends = row.get(name), row.get("interval")
    if not isinstance(value, int | float):
        return Estimate(math.nan, math.nan, math.nan)
    low, high = ends if isinstance(ends, list | tuple) else (None, None)
    return Estimate(value, -math.inf if low is None else low, math.inf if high is None else high)


def _strength(estimate: Estimate, chance: float, strong: float) -> _Strength:
    if not estimate.low > chance:
        return _Strength.AT_CHANCE
    return _Strength.STRONG if estimate.value >= strong else _Strength.ABOVE_CHANCE


def _level(strengths: Sequence[_Strength]) -> VerdictLevel:
    mean = sum(strengths) / len(strengths) if strengths else 0.0
    if mean == _Strength.STRONG:
        return VerdictLevel.SEPARATES
    return VerdictLevel.WEAK if mean >= _Strength.ABOVE_CHANCE else VerdictLevel.NONE


def _figure(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "not defined"
    if math.isinf(estimate.low):
        return f"{estimate.value:.2f} without interval"
    return str(estimate)
