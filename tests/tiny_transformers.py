"""Tiny random networks of the real diffusers classes, and forward arguments for those that the executor accelerates.

Axes have distinct sizes, mostly prime, so that a swapped one cannot hide: pictures are 7 rows by 11 columns of tokens, clips
are 3 frames, 5 rows, 7 columns; 9 text tokens; 2 items. Parameters that a class initialises to zero (gates, last projections)
are drawn anew, or half of every network would be dead and a test would pass without it.
"""

from typing import Any

import diffusers
import torch
from torch import nn

# The models are far too small to gain from more, and the suite shares its machine.
torch.set_num_threads(1)

ROWS, COLS = 7, 11
FRAMES, CLIP_ROWS, CLIP_COLS = 3, 5, 7
ITEMS, TEXT = 2, 9
TOKENS = {"image": ROWS * COLS, "clip": FRAMES * CLIP_ROWS * CLIP_COLS, "square": ROWS * ROWS}

_FLUX = {"patch_size": 1, "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16}
_FLUX |= {"num_attention_heads": 2, "joint_attention_dim": 32}
_FLUX2 = _FLUX | {"timestep_guidance_channels": 64, "axes_dims_rope": (4, 4, 4, 4)}
_SD3 = {"sample_size": 32, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8}
_SD3 |= {"num_attention_heads": 4, "joint_attention_dim": 64, "caption_projection_dim": 32, "pooled_projection_dim": 64}
_SD3 |= {"pos_embed_max_size": 24}
_WAN = {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16, "out_channels": 16}
_WAN |= {"text_dim": 32, "freq_dim": 32, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32, "cross_attn_norm": True}
_WAN |= {"qk_norm": "rms_norm_across_heads"}
_COGVIDEOX = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8}
_COGVIDEOX |= {"text_embed_dim": 32, "num_layers": 2, "sample_width": 14, "sample_height": 10, "sample_frames": 9}
_COGVIDEOX |= {"patch_size": 2, "max_text_seq_length": TEXT, "use_rotary_positional_embeddings": True}
_PIXART = {"num_layers": 2, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 3, "caption_channels": 32}
_PIXART |= {"in_channels": 4, "out_channels": 8, "cross_attention_dim": 24, "attention_bias": True, "norm_eps": 1e-6}
_PIXART |= {"activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single"}
_PIXART |= {"norm_elementwise_affine": False, "sample_size": 16}
_UNET = {"sample_size": 16, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (8, 16)}
_UNET |= {"norm_num_groups": 4, "attention_head_dim": 4, "cross_attention_dim": 32}
_UNET |= {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}

# family or variant -> (class, config)
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "flux": (
        "FluxTransformer2DModel",
        _FLUX | {"pooled_projection_dim": 32, "guidance_embeds": True, "axes_dims_rope": (4, 4, 8)},
    ),
    "chroma": (
        "ChromaTransformer2DModel",
        _FLUX
        | {"axes_dims_rope": (4, 4, 8), "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1},
    ),
    "flux2": ("Flux2Transformer2DModel", _FLUX2),
    "flux2-klein": ("Flux2Transformer2DModel", _FLUX2 | {"guidance_embeds": False}),
    "sd3": ("SD3Transformer2DModel", _SD3),
    "sd3.5": ("SD3Transformer2DModel", _SD3 | {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}),
    "wan": ("WanTransformer3DModel", _WAN),
    "latte": ("LatteTransformer3DModel", _PIXART | {"video_length": FRAMES}),
    "cogvideox": ("CogVideoXTransformer3DModel", _COGVIDEOX),
    "cogvideox-1.5": ("CogVideoXTransformer3DModel", _COGVIDEOX | {"patch_size_t": 2, "patch_bias": False}),
    "hunyuanvideo": (
        "HunyuanVideoTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 2}
        | {"num_single_layers": 2, "num_refiner_layers": 1, "patch_size": 2, "patch_size_t": 1, "guidance_embeds": True}
        | {"text_embed_dim": 16, "pooled_projection_dim": 8, "rope_axes_dim": (2, 4, 4)},
    ),
    "qwen-image": (
        "QwenImageTransformer2DModel",
        {"patch_size": 2, "in_channels": 64, "out_channels": 16, "num_layers": 2, "attention_head_dim": 16}
        | {"num_attention_heads": 3, "joint_attention_dim": 16, "guidance_embeds": False, "axes_dims_rope": (8, 4, 4)},
    ),
    "ltx-video": (
        "LTXVideoTransformer3DModel",
        {"in_channels": 8, "out_channels": 8, "patch_size": 1, "patch_size_t": 1, "num_attention_heads": 4}
        | {"attention_head_dim": 8, "cross_attention_dim": 32, "num_layers": 2, "caption_channels": 32},
    ),
    "pixart": ("PixArtTransformer2DModel", _PIXART | {"use_additional_conditions": False}),
    "dit": (
        "DiTTransformer2DModel",
        {"sample_size": 2 * ROWS, "num_layers": 2, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 2}
        | {"in_channels": 4, "out_channels": 8, "attention_bias": True, "activation_fn": "gelu-approximate"}
        | {"num_embeds_ada_norm": 1000, "norm_type": "ada_norm_zero", "norm_elementwise_affine": False},
    ),
    "lumina2": (
        "Lumina2Transformer2DModel",
        {"sample_size": 16, "patch_size": 2, "in_channels": 4, "hidden_size": 32, "num_layers": 2, "num_refiner_layers": 1}
        | {"num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 2, "axes_dim_rope": (4, 6, 6), "cap_feat_dim": 16}
        | {"axes_lens": (32, 32, 32)},
    ),
    "hidream": (
        "HiDreamImageTransformer2DModel",
        {"patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1}
        | {"attention_head_dim": 16, "num_attention_heads": 2, "caption_channels": [32, 16], "text_emb_dim": 64}
        | {"num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": (8, 4, 4), "max_resolution": (32, 32)}
        | {"llama_layers": (0, 1)},
    ),
    "z-image": (
        "ZImageTransformer2DModel",
        {"in_channels": 16, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
        | {"cap_feat_dim": 16, "axes_dims": [8, 4, 4], "axes_lens": [256, 32, 32]},
    ),
    "unet": ("UNet2DConditionModel", _UNET),
    "sdxl": (
        "UNet2DConditionModel",
        _UNET
        | {"cross_attention_dim": 64, "use_linear_projection": True, "addition_embed_type": "text_time"}
        | {
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 8 * 6 + 32,
            "transformer_layers_per_block": (1, 2),
        },
    ),
}


def redraw_zeros(module: nn.Module) -> nn.Module:
    """The module, with every all-zero parameter drawn from a normal distribution of width 0.05."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim and not parameter.any():
                parameter.normal_(std=0.05)
    return module.eval()


def network(name: str, seed: int = 0) -> nn.Module:
    """The network of a family or variant; the same seed gives the same weights, and the global generator is left alone."""
    class_name, config = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return redraw_zeros(getattr(diffusers, class_name)(**config))


def tiny_transformer(name: str, seed: int = 0) -> tuple[nn.Module, dict[str, Any], int]:
    """A network that the executor accelerates, keyword arguments for one forward of it, and its number of image tokens."""
    draw = torch.Generator().manual_seed(seed + 1)
    shape = {"dit": "square"}.get(name, "clip" if name in _CLIPS else "image")
    return network(name, seed), _FORWARD[name](lambda *size: torch.randn(*size, generator=draw)), TOKENS[shape]


_CLIPS = ("wan", "cogvideox", "hunyuanvideo", "ltx-video")


def _picture_ids(axes: int) -> torch.Tensor:
    ids = torch.zeros(ROWS, COLS, axes)
    ids[..., 1] += torch.arange(ROWS)[:, None]
    ids[..., 2] += torch.arange(COLS)[None]
    return ids.reshape(ROWS * COLS, axes)


def _text_mask(**kind: Any) -> torch.Tensor:
    mask = torch.ones(ITEMS, TEXT, **kind)
    mask[1, 6:] = 0
    return mask


def _timestep(value: float) -> torch.Tensor:
    return torch.full((ITEMS,), value)


def _flux(draw: Any) -> dict[str, Any]:
    text = {
        "encoder_hidden_states": draw(ITEMS, TEXT, 32),
        "pooled_projections": draw(ITEMS, 32),
        "txt_ids": torch.zeros(TEXT, 3),
    }
    picture = {"hidden_states": draw(ITEMS, ROWS * COLS, 16), "img_ids": _picture_ids(3)}
    return {**picture, **text, "timestep": _timestep(0.7), "guidance": _timestep(3.5)}


def _chroma(draw: Any) -> dict[str, Any]:
    mask = torch.cat([_text_mask(dtype=torch.bool), torch.ones(ITEMS, ROWS * COLS, dtype=torch.bool)], dim=1)
    kept = {key: value for key, value in _flux(draw).items() if key not in ("pooled_projections", "guidance")}
    return {**kept, "attention_mask": mask}


def _flux2(draw: Any) -> dict[str, Any]:
    kept = {key: value for key, value in _flux(draw).items() if key != "pooled_projections"}
    return {**kept, "img_ids": _picture_ids(4), "txt_ids": torch.zeros(TEXT, 4)}


def _sd3(draw: Any) -> dict[str, Any]:
    text = {"encoder_hidden_states": draw(ITEMS, TEXT, 64), "pooled_projections": draw(ITEMS, 64)}
    return {"hidden_states": draw(ITEMS, 4, 2 * ROWS, 2 * COLS), **text, "timestep": _timestep(700.0)}


def _wan(draw: Any) -> dict[str, Any]:
    latent = draw(ITEMS, 16, FRAMES, 2 * CLIP_ROWS, 2 * CLIP_COLS)
    return {"hidden_states": latent, "encoder_hidden_states": draw(ITEMS, TEXT, 32), "timestep": _timestep(700.0)}


def _cogvideox(draw: Any) -> dict[str, Any]:
    latent = draw(ITEMS, FRAMES, 4, 2 * CLIP_ROWS, 2 * CLIP_COLS)
    angle = draw(FRAMES * CLIP_ROWS * CLIP_COLS, 16)
    text = {"encoder_hidden_states": draw(ITEMS, TEXT, 32)}
    return {"hidden_states": latent, **text, "timestep": _timestep(700.0), "image_rotary_emb": (angle.cos(), angle.sin())}


def _hunyuanvideo(draw: Any) -> dict[str, Any]:
    text = {"encoder_hidden_states": draw(ITEMS, TEXT, 16), "encoder_attention_mask": _text_mask()}
    text |= {"pooled_projections": draw(ITEMS, 8)}
    latent = draw(ITEMS, 4, FRAMES, 2 * CLIP_ROWS, 2 * CLIP_COLS)
    return {"hidden_states": latent, **text, "timestep": _timestep(700.0), "guidance": _timestep(6000.0)}


def _qwen_image(draw: Any) -> dict[str, Any]:
    text = {"encoder_hidden_states": draw(ITEMS, TEXT, 16), "encoder_hidden_states_mask": _text_mask(dtype=torch.long)}
    picture = {"hidden_states": draw(ITEMS, ROWS * COLS, 64), "img_shapes": [[(1, ROWS, COLS)]] * ITEMS}
    return {**picture, **text, "timestep": _timestep(0.7)}


def _ltx_video(draw: Any) -> dict[str, Any]:
    text = {"encoder_hidden_states": draw(ITEMS, TEXT, 32), "encoder_attention_mask": _text_mask()}
    clip = {"hidden_states": draw(ITEMS, FRAMES * CLIP_ROWS * CLIP_COLS, 8)}
    clip |= {"num_frames": FRAMES, "height": CLIP_ROWS, "width": CLIP_COLS}
    return {**clip, **text, "timestep": _timestep(700.0)}


def _pixart(draw: Any) -> dict[str, Any]:
    text = {"encoder_hidden_states": draw(ITEMS, TEXT, 32), "encoder_attention_mask": _text_mask()}
    text |= {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    return {"hidden_states": draw(ITEMS, 4, 2 * ROWS, 2 * COLS), **text, "timestep": _timestep(700.0)}


def _dit(draw: Any) -> dict[str, Any]:
    latent = draw(ITEMS, 4, 2 * ROWS, 2 * ROWS)
    return {"hidden_states": latent, "timestep": _timestep(700.0), "class_labels": torch.tensor([1, 1000])}


_FORWARD: dict[str, Any] = {
    "flux": _flux,
    "chroma": _chroma,
    "flux2": _flux2,
    "sd3": _sd3,
    "sd3.5": _sd3,
    "wan": _wan,
    "cogvideox": _cogvideox,
    "hunyuanvideo": _hunyuanvideo,
    "qwen-image": _qwen_image,
    "ltx-video": _ltx_video,
    "pixart": _pixart,
    "dit": _dit,
}
EXECUTABLE = tuple(_FORWARD)
