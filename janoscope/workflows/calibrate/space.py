"""The space that calibration searches: which values each part of a policy may take for a grid and a number of steps."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import TypeAlias

from ...analysis.importance import LEAST_CHANNELS
from ...grid import TokenGrid, Triple
from ...plan import OUTPUTS, Policy

TOKEN_MAPS = ("x0-gradient", "velocity-change", "ras")
MAPS = ("jano", *TOKEN_MAPS, "random")
LEAST_WARMUP, LEAST_COOLDOWN = 2, 1
LEAST_BETWEEN = 2  # a refresh, and a step that skips something
WARMUP_SHARES = (0.06, 0.1, 0.14, 0.2, 0.24, 0.28)  # of the steps; JANO's own settings lie at .12 to .2
COOLDOWN_STEPS, NEXT_EXPERT_STEPS = (1, 2, 4), (0, 1, 2)
TILE_TOKENS = (1, 2, 4)  # a side, in tokens; frames of a clip: 1 or 2
TEMPORAL_WEIGHTS = (0.0, 0.4, 0.7)
LEAST_TILES = 16  # fewer tell no place from another
ACTIVE, FACTORS, LONGEST = (1, 2, 3, 4), (1, 2, 3), 12
Part: TypeAlias = str | int | float  # of a candidate


@dataclass(frozen=True)
class Span:
    """Steps [first, last) of one network of a model; expert is its component's name, None for a model with one network.

    A warm-up and its map lie within the span, and outside it every step is full.
    """

    first: int
    last: int
    expert: str | None = None

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Parts:
    """What a candidate is put together from.

    levels: 1, every token is active, so the policy skips whole steps; 2, no moderate tokens; 3, all. tile: index among the
    space's. low, span: 0 to 1, where the scores are cut. cut: whether by quantile or by threshold.
    """

    levels: int
    map: str
    warmup: int
    cooldown: int
    tile: int
    temporal_weight: float
    cut: str
    active: int
    moderate_factor: int
    static_factor: int
    output: str
    keys: str
    low: float
    span: float


@dataclass(frozen=True)
class Space:
    """Legal values. warmups, cooldowns: in steps of the whole run."""

    steps: int
    maps: tuple[str, ...]
    warmups: tuple[int, ...]
    cooldowns: tuple[int, ...]
    tiles: tuple[Triple, ...]
    temporal_weights: tuple[float, ...]
    initial_latent: bool = True
    outputs: tuple[str, ...] = OUTPUTS

    @classmethod
    def of_span(cls, grid: TokenGrid, steps: int, span: Span, outputs: tuple[str, ...] = OUTPUTS) -> "Space | None":
        """The space for a run, or for one expert's share of its steps; None where warm-up and cool-down leave nothing to skip.

        An expert that begins midway has no jano map: its signals would reach back over the boundary. outputs: what may stand for
        a token that is skipped, which depends on the sampler.
        """
        most = len(span) - LEAST_COOLDOWN - LEAST_BETWEEN
        if most < LEAST_WARMUP:
            return None
        wanted = {max(LEAST_WARMUP, round(share * len(span))) for share in WARMUP_SHARES}
        warmups = sorted(warmup for warmup in wanted if warmup <= most)
        after = steps - span.last  # steps of the next expert, all of them full
        most_end = len(span) - warmups[0] - LEAST_BETWEEN
        ends = [end for end in (NEXT_EXPERT_STEPS if after else COOLDOWN_STEPS) if end <= most_end]
        return cls(
            steps,
            _maps(grid, whole=span.first == 0),
            tuple(span.first + warmup for warmup in warmups),
            tuple(after + end for end in ends),
            _tiles(grid),
            TEMPORAL_WEIGHTS if grid.tokens[0] > 1 else (0.0,),
            outputs=outputs,
        )

    def choices(self) -> dict[str, tuple[Part, ...]]:
        """The parts of a candidate that are chosen from a list."""
        return {
            "levels": (1, 2, 3),
            "map": self.maps,
            "warmup": self.warmups,
            "cooldown": self.cooldowns,
            "tile": tuple(range(len(self.tiles))),
            "temporal_weight": self.temporal_weights,
            "cut": ("quantiles", "thresholds"),
            "active": ACTIVE,
            "moderate_factor": FACTORS,
            "static_factor": FACTORS,
            "output": self.outputs,
            "keys": ("hold", "forecast"),
        }

    def policy(self, parts: Parts, name: str = "candidate") -> Policy:
        """The policy of a candidate's parts."""
        active = parts.active
        moderate = min(active * parts.moderate_factor, LONGEST)
        static = min(moderate * parts.static_factor, LONGEST)
        low = round(parts.low, 2)
        high = round(low + parts.span * (1 - low), 2) if parts.levels == 3 else low
        cut = parts.cut
        if parts.levels == 1:
            cut, low, high, moderate, static = "quantiles", 0.0, 0.0, max(active, 2), max(active, 2)
            active = static
        elif parts.levels == 2:
            moderate = static
        table = {
            "name": name,
            "map": "random" if parts.levels == 1 else parts.map,
            "warmup": parts.warmup,
            "cooldown": parts.cooldown,
            "tile": list(self.tiles[parts.tile]),
            "temporal_weight": parts.temporal_weight,
            "initial_latent": self.initial_latent,
            cut: {"static": low, "moderate": high},
            "intervals": {"static": static, "moderate": moderate, "active": active},
            "output": parts.output,
            "cache": {"strategy": "kv", "forecast": parts.keys == "forecast" and parts.levels > 1},
        }
        return Policy.from_table(table, f"candidate {parts}")

    def mapping_policies(self) -> Iterator[Policy]:
        """A policy for every map that a candidate may ask for; random ones need no recording."""
        for warmup, name in product(self.warmups, [name for name in self.maps if name != "random"]):
            own = name == "jano"
            for tile, weight in product(self.tiles if own else self.tiles[:1], self.temporal_weights if own else (0.0,)):
                yield Policy.from_table(
                    {
                        "name": "map",
                        "map": name,
                        "warmup": warmup,
                        "cooldown": 1,
                        "tile": list(tile),
                        "temporal_weight": weight,
                        "quantiles": {"static": 0, "moderate": 0},
                        "intervals": {"static": 1, "moderate": 1},
                    },
                    "map",
                )

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def nothing_to_skip(steps: int, span: Span) -> str:
    """Why a run of so few steps cannot be accelerated."""
    share = f"the {len(span)} of {steps} steps of {span.expert}" if span.expert else f"{steps} steps"
    return (
        f"nothing can be skipped in {share}: a map needs {LEAST_WARMUP} full steps, the end {LEAST_COOLDOWN}, and a refresh "
        "stands before the first partial step. Few-step distilled models have no redundant steps to give; run them as they are."
    )


def _maps(grid: TokenGrid, *, whole: bool) -> tuple[str, ...]:
    """whole: the span begins with the run. RAS needs a spread over channels."""
    maps = MAPS if whole else (*TOKEN_MAPS, "random")
    return tuple(name for name in maps if name != "ras" or grid.channels >= LEAST_CHANNELS)


def _tiles(grid: TokenGrid) -> tuple[Triple, ...]:
    """Squares of whole tokens, in latent cells, that leave enough tiles; of clips over one and two token frames."""
    frames, rows, cols = grid.patch
    depths = (1, 2) if grid.tokens[0] > 1 else (1,)
    found = [(depth * frames, side * rows, side * cols) for depth, side in product(depths, TILE_TOKENS)]
    # a 1-token tile of one cell holds no pair of positions, so its jano score is 0 everywhere
    usable = [tile for tile in found if tile[1] * tile[2] > 1 and _count(grid, tile) >= LEAST_TILES]
    return tuple(usable) or ((frames, 2 * rows, 2 * cols),)


def _count(grid: TokenGrid, tile: Triple) -> int:
    frames, rows, cols = grid.tiles(tile)
    return frames * rows * cols
