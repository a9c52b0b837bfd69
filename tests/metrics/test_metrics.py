import math
import sys
import types

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from janoscope.errors import InputError
from janoscope.metrics import as_frames, load_lpips, ms_ssim, psnr, quality, ssim
from janoscope.metrics.scales import K1, K2, WEIGHTS, similarity_maps


def picture(seed, rows=37, cols=53):
    """Smooth colour with texture: uint8 (row, col, 3)."""
    y, x = np.mgrid[:rows, :cols]
    base = np.stack([np.sin(y / 7 + c) + np.cos(x / 9 - c) for c in range(3)], axis=-1)
    noise = np.random.default_rng(seed).normal(0, 0.3, base.shape)
    return np.clip((base + noise) * 50 + 128, 0, 255).astype(np.uint8)


def noisy(reference, strength, seed=9):
    return np.clip(reference + np.random.default_rng(seed).normal(0, strength, reference.shape), 0, 255).astype(np.uint8)


def test_psnr_is_scikit_images_over_all_pixels_and_channels():
    a = picture(0)
    b = noisy(a, 8)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a / 255.0, b / 255.0, data_range=1.0), abs=1e-9)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)


def test_control_a_mean_of_per_channel_psnr_is_another_value():
    a = picture(0)
    b = noisy(a, 8)
    b[..., 0] = noisy(a, 30)[..., 0]
    per_channel = np.mean([peak_signal_noise_ratio(a[..., c], b[..., c], data_range=255) for c in range(3)])
    assert abs(psnr(a, b) - per_channel) > 1


def test_psnr_of_one_grey_level_everywhere():
    a = np.full((8, 8, 3), 100, dtype=np.uint8)
    assert psnr(a, a + np.uint8(1)) == pytest.approx(20 * math.log10(255))
    assert psnr(a, a) == math.inf


def test_ssim_has_the_official_settings_and_no_others():
    a = picture(1)
    b = noisy(a, 12)
    fa, fb = a / 255.0, b / 255.0
    assert ssim(a, b) == pytest.approx(structural_similarity(fa, fb, win_size=7, data_range=1.0, channel_axis=2), abs=1e-12)
    assert ssim(a, a) == 1.0
    for other in ({"gaussian_weights": True}, {"use_sample_covariance": False}, {"data_range": 2.0}, {"win_size": 11}):
        assert abs(ssim(a, b) - structural_similarity(fa, fb, **{"data_range": 1.0, "channel_axis": 2} | other)) > 1e-5, other


def test_a_clip_is_measured_frame_by_frame_and_averaged_in_decibels():
    clip = np.stack([picture(seed) for seed in range(3)])
    other = np.stack([noisy(frame, 4 * 3**i) for i, frame in enumerate(clip)])
    frames = list(zip(clip, other, strict=True))
    assert psnr(clip, other) == pytest.approx(np.mean([psnr(a, b) for a, b in frames]))
    assert ssim(clip, other) == pytest.approx(np.mean([ssim(a, b) for a, b in frames]))
    jointly = peak_signal_noise_ratio(clip, other, data_range=255)
    assert abs(psnr(clip, other) - jointly) > 1  # control: one error over the whole clip is another figure
    other[1] = clip[1]
    assert psnr(clip, other) == math.inf


def test_similarity_maps_are_the_factors_of_scikit_images_gaussian_ssim():
    a, b = picture(2) / 255.0, noisy(picture(2), 15) / 255.0
    luminance, contrast = similarity_maps(a, b)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "K1": K1, "K2": K2}
    expected = structural_similarity(a, b, data_range=1.0, channel_axis=2, **settings)
    assert (luminance * contrast).mean() == pytest.approx(expected, abs=1e-12)
    assert abs(contrast.mean() - expected) > 1e-6


def gaussian_ms_ssim(a, b):
    """The definition once more, slowly: scikit-image's SSIM map per scale, its luminance divided out but at the coarsest."""
    total = np.ones(3)
    for scale, weight in enumerate(WEIGHTS):
        luminance = similarity_maps(a, b)[0]
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
        full = structural_similarity(a, b, channel_axis=2, full=True, **settings)[1][5:-5, 5:-5]
        total *= (full if scale == 4 else full / luminance).mean(axis=(0, 1)) ** weight
        a, b = (
            x[: len(x) // 2 * 2, : x.shape[1] // 2 * 2].reshape(len(x) // 2, 2, x.shape[1] // 2, 2, 3).mean(axis=(1, 3))
            for x in (a, b)
        )
    return total.mean()


def test_ms_ssim_follows_its_definition_over_five_scales():
    a = picture(3, 181, 203)  # odd at several scales
    b = noisy(a, 20)
    assert ms_ssim(a, b) == pytest.approx(gaussian_ms_ssim(a / 255.0, b / 255.0), abs=1e-9)
    assert ms_ssim(a, a) == pytest.approx(1.0)
    assert sum(WEIGHTS) == pytest.approx(1.0, abs=1e-3)


def test_ms_ssim_forgives_noise_that_fine_ssim_does_not():
    a = picture(4, 176, 176)
    b = noisy(a, 25)
    assert ms_ssim(a, b) > ssim(a, b) + 0.1
    assert ms_ssim(a, noisy(a, 60)) < ms_ssim(a, b)
    assert ms_ssim(a, 255 - a) == 0.0  # a negative contrast term counts as 0


def test_ms_ssim_refuses_small_pictures_rather_than_dropping_scales():
    a = picture(5, 176, 175)
    with pytest.raises(InputError, match="MS-SSIM needs 176 pixels on each side for its 5 scales; 176x175 is smaller"):
        ms_ssim(a, a)


@pytest.mark.parametrize("measure", [psnr, ssim, ms_ssim])
def test_refuses_two_sizes_and_names_both(measure):
    with pytest.raises(InputError, match=r"the reference has \(frame, row, col\) \(1, 180, 190\), the other \(1, 190, 180\)"):
        measure(picture(0, 180, 190), picture(0, 190, 180))


def test_refuses_clips_of_two_lengths():
    clip = np.stack([picture(0)] * 3)
    with pytest.raises(InputError, match=r"\(3, 37, 53\), the other \(2, 37, 53\)"):
        psnr(clip, clip[:2])


@pytest.mark.parametrize("bad", [picture(0) / 255.0, picture(0)[..., 0], picture(0)[..., :1], np.zeros((0, 4, 3), np.uint8)])
def test_refuses_what_is_not_8_bit_rgb(bad):
    with pytest.raises(InputError, match="give 8-bit RGB"):
        psnr(bad, bad)


def test_ssim_refuses_a_picture_smaller_than_its_window():
    a = np.zeros((6, 20, 3), np.uint8)
    with pytest.raises(InputError, match="windows of 7x7 pixels; 6x20 is smaller"):
        ssim(a, a)


def test_takes_pil_pictures():
    a = picture(6)
    assert as_frames(Image.fromarray(a)).shape == (1, 37, 53, 3)
    assert psnr(Image.fromarray(a), Image.fromarray(noisy(a, 5))) == psnr(a, noisy(a, 5))


def test_quality_gives_none_and_the_reason_where_it_cannot_measure():
    a = picture(7, 64, 64)
    result = quality(a, noisy(a, 5))
    assert (result.psnr, result.ssim) == (psnr(a, noisy(a, 5)), ssim(a, noisy(a, 5)))
    assert result.ms_ssim is None
    assert result.lpips is None
    assert "64x64 is smaller" in result.missing["ms_ssim"]
    assert "lpips" in result.missing["lpips"]


def test_quality_of_a_large_picture_measures_everything_it_is_given():
    a = picture(8, 176, 180)
    result = quality(a, noisy(a, 5), lpips=lambda reference, other: 0.25)
    assert result.ms_ssim == ms_ssim(a, noisy(a, 5))
    assert result.lpips == 0.25
    assert result.missing == {}


def test_quality_does_not_excuse_a_bad_picture():
    with pytest.raises(InputError, match="make both the same size"):
        quality(picture(0), picture(0, 38, 53))


def test_lpips_without_its_package_is_refused_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(InputError, match=r"LPIPS needs the optional package lpips .*pip install 'janoscope\[lpips\]'"):
        load_lpips()


def test_lpips_without_its_weights_is_refused(monkeypatch):
    def offline(**_):
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=offline))
    with pytest.raises(InputError, match=r"cannot load its AlexNet weights .no route to host"):
        load_lpips()


def test_lpips_hands_the_network_channels_first_between_minus_1_and_1(monkeypatch):
    seen = []

    class Network:
        def __init__(self, **settings):
            seen.append(settings)

        def eval(self):
            return self

        def __call__(self, first, second):
            seen.append((tuple(first.shape), float(first.min()), float(first.max())))
            return (first - second).abs().mean()

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Network))
    a = np.zeros((2, 5, 7, 3), np.uint8)
    a[:, 0] = 255
    b = a.copy()
    b[1] = 255 - b[1]
    assert load_lpips()(a, b) == pytest.approx(1.0)  # frame 0 gives 0, frame 1 gives 2
    assert seen == [{"net": "alex", "version": "0.1", "verbose": False}, ((1, 3, 5, 7), -1.0, 1.0), ((1, 3, 5, 7), -1.0, 1.0)]
