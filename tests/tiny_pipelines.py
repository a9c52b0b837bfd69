"""Offline pipelines of the real diffusers classes with tiny random weights, deterministic, about a second a call.

    pipeline, call = build("wan")
    latents = pipeline(**call, generator=torch.Generator().manual_seed(0)).frames

`call` holds everything but a generator: sizes that give the token counts of `tiny_transformers`, few steps, guidance switched
on where a family has it, `output_type="latent"` (DiT has none: "pt"). Override what a test is about. Families whose encoders
are billions of parameters in one class (Llama, Mistral, Qwen) get random `prompt_embeds` instead of a prompt.
"""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from tiny_transformers import CLIP_COLS, CLIP_ROWS, COLS, FRAMES, ROWS, TEXT, network, tiny_transformer
from torch import nn

__all__ = ["FAMILIES", "VARIANTS", "build", "tiny_transformer"]

_WORDS = ["a", "cat", "dog", "on", "the", "grass", "photo", "of", "red", "blue", "sky"]
_PICTURE = {"height": 16 * ROWS, "width": 16 * COLS}
_CLIP = {"height": 16 * CLIP_ROWS, "width": 16 * CLIP_COLS, "num_frames": 4 * (FRAMES - 1) + 1}
_PROMPT = {"prompt": "a cat on the grass", "negative_prompt": "red"}
_SHORT = {"max_sequence_length": 16}

Built = tuple[Any, dict[str, Any]]


def build(name: str, seed: int = 0) -> Built:
    """A pipeline of this family or variant, and keyword arguments for one call of it. The global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline, call = _BUILDERS[name]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, {"num_inference_steps": 5, "output_type": "latent"} | call


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", "<s>", *_WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 3), ("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=77, **special)


def _t5(width: int = 32) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=32, d_model=width, d_kv=8, d_ff=37, num_layers=1, num_heads=4)).eval()


def _clip(projected: bool = False) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 2, "projection_dim": 32}
    config = CLIPTextConfig(vocab_size=32, bos_token_id=3, eos_token_id=1, pad_token_id=0, max_position_embeddings=77, **sizes)
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _gemma() -> nn.Module:
    from transformers import Gemma2Config, Gemma2Model

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Gemma2Model(Gemma2Config(vocab_size=32, num_key_value_heads=1, head_dim=8, **sizes)).eval()


_BLOCKS = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 1}


def _vae(channels: int = 4, kind: str = "AutoencoderKL", **more: Any) -> nn.Module:
    """An image VAE that shrinks by 8."""
    types = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return getattr(diffusers, kind)(latent_channels=channels, **_BLOCKS, **types, **more).eval()


def _wan_vae(kind: str = "AutoencoderKLWan") -> nn.Module:
    """A video VAE that shrinks by 8 in space and 4 in time; Qwen-Image uses the same design."""
    return getattr(diffusers, kind)(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def _flow() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def _embeds(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def _flux() -> Built:
    parts = {"text_encoder": _clip(), "tokenizer": _tokenizer(), "text_encoder_2": _t5(), "tokenizer_2": _tokenizer()}
    vae = _vae(shift_factor=0.06)
    pipeline = diffusers.FluxPipeline(scheduler=_flow(), vae=vae, transformer=network("flux"), **parts)
    return pipeline, {"prompt": _PROMPT["prompt"], "guidance_scale": 3.5, **_PICTURE, **_SHORT}


def _chroma() -> Built:
    parts = {"text_encoder": _t5(), "tokenizer": _tokenizer(), "vae": _vae(shift_factor=0.06)}
    pipeline = diffusers.ChromaPipeline(scheduler=_flow(), transformer=network("chroma"), **parts)
    return pipeline, {"guidance_scale": 4.0, **_PROMPT, **_PICTURE, **_SHORT}


def _flux2() -> Built:
    parts = {"text_encoder": None, "tokenizer": None, "vae": _vae(kind="AutoencoderKLFlux2")}
    pipeline = diffusers.Flux2Pipeline(scheduler=_flow(), transformer=network("flux2"), **parts)
    return pipeline, {"prompt_embeds": _embeds(1, TEXT, 32), "guidance_scale": 3.5, **_PICTURE}


def _klein() -> Built:
    """Flux.2 without distilled guidance: a second call for the unconditional branch."""
    parts = {"text_encoder": None, "tokenizer": None, "vae": _vae(kind="AutoencoderKLFlux2")}
    pipeline = diffusers.Flux2KleinPipeline(scheduler=_flow(), transformer=network("flux2-klein"), **parts)
    text = {"prompt_embeds": _embeds(1, TEXT, 32), "negative_prompt_embeds": _embeds(1, TEXT, 32)}
    return pipeline, {"guidance_scale": 4.0, **text, **_PICTURE}


def _sd3(name: str = "sd3") -> Built:
    encoders = {"text_encoder": _clip(True), "text_encoder_2": _clip(True), "text_encoder_3": _t5(64)}
    tokenizers = {"tokenizer": _tokenizer(), "tokenizer_2": _tokenizer(), "tokenizer_3": _tokenizer()}
    parts = {"vae": _vae(shift_factor=0.06), "transformer": network(name), **encoders, **tokenizers}
    return diffusers.StableDiffusion3Pipeline(scheduler=_flow(), **parts), {
        "guidance_scale": 5.0,
        **_PROMPT,
        **_PICTURE,
        **_SHORT,
    }


def _wan(two: bool = False) -> Built:
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    parts = {"vae": _wan_vae(), "text_encoder": _t5(), "tokenizer": _tokenizer(), "transformer": network("wan")}
    if two:
        parts |= {"transformer_2": network("wan", seed=1), "boundary_ratio": 0.875}
    pipeline = diffusers.WanPipeline(scheduler=diffusers.UniPCMultistepScheduler(**flow), **parts)
    return pipeline, {"guidance_scale": 5.0, **_PROMPT, **_CLIP, **_SHORT}


def _latte() -> Built:
    parts = {"text_encoder": _t5(), "tokenizer": _tokenizer(), "vae": _vae(), "transformer": network("latte")}
    size = {"height": _CLIP["height"], "width": _CLIP["width"], "video_length": FRAMES}
    pipeline = diffusers.LattePipeline(scheduler=diffusers.DDIMScheduler(), **parts)
    return pipeline, {"guidance_scale": 5.0, "clean_caption": False, **_PROMPT, **size}


def _cogvideox(name: str = "cogvideox") -> Built:
    kinds = {"down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4}
    vae = diffusers.AutoencoderKLCogVideoX(latent_channels=4, **_BLOCKS, **kinds).eval()
    scheduler = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction")
    parts = {"text_encoder": _t5(), "tokenizer": _tokenizer(), "transformer": network(name)}
    pipeline = diffusers.CogVideoXPipeline(vae=vae, scheduler=scheduler, **parts)
    return pipeline, {"guidance_scale": 5.0, "max_sequence_length": TEXT, **_PROMPT, **_CLIP}


def _hunyuanvideo() -> Built:
    vae = diffusers.AutoencoderKLHunyuanVideo(latent_channels=4, **_BLOCKS).eval()
    encoders = {"text_encoder": None, "tokenizer": None, "text_encoder_2": None, "tokenizer_2": None}
    pipeline = diffusers.HunyuanVideoPipeline(vae=vae, scheduler=_flow(), transformer=network("hunyuanvideo"), **encoders)
    mask = torch.ones(1, TEXT)
    mask[:, TEXT - 2 :] = 0
    text = {"prompt_embeds": _embeds(1, TEXT, 16), "pooled_prompt_embeds": _embeds(1, 8), "prompt_attention_mask": mask}
    return pipeline, {"guidance_scale": 6.0, **text, **_CLIP}


def _qwen_image() -> Built:
    parts = {"text_encoder": None, "tokenizer": None, "vae": _wan_vae("AutoencoderKLQwenImage")}
    pipeline = diffusers.QwenImagePipeline(scheduler=_flow(), transformer=network("qwen-image"), **parts)
    text = {"prompt_embeds": _embeds(1, TEXT, 16), "prompt_embeds_mask": torch.ones(1, TEXT, dtype=torch.long)}
    text |= {"negative_" + key: value.flip(1) for key, value in text.items()}
    return pipeline, {"true_cfg_scale": 4.0, **text, **_PICTURE}


def _ltx_video() -> Built:
    widths = {"block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    depths = {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5}
    vae = diffusers.AutoencoderKLLTXVideo(latent_channels=8, **widths, **depths).eval()
    parts = {"vae": vae, "text_encoder": _t5(), "tokenizer": _tokenizer(), "transformer": network("ltx-video")}
    # this VAE shrinks by 32 in space and 8 in time, and the pipeline insists on multiples of 32
    size = {"height": 32 * CLIP_ROWS, "width": 32 * CLIP_COLS, "num_frames": 8 * (FRAMES - 1) + 1}
    return diffusers.LTXPipeline(scheduler=_flow(), **parts), {"guidance_scale": 3.0, **_PROMPT, **size, **_SHORT}


def _pixart() -> Built:
    parts = {"text_encoder": _t5(), "tokenizer": _tokenizer(), "vae": _vae(), "transformer": network("pixart")}
    pipeline = diffusers.PixArtSigmaPipeline(scheduler=diffusers.DPMSolverMultistepScheduler(), **parts)
    plain = {"use_resolution_binning": False, "clean_caption": False}
    return pipeline, {"guidance_scale": 4.5, **plain, **_PROMPT, **_PICTURE, **_SHORT}


def _dit() -> Built:
    pipeline = diffusers.DiTPipeline(transformer=network("dit"), vae=_vae(), scheduler=diffusers.DDIMScheduler())
    return pipeline, {"class_labels": [1], "guidance_scale": 4.0, "output_type": "pt"}


def _lumina2() -> Built:
    parts = {"text_encoder": _gemma(), "tokenizer": _tokenizer(), "vae": _vae(shift_factor=0.06)}
    pipeline = diffusers.Lumina2Pipeline(scheduler=_flow(), transformer=network("lumina2"), **parts)
    return pipeline, {"guidance_scale": 4.0, "system_prompt": "a photo", **_PROMPT, **_PICTURE, **_SHORT}


def _hidream() -> Built:
    encoders = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3", "_4")}
    parts = {"vae": _vae(shift_factor=0.06), "transformer": network("hidream")}
    pipeline = diffusers.HiDreamImagePipeline(scheduler=_flow(), **parts, **encoders)
    pipeline.default_sample_size = 18  # it scales every size to this area, 18 * 8 squared, and rounds down: ours stays
    text = {"prompt_embeds_t5": (1, TEXT, 32), "prompt_embeds_llama3": (2, 1, TEXT, 16), "pooled_prompt_embeds": (1, 64)}
    text |= {"negative_" + key: shape for key, shape in text.items()}
    return pipeline, {"guidance_scale": 5.0, **{key: _embeds(*shape) for key, shape in text.items()}, **_PICTURE}


def _z_image() -> Built:
    parts = {"text_encoder": None, "tokenizer": None, "vae": _vae(16, shift_factor=0.06)}
    pipeline = diffusers.ZImagePipeline(scheduler=_flow(), transformer=network("z-image"), **parts)
    text = {"prompt_embeds": [_embeds(TEXT, 16)], "negative_prompt_embeds": [_embeds(TEXT - 2, 16)]}
    return pipeline, {"guidance_scale": 5.0, **text, **_PICTURE}


_UNET_SIZE = {"height": 8 * ROWS, "width": 8 * COLS}


def _unet() -> Built:
    parts = {"text_encoder": _clip(), "tokenizer": _tokenizer(), "vae": _vae(), "unet": network("unet")}
    parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    pipeline = diffusers.StableDiffusionPipeline(scheduler=scheduler, **parts)
    return pipeline, {"guidance_scale": 5.0, **_PROMPT, **_UNET_SIZE}


def _sdxl() -> Built:
    encoders = {"text_encoder": _clip(), "text_encoder_2": _clip(True), "tokenizer": _tokenizer(), "tokenizer_2": _tokenizer()}
    parts = {"vae": _vae(), "unet": network("sdxl"), "scheduler": diffusers.EulerDiscreteScheduler(), **encoders}
    return diffusers.StableDiffusionXLPipeline(**parts), {"guidance_scale": 5.0, **_PROMPT, **_UNET_SIZE}


_BUILDERS: dict[str, Callable[[], Built]] = {
    "flux": _flux,
    "chroma": _chroma,
    "flux2": _flux2,
    "flux2-klein": _klein,
    "sd3": _sd3,
    "sd3.5": lambda: _sd3("sd3.5"),
    "wan": _wan,
    "wan2.2": lambda: _wan(two=True),
    "latte": _latte,
    "cogvideox": _cogvideox,
    "cogvideox-1.5": lambda: _cogvideox("cogvideox-1.5"),
    "hunyuanvideo": _hunyuanvideo,
    "qwen-image": _qwen_image,
    "ltx-video": _ltx_video,
    "pixart": _pixart,
    "dit": _dit,
    "lumina2": _lumina2,
    "hidream": _hidream,
    "z-image": _z_image,
    "unet": _unet,
    "sdxl": _sdxl,
}
# variant -> the family whose probe describes it
VARIANTS = {"flux2-klein": "flux2", "sd3.5": "sd3", "wan2.2": "wan", "cogvideox-1.5": "cogvideox", "sdxl": "unet"}
FAMILIES = tuple(name for name in _BUILDERS if name not in VARIANTS)
