"""Scores to token levels: cut the tile scores, spread each tile's level over its latent cells, vote within each token's patch.

Levels are words (`TokenLevel`); arrays hold their ranks, int8: 1 static, 2 moderate, 3 active. A step kind computes every token
of its own rank and above.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np

from ..analysis.complexity import min_max
from ..errors import InputError
from ..grid import TokenGrid, Triple
from .policy import Policy


class TokenLevel(StrEnum):
    """How often a token is computed between warm-up and cool-down."""

    STATIC = "static"
    MODERATE = "moderate"
    ACTIVE = "active"

    @property
    def rank(self) -> int:
        return _WORDS.index(self) + 1


_WORDS = tuple(TokenLevel)


def ranks_of(words: Iterable[TokenLevel]) -> np.ndarray:
    """Words -> int8 ranks (token,)."""
    return np.array([word.rank for word in words], dtype=np.int8)


def words_of(ranks: np.ndarray) -> tuple[TokenLevel, ...]:
    """int8 ranks (token,) -> words; the inverse of `ranks_of`."""
    return tuple(_WORDS[rank - 1] for rank in ranks.tolist())


def token_ranks(scores: np.ndarray, policy: Policy, grid: TokenGrid) -> np.ndarray:
    """Ranks (token,) from importance scores.

    scores: either (frames, rows, cols) of tiles, as the jano map gives them, cut as they are; or one score a token, (token,),
    as the other maps give them, min-max scaled first so that thresholds mean the same.
    Raises InputError for another shape or non-finite scores, and for the `packed` rule where a patch holds two levels.
    """
    scores = np.asarray(scores)
    if not np.isfinite(scores).all():
        raise InputError(
            f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are not finite; no level can be given to them."
        )
    if scores.shape == grid.tiles(policy.tile):
        return vote(spread(cut(scores, policy), policy.tile, grid.cells), grid, policy.tokens)
    if scores.shape == (grid.count,):
        return cut(min_max(scores), policy)
    raise InputError(
        f"scores of shape {scores.shape} fit neither the {grid.tiles(policy.tile)} tiles of {policy.tile} latent cells nor the "
        f"{grid.count} tokens; analyse with this policy's tile."
    )


def cut(scores: np.ndarray, policy: Policy) -> np.ndarray:
    """Ranks of scores of any shape by the policy's thresholds or quantiles."""
    if policy.thresholds is not None:
        return cut_by_threshold(scores, policy.thresholds.static, policy.thresholds.moderate)
    assert policy.quantiles is not None  # Policy.from_table: exactly one of the two
    return cut_by_quantile(scores, policy.quantiles.static, policy.quantiles.moderate)


def cut_by_threshold(scores: np.ndarray, static: float, moderate: float) -> np.ndarray:
    """Above `moderate` active, else above `static` moderate, else static.

    Equality goes down, and both sides are compared in float32, as the official code does (golden threshold_cases). With the
    thresholds inverted the moderate level vanishes and active still wins.
    """
    values = np.asarray(scores, dtype=np.float32)
    ranks = np.where(values > np.float32(static), TokenLevel.MODERATE.rank, TokenLevel.STATIC.rank)
    return np.where(values > np.float32(moderate), TokenLevel.ACTIVE.rank, ranks).astype(np.int8)


def cut_by_quantile(scores: np.ndarray, static: float, moderate: float) -> np.ndarray:
    """The lowest `static` fraction static, on up to the `moderate` fraction moderate, the rest active.

    Counts are exact (rounded to whole scores), so the budget is known before the scores are; equal scores are told apart by
    their order, lower index first.
    """
    values = np.asarray(scores, dtype=np.float32)
    order = np.argsort(values, axis=None, kind="stable")
    ranks = np.full(values.size, TokenLevel.ACTIVE.rank, dtype=np.int8)
    ranks[order[: round(moderate * values.size)]] = TokenLevel.MODERATE.rank
    ranks[order[: round(static * values.size)]] = TokenLevel.STATIC.rank
    return ranks.reshape(values.shape)


def spread(ranks: np.ndarray, tile: Triple, cells: Triple) -> np.ndarray:
    """Ranks of tiles -> ranks of latent cells (frame, row, col); what hangs over the edge is cropped."""
    for axis, size in enumerate(tile):
        ranks = np.repeat(ranks, size, axis=axis)
    return ranks[: cells[0], : cells[1], : cells[2]]


def vote(cell_ranks: np.ndarray, grid: TokenGrid, rule: str) -> np.ndarray:
    """Ranks of cells (frame, row, col) -> ranks of tokens (token,), by the policy's token rule.

    `majority`: the level of most cells of the patch, ties to the lower level (Wan). `maximum`: the highest (CogVideoX).
    `packed`: all cells must agree (Flux, SD3), else InputError.
    """
    patches = TokenGrid(1, grid.cells, grid.patch).pack(cell_ranks[np.newaxis])  # (token, cell of the patch)
    if rule == "maximum":
        return patches.max(axis=1)
    if rule == "packed":
        mixed = (patches != patches[:, :1]).any(axis=1)
        if mixed.any():
            raise InputError(
                f'{int(mixed.sum())} of {grid.count} tokens hold cells of two levels, which tokens = "packed" forbids; choose a '
                f'tile that is a multiple of the patch {grid.patch}, or tokens = "majority".'
            )
        return patches[:, 0]
    counts = np.stack([(patches == level.rank).sum(axis=1) for level in _WORDS], axis=1)  # (token, level)
    return (counts.argmax(axis=1) + 1).astype(np.int8)  # argmax takes the first of equals: the lower level


def highest(ranks: Sequence[np.ndarray]) -> np.ndarray:
    """One level map for a whole batch: each token's highest over the items, so that no item loses tokens it needs."""
    return np.maximum.reduce(list(ranks))


def random_scores(tiles: Triple, seed: int) -> np.ndarray:
    """Uniform scores on tiles (frames, rows, cols): the control map, as blocky as the map it is compared with."""
    return np.random.default_rng(seed).random(tiles)
