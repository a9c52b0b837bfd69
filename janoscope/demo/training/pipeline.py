"""Construction of the bundled pipelines from nothing: real diffusers and transformers classes, small sizes."""

import math
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LattePipeline,
    LatteTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from ..vae import ClipShuffleVAE, PixelShuffleVAE
from .clips import CLIP_WORDS
from .scenes import WORDS

TEXT_TOKENS = 16
TEXT_WIDTH = 64
# Shift by image tokens, as Flux has it. Below 1 at 256: more steps at low noise, where this small model still changes, and the
# published thresholds mean something. Above 1 at 1024: where things stand is settled at high noise.
SHIFTS = {256: 0.45, 1024: 1.5}
VIDEO_SHIFT = 1.0
LATTE_FRAMES = 16
LATTE_TEXT_TOKENS = 120  # LattePipeline pads to this many and takes no other number
SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")


def word_tokenizer(words: tuple[str, ...] = WORDS, length: int = TEXT_TOKENS) -> PreTrainedTokenizerFast:
    """One token a known word; anything else becomes <unk>."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        model_max_length=length,
    )


def _flux_transformer() -> FluxTransformer2DModel:
    transformer: Any = FluxTransformer2DModel(
        patch_size=1,
        in_channels=48,
        num_layers=1,
        num_single_layers=5,
        attention_head_dim=32,
        num_attention_heads=6,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(4, 14, 14),
    )
    # adaLN-Zero: diffusers leaves modulation and output at the default initialisation, training starts better from zero
    for name, parameter in transformer.named_parameters():
        if (".norm" in name and ".linear." in name) or name.startswith(("norm_out.linear", "proj_out")):
            torch.nn.init.zeros_(parameter)
    return transformer


def _zero(transformer: Any, *names: str) -> None:
    for name, parameter in transformer.named_parameters():
        if name.startswith(names):
            torch.nn.init.zeros_(parameter)


def image_pipeline() -> FluxPipeline:
    """An untrained FluxPipeline of the bundled model's sizes; seed torch before calling."""
    words = len(SPECIAL) + len(WORDS)
    clip = CLIPTextConfig(
        vocab_size=words,
        hidden_size=TEXT_WIDTH,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT_TOKENS,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=3,
    )
    t5 = T5Config(vocab_size=words, d_model=TEXT_WIDTH, d_kv=16, d_ff=128, num_layers=1, num_heads=4, dropout_rate=0.0)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_image_seq_len=min(SHIFTS),
            max_image_seq_len=max(SHIFTS),
            base_shift=math.log(SHIFTS[min(SHIFTS)]),
            max_shift=math.log(SHIFTS[max(SHIFTS)]),
        ),
        vae=PixelShuffleVAE(),
        text_encoder=CLIPTextModel(clip),
        tokenizer=word_tokenizer(),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=word_tokenizer(),
        transformer=_flux_transformer(),
    )


def video_pipeline() -> WanPipeline:
    """An untrained WanPipeline of the bundled video model's sizes; seed torch before calling."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=3,  # few wide heads: half of a training step on a CPU is attention, whose cost grows with heads
        attention_head_dim=48,
        in_channels=24,
        out_channels=24,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=512,
        num_layers=6,
        rope_max_seq_len=64,
    )
    _zero(transformer, "proj_out", "condition_embedder.time_proj")
    umt5 = UMT5Config(
        vocab_size=len(SPECIAL) + len(CLIP_WORDS),
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=128,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
    )
    return WanPipeline(
        tokenizer=word_tokenizer(CLIP_WORDS),
        text_encoder=UMT5EncoderModel(umt5),
        vae=ClipShuffleVAE(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=VIDEO_SHIFT),
        transformer=transformer,
    )


def latte_scheduler() -> Any:
    return DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False)


def latte_pipeline() -> LattePipeline:
    """An untrained LattePipeline of the bundled Latte's sizes; seed torch before calling."""
    transformer = LatteTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=48,
        in_channels=12,
        out_channels=24,  # the pipeline drops the second half, Latte's learned variance; it is not trained here
        num_layers=4,
        cross_attention_dim=144,
        attention_bias=True,
        sample_size=16,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=TEXT_WIDTH,
        video_length=LATTE_FRAMES,
    )
    _zero(transformer, "proj_out", "adaln_single.linear")
    words = len(SPECIAL) + len(CLIP_WORDS)
    t5 = T5Config(vocab_size=words, d_model=TEXT_WIDTH, d_kv=16, d_ff=128, num_layers=1, num_heads=4, dropout_rate=0.0)
    return LattePipeline(
        tokenizer=word_tokenizer(CLIP_WORDS, LATTE_TEXT_TOKENS),
        text_encoder=T5EncoderModel(t5),
        vae=PixelShuffleVAE(),
        transformer=transformer,
        scheduler=latte_scheduler(),
    )
