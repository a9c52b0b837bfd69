"""JANO's complexity map against the official arrays and a plain float64 evaluation, and the promises about device and memory."""

import json
import subprocess
import sys
import tracemalloc
from itertools import product

import numpy as np
import pytest
import torch
from golden_inputs import GOLDEN, jano_signals, same_as_stored
from hypothesis import given, settings
from hypothesis import strategies as st

from janoscope.analysis import Enhancement, complexity, jano_complexity, min_max
from janoscope.errors import InputError

JANO_FILES = sorted(GOLDEN.glob("jano_*.npz"))
TOLERANCE = {"temporal": 2e-3, "spatial": 2e-3, "combined": 2e-4, "enhanced": 2e-4}


def settings_of(golden):
    p = json.loads(str(golden["params"]))
    return {
        "tile": tuple(p["block"]),
        "temporal_weight": p["t_weight"],
        "enhance": Enhancement(p["d_strength"], p["d_distance"]),
    }


def plain_maps(signals, tile, *, exclude=False, lag=None):
    """The definition, pair by pair in float64: (temporal, spatial) flat."""
    signals = np.asarray(signals, dtype=np.float64)
    k, c, *cells = signals.shape
    lag = k // 2 if lag is None else lag
    grid = [-(-cell // size) for cell, size in zip(cells, tile, strict=True)]
    whole = np.zeros((k, c, *(n * size for n, size in zip(grid, tile, strict=True))))
    whole[:, :, : cells[0], : cells[1], : cells[2]] = signals
    temporal, spatial = [], []
    for t, h, w in product(*map(range, grid)):
        box = whole[:, :, t * tile[0] : (t + 1) * tile[0], h * tile[1] : (h + 1) * tile[1], w * tile[2] : (w + 1) * tile[2]]
        v = box.reshape(k, c, tile[0], -1)  # signal, channel, frame, position
        real = np.linalg.norm(v, axis=1).mean(axis=0) > 1e-6 if exclude else np.ones(v.shape[2:], bool)
        parts = []
        for first, second in ((v[:, :, :, :, None], v[:, :, :, None, :]), (v[:, :, :, None], v[:, :, None])):
            distance = np.sqrt(((first - second) ** 2).sum(axis=1))
            parts.append(np.abs(distance[lag:] - distance[:-lag]).mean(axis=0))
        space, time = parts  # (frame, position, position), (frame, frame, position)
        per_frame = [space[f][np.ix_(real[f], real[f])] for f in range(tile[0])]
        per_place = [time[:, :, i][np.ix_(real[:, i], real[:, i])] for i in range(v.shape[3])]
        spatial.append(np.mean([pairs.mean() if pairs.size else 0 for pairs in per_frame]))
        temporal.append(np.mean([pairs.mean() if pairs.size else 0 for pairs in per_place]))
    return np.array(temporal), np.array(spatial)


def small_signals(k=5, c=3, t=5, h=7, w=11, seed=0):
    return np.random.default_rng(seed).normal(size=(k, c, t, h, w)).astype(np.float32)


def test_ten_golden_maps_are_here():
    assert len(JANO_FILES) == 10


@pytest.mark.parametrize("path", JANO_FILES, ids=lambda path: path.stem)
def test_golden_maps_of_both_paddings(path):
    golden = np.load(path)
    signals = jano_signals(golden)
    assert same_as_stored(signals, golden)
    if "features" in golden:
        np.testing.assert_allclose(signals, golden["features"], rtol=0, atol=1e-6)
    for padding, suffix in (("count", ""), ("exclude", "_nopad")):
        result = jano_complexity(signals, padding=padding, **settings_of(golden))
        assert result.grid == tuple(golden["grid"])
        assert result.nonfinite == 0
        for name, tolerance in TOLERANCE.items():
            np.testing.assert_allclose(getattr(result, name).ravel(), golden[name + suffix], rtol=0, atol=tolerance, err_msg=name)


def test_golden_would_notice_another_lag_padding_or_temporal_weight():
    golden = np.load(GOLDEN / "jano_video_misaligned.npz")
    signals, options = jano_signals(golden), settings_of(golden)
    tile = options.pop("tile")
    for lag in (2, 4):
        wrong = plain_maps(signals, tile, lag=lag)
        assert np.abs(min_max(0.6 * wrong[0] + 0.4 * wrong[1]) - golden["combined"]).max() > 10 * TOLERANCE["combined"]
    swapped = jano_complexity(signals, tile, **options, padding="exclude")
    assert np.abs(swapped.combined.ravel() - golden["combined"]).max() > 10 * TOLERANCE["combined"]
    unmixed = jano_complexity(signals, tile, **options | {"temporal_weight": 0.5})
    assert np.abs(unmixed.combined.ravel() - golden["combined"]).max() > 10 * TOLERANCE["combined"]


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5), st.integers(1, 7), st.integers(1, 7)),
    tile=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    exclude=st.booleans(),
    seed=st.integers(0, 99),
)
def test_maps_are_the_definition(sizes, tile, exclude, seed):
    tile = (1, *tile[1:]) if sizes[2] == 1 else tile
    signals = np.random.default_rng(seed).normal(size=sizes)
    temporal, spatial = plain_maps(signals, tile, exclude=exclude)
    result = jano_complexity(signals, tile, padding="exclude" if exclude else "count")
    np.testing.assert_allclose(result.temporal.ravel(), temporal, rtol=0, atol=2e-5)
    np.testing.assert_allclose(result.spatial.ravel(), spatial, rtol=0, atol=2e-3)


@pytest.mark.parametrize("budget", [1, 4000, 1 << 30])
def test_bands_and_rows_of_any_size_give_one_map(monkeypatch, budget):
    signals = small_signals(h=13, w=17)
    whole = jano_complexity(signals, (2, 5, 7))
    monkeypatch.setattr(complexity, "HOST_BUDGET", budget)
    pieces = jano_complexity(signals, (2, 5, 7))
    np.testing.assert_allclose(pieces.spatial, whole.spatial, rtol=1e-5)
    np.testing.assert_allclose(pieces.temporal, whole.temporal, rtol=1e-5)


@pytest.mark.parametrize("view", [lambda a: a[..., ::2], lambda a: a.transpose(0, 1, 2, 4, 3), lambda a: a[..., ::-1]])
def test_memory_order_of_the_signals_does_not_matter(view):
    signals = view(small_signals(h=13, w=18))
    result, wanted = jano_complexity(signals, (2, 5, 3)), jano_complexity(np.ascontiguousarray(signals), (2, 5, 3))
    np.testing.assert_allclose(result.enhanced, wanted.enhanced, rtol=1e-5)


def test_without_enhancement_the_map_is_the_combined_one_and_a_copy():
    result = jano_complexity(small_signals(), (1, 2, 2), enhance=None)
    np.testing.assert_array_equal(result.enhanced, result.combined)
    assert not np.shares_memory(result.enhanced, result.combined)
    assert (jano_complexity(small_signals(), (1, 2, 2)).enhanced > result.combined).any()


def test_a_map_says_how_it_was_made():
    result = jano_complexity(small_signals(), (2, 3, 4), temporal_weight=0.7, padding="exclude", enhance=Enhancement(0.5, 1.0))
    assert (result.tile, result.grid, result.signals) == ((2, 3, 4), (3, 3, 3), 5)
    assert (result.temporal_weight, result.padding, result.enhancement) == (
        0.7,
        "exclude",
        Enhancement(0.5, 1.0),
    )


def test_fewer_than_two_signals_are_zeros():
    result = jano_complexity(small_signals(k=1), (1, 3, 4))
    for name in TOLERANCE:
        assert not getattr(result, name).any()


def test_single_frames_have_no_temporal_part():
    video = small_signals(t=3)
    assert not jano_complexity(video, (1, 3, 4)).temporal.any()
    assert jano_complexity(video, (3, 3, 4)).temporal.all()
    assert not jano_complexity(video[:, :, :1], (1, 3, 4), temporal_weight=1.0).combined.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_cpu_tensors_and_arrays_give_the_same_bits(dtype):
    tensor = torch.from_numpy(small_signals()).to(dtype).requires_grad_()
    array = tensor.detach().float().numpy() if dtype is torch.bfloat16 else tensor.detach().numpy()
    options = {"temporal_weight": 0.7, "padding": "exclude"}
    from_tensor, from_array = jano_complexity(tensor, (2, 3, 4), **options), jano_complexity(array, (2, 3, 4), **options)
    for name in TOLERANCE:
        assert getattr(from_tensor, name).tobytes() == getattr(from_array, name).tobytes()
        assert getattr(from_tensor, name).dtype == np.float32
    full = jano_complexity(small_signals(), (2, 3, 4), **options)
    np.testing.assert_allclose(from_tensor.combined, full.combined, atol=2e-2)


def test_transposed_tensors_are_read_as_they_are_seen():
    signals = small_signals()
    seen = torch.from_numpy(np.ascontiguousarray(signals.swapaxes(3, 4))).transpose(3, 4)
    assert jano_complexity(seen, (2, 3, 4)).combined.tobytes() == jano_complexity(signals, (2, 3, 4)).combined.tobytes()


@pytest.mark.parametrize("padding", ["count", "exclude"])
def test_the_device_path_agrees_with_the_host(padding):
    """What runs on an accelerator, run here on a CPU tensor that is not handed over to NumPy."""
    signals = small_signals()
    signals[1, 2, 3, 4, 5] = np.nan
    options = ((2, 3, 4), padding)
    on_device, on_host = complexity._raw_maps(torch.from_numpy(signals), *options), complexity._raw_maps(signals, *options)
    np.testing.assert_allclose(on_device[0], on_host[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(on_device[1], on_host[1], rtol=0, atol=1e-4)
    assert on_device[2] == on_host[2] == 1


def test_the_device_path_asks_for_no_value_before_its_maps_are_done(monkeypatch):
    signals, asked = torch.from_numpy(small_signals()), []
    for name in ("item", "cpu", "numpy", "tolist", "__bool__", "__float__", "__array__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *a, n=name, o=original, **k: (asked.append(n), o(self, *a, **k))[1])
    monkeypatch.setattr(complexity, "to_host", lambda maps: (asked.append("maps"), np.zeros(maps.shape))[1])
    complexity._raw_maps(signals, (2, 3, 4), "exclude")
    assert asked[:1] == ["maps"]
    signals.sum().item()  # negative control: the watch does see a question
    assert "item" in asked


def test_non_finite_values_are_counted_and_taken_for_zero():
    broken, mended = small_signals(), small_signals()
    for place, value in (((0, 1, 2, 3, 4), np.nan), ((3, 2, 4, 6, 10), np.inf), ((1, 0, 0, 0, 0), -np.inf)):
        broken[place], mended[place] = value, 0
    result, wanted = jano_complexity(broken, (2, 3, 4)), jano_complexity(mended, (2, 3, 4))
    assert (result.nonfinite, wanted.nonfinite) == (3, 0)
    assert "3 non-finite values counted as 0" in repr(result)
    np.testing.assert_array_equal(result.enhanced, wanted.enhanced)
    assert jano_complexity(torch.from_numpy(broken), (2, 3, 4)).nonfinite == 3


def test_input_is_left_as_it_was():
    signals = small_signals()
    before = signals.copy()
    jano_complexity(signals, (2, 3, 4), padding="exclude")
    np.testing.assert_array_equal(signals, before)


def test_wan_sized_clip_needs_little_memory():
    signals = np.zeros((7, 16, 21, 60, 104), dtype=np.float32)
    signals[:] = np.random.default_rng(0).normal(size=(7, 1, 21, 60, 104))
    tracemalloc.start()
    jano_complexity(signals, (7, 6, 8), temporal_weight=0.7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # the distances of all tiles at once would be 176 MB


def test_scaling_zeroes_a_constant_map():
    assert min_max(np.float32([2, 4, 3])).tolist() == [0, 1, 0.5]
    assert min_max(np.float32([0.3, 0.3])).tolist() == [0, 0]


def test_refuses_what_it_cannot_read():
    signals = small_signals()
    for bad, message in (
        ({"signals": signals[0]}, r"shape \(3, 5, 7, 11\)"),
        ({"signals": signals[:0]}, "hold values"),
        ({"tile": (1, 0, 4)}, "three positive numbers"),
        ({"signals": signals[:, :, :1], "tile": (2, 3, 4)}, "spans 2 frames but the latent has one"),
        ({"padding": "drop"}, "count or exclude"),
        ({"temporal_weight": 1.5}, "0..1"),
        ({"signals": signals * np.float32(1e25)}, "too large"),
    ):
        with pytest.raises(InputError, match=message), np.errstate(all="ignore"):
            jano_complexity(**{"signals": signals, "tile": (2, 3, 4)} | bad)


def test_repr_tells_size_and_choices():
    assert repr(jano_complexity(small_signals(k=1), (2, 3, 4), padding="exclude")) == (
        "<Complexity of 1 signals, (3, 3, 3) tiles of (2, 3, 4) cells, temporal weight 0, padding exclude: "
        "quartiles 0.000 0.000 0.000>"
    )


def test_analysis_of_arrays_loads_no_torch():
    code = (
        "import sys, numpy as np, janoscope.conversion; from janoscope.analysis import jano_complexity\n"
        "jano_complexity(np.ones((3, 2, 1, 4, 4)), (1, 2, 2))\n"
        "print([name for name in ('torch', 'h5py', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
