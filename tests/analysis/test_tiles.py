"""Between tokens, cells and tiles, where neither divides the other."""

import numpy as np
import pytest

from janoscope.analysis import tile_means, tile_of_tokens, token_means
from janoscope.analysis.tiles import tile_rows
from janoscope.errors import InputError
from janoscope.grid import TokenGrid, tile_grid

GRID = TokenGrid(3, (5, 6, 14), (1, 2, 2))
TILE = (2, 5, 3)  # no axis divides, a token lies in several tiles


def test_tile_means_weigh_tokens_by_their_cells():
    tokens = np.random.default_rng(0).normal(size=GRID.count)
    cells = tokens.reshape(GRID.tokens).repeat(2, axis=1).repeat(2, axis=2)
    means = tile_means(tokens, GRID, TILE)
    assert means.shape == tile_grid(GRID.cells, TILE) == (3, 2, 5)
    for t, h, w in np.ndindex(3, 2, 5):
        box = cells[2 * t : 2 * t + 2, 5 * h : 5 * h + 5, 3 * w : 3 * w + 3]
        assert means[t, h, w] == pytest.approx(box.mean())


def test_token_means_weigh_tiles_by_their_cells():
    tiles = np.random.default_rng(1).normal(size=(3, 2, 5))
    cells = tiles.repeat(2, axis=0).repeat(5, axis=1).repeat(3, axis=2)[:5, :6, :14]
    wanted = cells.reshape(5, 3, 2, 7, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(token_means(tiles, GRID, TILE), wanted.ravel())


def test_there_and_back_is_identity_where_tokens_divide_tiles():
    grid, tile = TokenGrid(1, (2, 6, 10), (1, 2, 2)), (1, 4, 4)
    tiles = np.random.default_rng(2).normal(size=tile_grid(grid.cells, tile))
    np.testing.assert_allclose(tile_means(token_means(tiles, grid, tile), grid, tile), tiles)


def test_groups_hold_the_tile_of_a_tokens_first_cell():
    tiles = np.arange(30.0).reshape(3, 2, 5)
    cells = tiles.repeat(2, axis=0).repeat(5, axis=1).repeat(3, axis=2)[:5, :6, :14]
    np.testing.assert_array_equal(tile_of_tokens(GRID, TILE), cells[:, ::2, ::2].ravel())


def test_rows_of_tiles_are_cut_where_they_grow_too_long():
    rows = list(tile_rows((2, 4, 14), (2, 4, 3), longest=2))  # 5 tiles, the last hangs over
    assert [(row.cols, row.count) for row in rows] == [(slice(0, 6), 2), (slice(6, 12), 2), (slice(12, 15), 1)]
    assert all((row.frames, row.rows) == (slice(0, 2), slice(0, 4)) for row in rows)


def test_refuses_maps_of_another_grid():
    with pytest.raises(InputError, match="grid of 105 tokens"):
        tile_means(np.zeros(104), GRID, TILE)
    with pytest.raises(InputError, match=r"does not fit \(3, 2, 5\) tiles"):
        token_means(np.zeros((3, 2, 4)), GRID, TILE)
