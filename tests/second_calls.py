"""Tiny pipelines whose attention modules call attention more than once: perturbed-attention guidance, and Mochi."""

from functools import cache
from types import SimpleNamespace

import diffusers
import torch
from generations import Tiny, probe_of_family
from tiny_transformers import FRAMES, TEXT, redraw_zeros

from janoscope.probe import parse_probe

MOCHI = {
    "family": "mochi",
    "title": "Mochi 1",
    "match": {"transformer": ["MochiTransformer3DModel"]},
    "tap": {},
    "tokens": {"layout": "BCFHW", "grid": "shape", "patch_keys": ["patch_size"]},
    "output": {"prediction": "flow"},
    "guidance": {"calls": "batched", "branches": ["uncond", "cond"], "argument": "guidance_scale"},
    "execution": {
        "blocks": ["transformer_blocks"],
        "attention": ["attn1"],
        "text": "last",
        "rotary": ["image_rotary_emb"],
        "output": "proj_out",
    },
}


def perturbed(layers=("blocks.0", "blocks.2")):
    """Stable Diffusion 3 with perturbed attention in these blocks: one call for the plain branches, one for the perturbed."""
    tiny = Tiny("sd3")
    parts = {name: part for name, part in tiny.pipe.components.items() if part is not None}
    pipe = diffusers.StableDiffusion3PAGPipeline(**parts, pag_applied_layers=list(layers))
    pipe.set_progress_bar_config(disable=True)
    return SimpleNamespace(pipe=pipe, call=tiny.call | {"pag_scale": 3.0}, probe=probe_of_family("sd3"))


@cache
def _mochi_network():
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "pooled_projection_dim": 16, "in_channels": 12}
    text = {"text_embed_dim": 32, "time_embed_dim": 4, "max_sequence_length": 16}
    torch.manual_seed(0)
    network = redraw_zeros(diffusers.MochiTransformer3DModel(patch_size=2, qk_norm="rms_norm", **sizes, **text))
    torch.nn.init.normal_(network.pos_frequencies)
    return network


def mochi():
    """Mochi calls attention once a batch element, over as many text tokens as that element has: here 9 and 7."""
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.MochiPipeline(scheduler=scheduler, transformer=_mochi_network(), **parts)
    pipe.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(0)
    embeds = [torch.randn(1, TEXT, 32, generator=draw) for _ in range(2)]
    masks = [torch.ones(1, TEXT).bool() for _ in range(2)]
    masks[1][:, TEXT - 2 :] = False
    call = {"prompt_embeds": embeds[0], "prompt_attention_mask": masks[0], "height": 80, "width": 112, "output_type": "latent"}
    call |= {"negative_prompt_embeds": embeds[1], "negative_prompt_attention_mask": masks[1], "num_frames": 6 * (FRAMES - 1) + 1}
    return SimpleNamespace(pipe=pipe, call=call, probe=parse_probe(MOCHI, "a Mochi probe"))
