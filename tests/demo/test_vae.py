"""The folds are exact: a picture or clip survives the round trip bit for bit."""

import torch

from janoscope.demo.vae import ClipShuffleVAE, PixelShuffleVAE


def test_a_picture_survives_the_round_trip():
    picture = torch.randn(2, 3, 10, 14)
    latents = PixelShuffleVAE().encode(picture).latents
    assert latents.shape == (2, 12, 5, 7)
    assert torch.equal(PixelShuffleVAE().decode(latents).sample, picture)


def test_a_clip_survives_the_round_trip():
    clip = torch.randn(2, 3, 9, 10, 14)
    latents = ClipShuffleVAE().encode(clip).latents
    assert latents.shape == (2, 24, 5, 5, 7)
    assert torch.equal(ClipShuffleVAE().decode(latents, return_dict=False)[0], clip)


def test_a_latent_frame_holds_two_frames_and_the_first_only_one():
    clip = torch.arange(9.0).reshape(1, 1, 9, 1, 1).expand(1, 3, 9, 4, 6)
    latents = ClipShuffleVAE().encode(clip).latents
    held = [sorted(set(latents[0, :, frame].flatten().tolist())) for frame in range(5)]
    assert held == [[0.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]


def test_a_latent_cell_holds_its_own_pixels():
    clip = torch.zeros(1, 3, 3, 8, 8)
    clip[0, 1, 2, 5, 2] = 1
    latents = ClipShuffleVAE().encode(clip).latents
    assert latents.nonzero()[:, 2:].tolist() == [[1, 2, 1]]
