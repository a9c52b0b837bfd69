"""Levels of a map cut anywhere, for thousands of cuts: the scores are put in order once, and a cut looks up where it falls.

Gives what `plan.token_ranks` gives, for tiles of whole tokens, which are all that calibration searches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...analysis import min_max
from ...errors import InputError
from ...grid import TokenGrid, Triple
from ...plan import Policy, TokenLevel


@dataclass(frozen=True, eq=False)
class OrderedMap:
    """One map's scores on one recording, float32, lowest first, equals in their own order.

    scores: (tile,), a tile being one token where the map scores tokens. tokens_below: (tile + 1,), tokens of the lowest so many
    tiles. places: (followed token,), where in the order its tile stands.
    """

    scores: np.ndarray
    tokens_below: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, policy: Policy, grid: TokenGrid, followed: np.ndarray) -> "OrderedMap":
        """scores: (frames, rows, cols) of the policy's tiles, or (token,), as `token_ranks` takes them; followed: tokens.

        Raises InputError for scores that are not finite, of another shape, and for tiles that cut through tokens.
        """
        if not np.isfinite(scores).all():
            raise InputError("a recording's map holds scores that are not finite; no level can be given to them.")
        by_token = scores.shape == (grid.count,)
        if not by_token and scores.shape != grid.tiles(policy.tile):
            raise InputError(f"scores of shape {scores.shape} fit neither {grid.count} tokens nor tiles of {policy.tile}.")
        values = np.asarray(min_max(scores) if by_token else scores, dtype=np.float32).reshape(-1)
        tile_of = np.arange(grid.count) if by_token else tile_of_whole_tokens(grid, policy.tile)
        order = np.argsort(values, kind="stable")
        tokens = np.bincount(tile_of, minlength=len(values))[order]
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return cls(values[order], np.concatenate([[0], np.cumsum(tokens)]), place[tile_of[followed]])

    def cuts(self, policy: Policy) -> tuple[int, int]:
        """How many tiles are static, and how many are not active."""
        if policy.quantiles is not None:
            low, high = (round(share * len(self.scores)) for share in (policy.quantiles.static, policy.quantiles.moderate))
            return low, max(low, high)
        assert policy.thresholds is not None
        cut_at = np.array([policy.thresholds.static, policy.thresholds.moderate], np.float32)
        low, high = np.searchsorted(self.scores, cut_at, side="right")
        return min(int(low), int(high)), int(high)

    def levels(self, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
        """(5,): tokens of a rank or above, by rank; (followed token,): ranks, int8."""
        static, inactive = self.cuts(policy)
        everything = self.tokens_below[-1]
        above = everything - self.tokens_below[[static, inactive]]
        ranks = TokenLevel.STATIC.rank + (self.places >= static).astype(np.int8) + (self.places >= inactive)
        return np.array([everything, everything, *above, 0]), ranks


def tile_of_whole_tokens(grid: TokenGrid, tile: Triple) -> np.ndarray:
    """(token,): the flat index of the tile that each token lies in. Raises InputError where a token lies in several tiles."""
    if any(size % patch for size, patch in zip(tile, grid.patch, strict=True)):
        raise InputError(f"tiles of {tile} latent cells cut through tokens of {grid.patch}; calibration takes whole tokens.")
    places = [at * patch // size for at, patch, size in zip(grid.places(), grid.patch, tile, strict=True)]
    return np.ravel_multi_index(places, grid.tiles(tile))


def stacked_levels(maps: Sequence[OrderedMap], policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """(run, 5) and (run, followed token) of one map on every recording."""
    found = [one.levels(policy) for one in maps]
    return np.stack([counts for counts, _ in found]), np.stack([ranks for _, ranks in found])
