"""The bundled image model's "VAE": pixels folded into channels, exact in both directions.

Named in the model's model_index.json, so that `DiffusionPipeline.from_pretrained` loads it like any other.
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


class PixelShuffleVAE(ModelMixin, ConfigMixin):
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
