"""The bundled models' "VAEs": pixels folded into channels, exact in both directions.

Named in the models' model_index.json, so that `DiffusionPipeline.from_pretrained` loads it like any other.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput


@dataclass
class EncoderOutput(BaseOutput):
    latents: torch.Tensor


@dataclass
class DecoderOutput(BaseOutput):
    sample: torch.Tensor


class PixelShuffleVAE(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """(B, 3, H, W) pixels in -1..1 <-> (B, 12, H/2, W/2) latents, a permutation: reconstruction is exact (PSNR infinite)."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 12,
        # pipelines count these to find the spatial factor, 2 ** (len - 1); nothing is convolved here
        block_out_channels: tuple[int, ...] = (12, 12),
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ):
        super().__init__()
        # pipelines ask a module for its dtype and device, which needs a tensor
        self.register_buffer("anchor", torch.zeros(1))

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> EncoderOutput | tuple[torch.Tensor]:
        latents = F.pixel_unshuffle(x, 2)
        return EncoderOutput(latents=latents) if return_dict else (latents,)

    def decode(self, z: torch.Tensor, return_dict: bool = True, **_: object) -> DecoderOutput | tuple[torch.Tensor]:
        sample = F.pixel_shuffle(z, 2)
        return DecoderOutput(sample=sample) if return_dict else (sample,)


class ClipShuffleVAE(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """(B, 3, 2n - 1, H, W) clips in -1..1 <-> (B, 24, n, H/2, W/2) latents; a clip survives the round trip exactly.

    As in Wan's causal VAE the first latent frame stands for one frame and every other for the same number of new ones, here
    two: the clip is padded in front with a copy of its first frame, then 2 x 2 x 2 cells become channels.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 24,
        latents_mean: tuple[float, ...] = (0.0,) * 24,
        latents_std: tuple[float, ...] = (1.0,) * 24,
        scale_factor_temporal: int = 2,
        scale_factor_spatial: int = 2,
    ):
        super().__init__()
        self.register_buffer("anchor", torch.zeros(1))

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> EncoderOutput | tuple[torch.Tensor]:
        padded = torch.cat([x[:, :, :1], x], dim=2)
        batch, channels, frames, height, width = padded.shape
        cells = padded.reshape(batch, channels, frames // 2, 2, height // 2, 2, width // 2, 2)
        # (item, colour, frame, f, row, r, col, c) -> (item, (colour f r c), frame, row, col)
        latents = cells.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
        return EncoderOutput(latents=latents) if return_dict else (latents,)

    def decode(self, z: torch.Tensor, return_dict: bool = True, **_: object) -> DecoderOutput | tuple[torch.Tensor]:
        batch, channels, frames, height, width = z.shape
        cells = z.reshape(batch, channels // 8, 2, 2, 2, frames, height, width).permute(0, 1, 5, 2, 6, 3, 7, 4)
        sample = cells.reshape(batch, channels // 8, 2 * frames, 2 * height, 2 * width)[:, :, 1:]
        return DecoderOutput(sample=sample) if return_dict else (sample,)
