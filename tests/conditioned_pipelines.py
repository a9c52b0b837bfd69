"""Offline pipelines that are given pictures, or step several at once, or a learned variance too: tiny, of real classes.

    pipeline, call = conditioned("ltx-video i2v")

`CASES` names the family whose probe describes each. Parts come from `tiny_pipelines`; see there.
"""

from collections.abc import Callable
from typing import Any

import diffusers
import PIL.Image
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_layered
from tiny_pipelines import Built, build
from tiny_transformers import NETWORKS, TEXT, redraw_zeros
from torch import nn

_STEPS = {"num_inference_steps": 4}


def conditioned(name: str, seed: int = 0) -> Built:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline, call = CASES[name][1]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, call | _STEPS


def _picture(width: int, height: int) -> PIL.Image.Image:
    return PIL.Image.linear_gradient("L").resize((width, height)).convert("RGB")


def _network(family: str, **changes: Any) -> nn.Module:
    name, config = NETWORKS[family]
    return redraw_zeros(getattr(diffusers, name)(**config | changes))


def _with(base: str, pipeline: Any, drop: tuple[str, ...] = (), **parts: Any) -> Built:
    """`pipeline` of the parts of a tiny pipeline, and the call of that one."""
    text, call = build(base)
    own = {key: part for key, part in text.components.items() if key not in drop}
    return pipeline(**own | parts), {key: value for key, value in call.items() if key not in drop}


def _kontext() -> Built:
    pipeline, call = _with("flux", diffusers.FluxKontextPipeline, image_encoder=None, feature_extractor=None)
    return pipeline, call | {"image": _picture(64, 48), "_auto_resize": False, "max_area": call["height"] * call["width"]}


def _klein_reference() -> Built:
    pipeline, call = _with("flux2-klein", diffusers.Flux2KleinPipeline)
    return pipeline, call | {"image": _picture(80, 64)}


def _klein_kv(size: int) -> Callable[[], Built]:
    def make() -> Built:
        drop = ("guidance_scale", "negative_prompt_embeds")
        pipeline, call = _with("flux2-klein", diffusers.Flux2KleinKVPipeline, drop)
        return pipeline, call | {"image": _picture(size, size), "height": 96, "width": 64}

    return make


def _qwen_edit() -> Built:
    pipeline_qwenimage_edit.calculate_dimensions = lambda area, ratio: (64, 48, None)  # its own is a megapixel
    pipeline, call = _with("qwen-image", diffusers.QwenImageEditPipeline, processor=None)
    return pipeline, call | {"image": _picture(64, 48)}


class _Encoder(nn.Module):
    dtype, device = torch.float32, torch.device("cpu")


def _layered() -> Built:
    pipeline_qwenimage_layered.calculate_dimensions = lambda area, ratio: (64, 48)  # its own is 640 x 640
    network = _network("qwen-image", use_additional_t_cond=True, use_layer3d_rope=True)
    pipeline, call = _with(
        "qwen-image", diffusers.QwenImageLayeredPipeline, ("height", "width"), processor=None, transformer=network
    )
    pipeline.register_modules(text_encoder=_Encoder())
    return pipeline, call | {"image": _picture(64, 48), "prompt": "x", "layers": 2, "output_type": "np"}


def _visualcloze(*sizes: tuple[int, int]) -> Callable[[], Built]:
    """A row of two pictures for each size; the very last is to be made."""

    def make() -> Built:
        network = _network("flux", in_channels=16 + 16 + 256, out_channels=16)
        text, call = build("flux")
        parts = text.components | {"transformer": network, "resolution": 48}
        parts = {key: part for key, part in parts.items() if key not in ("image_encoder", "feature_extractor")}
        pipeline = diffusers.pipelines.visualcloze.VisualClozeGenerationPipeline(**parts)
        rows = [[_picture(*size), _picture(*size)] for size in sizes]
        rows[-1][-1] = None
        words = {"task_prompt": "a cat", "content_prompt": "a dog", "image": rows}
        return pipeline, words | {key: call[key] for key in ("output_type", "max_sequence_length", "guidance_scale")}

    return make


def _ltx(pipeline: Any) -> Callable[[], Built]:
    def make() -> Built:
        made, call = _with("ltx-video", pipeline)
        return made, call | {"image": _picture(call["width"], call["height"])}

    return make


def _hunyuan(condition: str) -> Callable[[], Built]:
    def make() -> Built:
        changes = {"image_condition_type": condition} | ({"in_channels": 9} if condition == "latent_concat" else {})
        network = _network("hunyuanvideo", **changes)
        pipeline, call = _with(
            "hunyuanvideo", diffusers.HunyuanVideoImageToVideoPipeline, transformer=network, image_processor=None
        )
        negative = {f"negative_{key}": call[key].flip(1) for key in call if key.startswith(("prompt_", "pooled_"))}
        call |= {"image": _picture(call["width"], call["height"]), "true_cfg_scale": 2.0}
        return pipeline, call | negative

    return make


def _wan_i2v(**config: Any) -> Callable[[], Built]:
    def make() -> Built:
        network = _network("wan", **({} if config else {"in_channels": 16 + 16 + 4}))
        parts = {"transformer": network, "image_encoder": None, "image_processor": None}
        drop = ("prompt", "negative_prompt")
        pipeline, call = _with("wan", diffusers.WanImageToVideoPipeline, drop, **parts, **config)
        text = {"prompt_embeds": torch.randn(1, TEXT, 32), "negative_prompt_embeds": torch.randn(1, TEXT, 32)}
        return pipeline, call | text | {"image": _picture(call["width"], call["height"])}

    return make


def _cogvideox_i2v() -> Built:
    pipeline, call = _with("cogvideox", diffusers.CogVideoXImageToVideoPipeline, transformer=_network("cogvideox", in_channels=8))
    return pipeline, call | {"image": _picture(call["width"], call["height"])}


def _deepfloyd() -> Built:
    network = _network("unet", in_channels=3, out_channels=6)
    rest = dict.fromkeys(("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker"))
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    pipeline = diffusers.IFPipeline(unet=network, scheduler=scheduler, **rest, requires_safety_checker=False)
    text = {"prompt_embeds": torch.randn(1, TEXT, 32), "negative_prompt_embeds": torch.randn(1, TEXT, 32)}
    return pipeline, text | {"guidance_scale": 5.0, "height": 20, "width": 28, "output_type": "pt"}


# case -> (family of its probe, builder)
CASES: dict[str, tuple[str, Callable[[], Built]]] = {
    "flux kontext": ("flux", _kontext),
    "flux2 reference": ("flux2", _klein_reference),
    "flux2 kv, small reference": ("flux2", _klein_kv(64)),
    "flux2 kv, large reference": ("flux2", _klein_kv(160)),
    "qwen-image edit": ("qwen-image", _qwen_edit),
    "qwen-image layered": ("qwen-image", _layered),
    "visualcloze": ("flux", _visualcloze((48, 48), (48, 48))),
    "visualcloze, two sizes": ("flux", _visualcloze((48, 48), (96, 24))),
    "ltx-video i2v": ("ltx-video", _ltx(diffusers.LTXImageToVideoPipeline)),
    "ltx-video condition": ("ltx-video", _ltx(diffusers.LTXConditionPipeline)),
    "hunyuanvideo i2v, frame": ("hunyuanvideo", _hunyuan("token_replace")),
    "hunyuanvideo i2v, channels": ("hunyuanvideo", _hunyuan("latent_concat")),
    "wan i2v": ("wan", _wan_i2v()),
    "wan ti2v": ("wan", _wan_i2v(expand_timesteps=True)),
    "cogvideox i2v": ("cogvideox", _cogvideox_i2v),
    "deepfloyd if": ("unet", _deepfloyd),
}
