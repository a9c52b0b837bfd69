"""What docs/limits.md says of pictures given to a network: the executor refuses every such run by name."""

import diffusers
import pytest
from capture_sink import run
from conditioned_pipelines import CASES, conditioned
from plain_hooks import probe_named
from tiny_pipelines import build
from tiny_transformers import NETWORKS, redraw_zeros

from janoscope.errors import ExecutionError
from janoscope.execution import Executor
from janoscope.plan.policy import Intervals, Policy, Split

POLICY = Policy("t", 1, 1, (1, 2, 2), Intervals(4, 3, 1), quantiles=Split(0.3, 0.6))
WHY = {
    "flux kontext": "the network was given 89 tokens for a picture of 77: reference pictures",
    "flux2 reference": "the network was given 97 tokens for a picture of 77: reference pictures",
    "flux2 kv, small reference": "was called with kv_cache_mode",
    "flux2 kv, large reference": "was called with kv_cache_mode",
    "qwen-image edit": "the network was given 89 tokens for a picture of 77: reference pictures",
    "qwen-image layered": "the network was given 48 tokens for a picture of 12: reference pictures",
    "visualcloze": "reference pictures",
    "visualcloze, two sizes": "reference pictures",
    "ltx-video i2v": "gives every token its own timestep",
    "ltx-video condition": "was called with video_coords",
    "hunyuanvideo i2v, frame": "image_condition_type",
    "hunyuanvideo i2v, channels": "image_condition_type",
    "wan i2v": "takes 36 channels but the sampler steps 16",
    "wan ti2v": "gives every token its own timestep",
    "cogvideox i2v": "takes 8 channels but the sampler steps 4",
    "deepfloyd if": "no \\[execution\\]",
}


@pytest.mark.parametrize("name", CASES)
def test_a_conditioned_run_is_refused_by_name(name):
    pipeline, call = conditioned(name)
    with pytest.raises(ExecutionError, match=WHY[name]), Executor(pipeline, probe_named(CASES[name][0]), policy=POLICY):
        run(pipeline, call)


def test_skip_layer_guidance_and_modulation_by_place_are_refused_by_name():
    pipeline, call = build("sd3")
    skip = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    with (
        pytest.raises(ExecutionError, match="was called with skip_layers"),
        Executor(pipeline, probe_named("sd3"), policy=POLICY),
    ):
        run(pipeline, call | skip)
    pipeline, call = build("qwen-image")
    name, config = NETWORKS["qwen-image"]
    pipeline.transformer = redraw_zeros(getattr(diffusers, name)(**config | {"zero_cond_t": True}))
    with pytest.raises(ExecutionError, match="zero_cond_t"), Executor(pipeline, probe_named("qwen-image"), policy=POLICY):
        run(pipeline, call)
