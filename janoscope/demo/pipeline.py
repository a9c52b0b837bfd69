"""Construction of the bundled image pipeline from nothing: real diffusers and transformers classes, small sizes."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from .scenes import WORDS
from .vae import PixelShuffleVAE

TEXT_TOKENS = 16
TEXT_WIDTH = 64
SCHEDULER_SHIFT = 0.45  # below 1: more steps at low noise, where this small model still changes; the published thresholds then mean something
SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a known word; anything else becomes <unk>."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
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
        model_max_length=TEXT_TOKENS,
    )


def _transformer() -> FluxTransformer2DModel:
    transformer = FluxTransformer2DModel(
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
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SCHEDULER_SHIFT),
        vae=PixelShuffleVAE(),
        text_encoder=CLIPTextModel(clip),
        tokenizer=word_tokenizer(),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=word_tokenizer(),
        transformer=_transformer(),
    )
