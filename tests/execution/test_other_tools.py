"""What else is on a pipeline is seen when the executor is attached, or when its next generation begins, and refused by name."""

import inspect

import diffusers
import pytest
import torch
from diffusers import FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import MagCacheConfig
from diffusers.models.attention_dispatch import AttentionBackendName
from generations import Tiny, generate, policy

from janoscope.errors import ExecutionError
from janoscope.execution import Executor

RANGES = {"spatial_attention_block_skip_range": 2, "spatial_attention_timestep_skip_range": (0, 1000)}
CACHES = {
    "FirstBlockCache": FirstBlockCacheConfig(threshold=5.0),
    "PyramidAttentionBroadcast": PyramidAttentionBroadcastConfig(**RANGES, current_timestep_callback=lambda: 500),
    "FasterCache": FasterCacheConfig(**RANGES, current_timestep_callback=lambda: 500, tensor_format="BCHW"),
    "MagCache": MagCacheConfig(calibrate=True, num_inference_steps=8),
}


@pytest.fixture
def tiny():
    return Tiny("flux")


def clean(tiny):
    """Nothing of ours is left after a refusal: the pipeline runs as before."""
    assert not any("forward" in vars(module) for module in tiny.pipe.transformer.modules() if module is not tiny.pipe.transformer)
    assert "step" not in vars(tiny.pipe.scheduler)


@pytest.mark.parametrize("name", CACHES)
def test_another_cache_is_refused_by_name_and_fine_again_when_it_is_off(tiny, name):
    expected, _ = tiny.run(policy())
    tiny.pipe.transformer.enable_cache(CACHES[name])
    with pytest.raises(ExecutionError, match=rf"transformer has cache {name} .*disable_cache\(\)"):
        tiny.executor(policy())
    assert "step" not in vars(tiny.pipe.scheduler)
    tiny.pipe.transformer.disable_cache()
    assert torch.equal(tiny.run(policy())[0], expected)


def test_a_cache_that_is_switched_on_later_is_refused_when_the_generation_begins(tiny):
    with tiny.executor(policy()):
        tiny.pipe.transformer.enable_cache(CACHES["FirstBlockCache"])
        with pytest.raises(ExecutionError, match="transformer has cache FirstBlockCache"):
            generate(tiny.pipe, tiny.call)


def test_a_second_executor_is_refused_and_the_first_goes_on(tiny):
    expected, _ = tiny.run(policy())
    with tiny.executor(policy()) as first:
        with pytest.raises(ExecutionError, match=r"transformer has executor janoscope\.Executor .* remove it first"):
            tiny.executor(policy())
        assert torch.equal(generate(tiny.pipe, tiny.call), expected)
    assert first.summary.compute < 1
    clean(tiny)
    assert torch.equal(tiny.run(policy())[0], expected)


def test_a_second_executor_on_another_pipeline_of_the_same_parts_is_refused(tiny):
    other = diffusers.FluxImg2ImgPipeline(**tiny.pipe.components)
    with tiny.executor(policy()), pytest.raises(ExecutionError, match="remove it first"):
        Executor(other, tiny.probe, policy=policy())
    clean(tiny)


def test_a_scheduler_that_two_accelerated_pipelines_share_is_refused(tiny):
    second = Tiny("sd3")
    second.pipe.scheduler = tiny.pipe.scheduler
    with tiny.executor(policy()):
        with pytest.raises(
            ExecutionError, match="FlowMatchEulerDiscreteScheduler is watched by the executor of another pipeline"
        ):
            second.executor(policy())
        assert second.attributes()["transformer."] == Tiny("sd3").attributes()["transformer."]


def test_context_parallelism_is_refused(tiny):
    parallel = diffusers.ContextParallelConfig(ulysses_degree=2)
    tiny.pipe.transformer._parallel_config = diffusers.ParallelConfig(context_parallel_config=parallel)
    with pytest.raises(ExecutionError, match=r"transformer has parallelism context parallel .*a part of the tokens"):
        tiny.executor(policy())
    clean(tiny)


def test_a_backend_whose_limits_are_not_known_is_refused_by_module_and_name(tiny):
    attention = tiny.pipe.transformer.transformer_blocks[1].attn
    attention.processor._attention_backend = AttentionBackendName._NATIVE_NPU
    with pytest.raises(ExecutionError, match=r"transformer\.transformer_blocks\.1\.attn uses .* '_native_npu'.*choose native"):
        tiny.executor(policy())
    clean(tiny)


def test_a_forward_that_skips_attentions_is_named(tiny, monkeypatch):
    """As TeaCache's published code does: a method in the place of the class's."""
    honest = diffusers.FluxTransformer2DModel.forward

    def teacache_forward(self, *args, **kwargs):
        blocks = self.transformer_blocks
        self.transformer_blocks = blocks[:1]
        try:
            return honest(self, *args, **kwargs)
        finally:
            self.transformer_blocks = blocks

    monkeypatch.setattr(diffusers.FluxTransformer2DModel, "forward", teacache_forward)
    monkeypatch.setattr(teacache_forward, "__signature__", inspect.signature(honest), raising=False)
    with pytest.raises(ExecutionError, match=r"blocks\.1\.attn was served .* 0 times .*teacache_forward"):
        tiny.run(policy())
