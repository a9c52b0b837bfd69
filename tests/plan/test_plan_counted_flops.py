"""The FLOP formula against torch's own counter, on shapes only (meta tensors compute nothing)."""

from dataclasses import replace

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, FluxTransformer2DModel, SD3Transformer2DModel, WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

from janoscope.plan import ModelFacts
from janoscope.plan.cost import step_flops


def flux():
    """The size of the bundled demo model."""
    axes = {"axes_dims_rope": (4, 14, 14), "joint_attention_dim": 64, "pooled_projection_dim": 64}
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=48, num_layers=1, num_single_layers=5, attention_head_dim=32, num_attention_heads=6, **axes
    )
    image, text = {"hidden_states": torch.empty(1, 256, 48)}, {"encoder_hidden_states": torch.empty(1, 8, 64)}
    ids = {"img_ids": torch.empty(256, 3), "txt_ids": torch.empty(8, 3), "pooled_projections": torch.empty(1, 64)}
    return model, image | text | ids, 256, "joint", 8


def wan():
    model = WanTransformer3DModel(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30)
    inputs = {"hidden_states": torch.empty(1, 16, 5, 32, 32), "encoder_hidden_states": torch.empty(1, 512, 4096)}
    return model, inputs, 5 * 256, "cross", 512


def sd3():
    model = SD3Transformer2DModel(
        sample_size=64, num_layers=24, attention_head_dim=64, num_attention_heads=24, caption_projection_dim=1536
    )
    inputs = {"hidden_states": torch.empty(1, 16, 64, 64), "encoder_hidden_states": torch.empty(1, 333, 4096)}
    return model, inputs | {"pooled_projections": torch.empty(1, 2048)}, 1024, "joint", 333


def sd35_medium():
    model, inputs, tokens, *text = sd3()
    dual = SD3Transformer2DModel.from_config({**model.config, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"})
    return dual, inputs, tokens, *text


def cogvideox():
    model = CogVideoXTransformer3DModel(num_attention_heads=30, attention_head_dim=64, num_layers=30)
    inputs = {"hidden_states": torch.empty(1, 5, 16, 32, 32), "encoder_hidden_states": torch.empty(1, 226, 4096)}
    return model, inputs, 5 * 256, "joint", 226


@pytest.mark.parametrize("make", [flux, wan, sd3, sd35_medium, cogvideox])
def test_a_full_step_has_the_flops_that_torch_counts(make):
    with torch.device("meta"), torch.no_grad():
        model, inputs, tokens, text, text_tokens = make()
        with FlopCounterMode(display=False) as counter:
            model(**inputs, timestep=torch.empty(1))
    facts = ModelFacts.from_config(model.config, text=text, text_tokens=text_tokens)
    # what the formula leaves out (embedding, modulation, output) is under 1 %
    assert step_flops(facts, tokens, tokens) == pytest.approx(counter.get_total_flops(), rel=0.01)
    # controls: the text forgotten, the second attention forgotten
    assert step_flops(replace(facts, text="none"), tokens, tokens) < 0.98 * counter.get_total_flops()
    if facts.dual_layers:
        assert step_flops(replace(facts, dual_layers=0), tokens, tokens) < 0.98 * counter.get_total_flops()
