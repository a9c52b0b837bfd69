"""TokenGrid: the order of tokens and of their channels, and the round trips between cells and tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from janoscope.errors import InputError
from janoscope.grid import TokenGrid

# distinct sizes: 3 channels, (2, 3, 5) tokens of (1, 2, 7) cells
GRID = TokenGrid(channels=3, cells=(2, 6, 35), patch=(1, 2, 7))


def _numbered(grid: TokenGrid) -> np.ndarray:
    shape = (grid.channels, *grid.cells)
    return np.arange(np.prod(shape)).reshape(shape)


def test_sizes_follow_from_cells_and_patch():
    assert GRID.tokens == (2, 3, 5)
    assert GRID.count == 30
    assert GRID.token_channels == 3 * 1 * 2 * 7


def test_columns_run_fastest_and_channels_are_latent_channel_then_patch():
    latent = _numbered(GRID)
    packed = GRID.pack(latent)
    assert packed.shape == (30, 42)
    for frame, row, col in [(0, 0, 0), (0, 0, 4), (0, 2, 1), (1, 0, 0), (1, 2, 4)]:
        cells = latent[:, frame : frame + 1, 2 * row : 2 * row + 2, 7 * col : 7 * col + 7]
        token = frame * 15 + row * 5 + col
        np.testing.assert_array_equal(packed[token], cells.reshape(-1))
        assert GRID.token_at(frame, row, col) == token


def test_packs_as_flux_does():
    grid = TokenGrid(channels=4, cells=(1, 6, 10), patch=(1, 2, 2))
    latent = torch.arange(2 * 4 * 60).reshape(2, 4, 6, 10)
    flux = latent.view(2, 4, 3, 2, 5, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 15, 16)
    assert torch.equal(grid.pack(latent[:, :, None]), flux)
    assert not torch.equal(grid.pack(latent.flip(3)[:, :, None]), flux)


def test_places_name_every_token_once():
    frame, row, col = GRID.places()
    assert (frame.dtype, row.dtype, col.dtype) == (np.int32, np.int32, np.int32)
    assert [GRID.token_at(f, r, c) for f, r, c in zip(frame, row, col, strict=True)] == list(range(30))
    assert (frame.max(), row.max(), col.max()) == (1, 2, 4)


sizes = st.integers(1, 4)


@given(st.integers(1, 3), st.tuples(sizes, sizes, sizes), st.tuples(sizes, sizes, sizes), st.booleans())
def test_unpack_undoes_pack(channels, tokens, patch, lead):
    rows = tuple(count * size for count, size in zip(tokens, patch, strict=True))
    grid = TokenGrid(channels=channels, cells=rows, patch=patch)
    latent = _numbered(grid)
    latent = np.stack([latent, -latent]) if lead else latent
    assert grid.tokens == tokens
    np.testing.assert_array_equal(grid.unpack(grid.pack(latent)), latent)


def test_torch_tensors_pack_as_arrays_do():
    latent = _numbered(GRID)
    packed = GRID.pack(torch.from_numpy(latent))
    assert isinstance(packed, torch.Tensor)
    np.testing.assert_array_equal(packed.numpy(), GRID.pack(latent))
    np.testing.assert_array_equal(GRID.unpack(packed).numpy(), latent)


def test_the_last_tile_may_hang_over_the_edge():
    assert GRID.tiles((1, 4, 8)) == (2, 2, 5)
    assert GRID.tiles((2, 6, 35)) == (1, 1, 1)


def test_survives_json():
    assert GRID.to_json() == {"channels": 3, "cells": [2, 6, 35], "patch": [1, 2, 7]}
    assert TokenGrid.from_json(GRID.to_json()) == GRID


def test_refuses_cells_that_do_not_divide():
    with pytest.raises(InputError, match=r"latent of \(1, 7, 8\) cells does not divide into patches of \(1, 2, 2\)"):
        TokenGrid(channels=4, cells=(1, 7, 8), patch=(1, 2, 2))


@pytest.mark.parametrize("sizes", [{"channels": 0}, {"cells": (1, 0, 2)}, {"patch": (0, 1, 1)}])
def test_refuses_empty_axes(sizes):
    with pytest.raises(InputError, match="every size must be at least 1"):
        TokenGrid(**{"channels": 4, "cells": (1, 2, 2), "patch": (1, 1, 1)} | sizes)


@pytest.mark.parametrize("place", [(2, 0, 0), (0, 3, 0), (0, 0, 5), (-1, 0, 0)])
def test_refuses_places_outside(place):
    with pytest.raises(InputError, match=r"lies outside the grid of \(2, 3, 5\)"):
        GRID.token_at(*place)
