"""What else is attached to a network is seen and named, without touching it; a plain network has nothing."""

import functools

import diffusers
import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache, apply_group_offloading, apply_layerwise_casting
from tiny_pipelines import FAMILIES, build

from janoscope.capture import Attachment, AttachmentKind, Capture, attachments_of
from janoscope.capture.patch import InstancePatch
from janoscope.execution import Executor
from janoscope.plan import Policy
from janoscope.probe import CHECKOUT, load_probe


def flux():
    return build("flux")[0].transformer


def teacache_forward(self, *args, **kwargs):
    """What TeaCache's published code puts in the place of the class's method."""


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_plain_network_has_nothing_attached(family):
    pipe, _ = build(family)
    for component in (pipe.transformer,) if getattr(pipe, "transformer", None) is not None else (pipe.unet,):
        assert attachments_of(component) == ()


@pytest.mark.parametrize("attach", ["enable_cache", "apply_first_block_cache"])
def test_a_cache_is_named_and_gone_when_it_is_switched_off(attach):
    network, config = flux(), FirstBlockCacheConfig(threshold=0.1)
    network.enable_cache(config) if attach == "enable_cache" else apply_first_block_cache(network, config)
    (cache,) = attachments_of(network)
    assert (cache.kind, cache.name) == (AttachmentKind.CACHE, "FirstBlockCache")
    assert cache.modules >= 2  # the first block leads, the others follow
    if attach == "enable_cache":
        network.disable_cache()
        assert attachments_of(network) == ()


def test_compilation_of_the_whole_and_of_blocks_is_told_apart():
    network = flux()
    whole = torch.compile(network, backend="eager")
    assert attachments_of(whole) == (Attachment(AttachmentKind.COMPILATION, "torch.compile"),)
    assert attachments_of(network) == ()
    network.transformer_blocks[0].compile(backend="eager")
    (blocks,) = attachments_of(network)
    assert blocks == Attachment(AttachmentKind.COMPILATION, "torch.compile", "transformer_blocks.0", 1)
    assert str(blocks) == "compilation torch.compile on transformer_blocks.0"


def test_offload_casting_and_attention_backends_are_named():
    from accelerate.hooks import CpuOffload, add_hook_to_module

    network = flux()
    add_hook_to_module(network, CpuOffload("cpu"))
    assert str(*attachments_of(network)) == "offload accelerate CpuOffload on the whole network"
    network = flux()
    apply_group_offloading(network, torch.device("cpu"), offload_type="leaf_level")
    assert {(a.kind, a.name) for a in attachments_of(network)} == {(AttachmentKind.OFFLOAD, "group offloading")}
    network = flux()
    apply_layerwise_casting(network, torch.float8_e4m3fn, torch.float32)
    assert {(a.kind, a.name) for a in attachments_of(network)} == {(AttachmentKind.CASTING, "float8_e4m3fn")}
    network = flux()
    network.transformer_blocks[0].attn.processor._attention_backend = "flex"
    assert str(*attachments_of(network)) == "attention backend flex on transformer_blocks.0.attn"


def test_quantised_weights_and_adapters_are_named():
    from peft import LoraConfig

    network = flux()
    linear = network.transformer_blocks[0].attn.to_q
    linear.weight = torch.nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    assert str(*attachments_of(network)) == "quantisation int8 on transformer_blocks.0.attn.to_q"
    network = flux()
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "style")
    (adapter,) = attachments_of(network)
    assert (adapter.kind, adapter.name) == (AttachmentKind.ADAPTER, "style")
    network.disable_adapters()
    assert [a.name for a in attachments_of(network)] == ["style (switched off)"]


def test_context_parallelism_and_cache_dit_are_named():
    network = flux()
    network._parallel_config = diffusers.ParallelConfig(context_parallel_config=diffusers.ContextParallelConfig(ulysses_degree=2))
    assert str(*attachments_of(network)) == "parallelism context parallel on the whole network"
    network = flux()
    network._is_cached = True
    assert str(*attachments_of(network)) == "cache cache-dit on the whole network"


def test_a_forward_that_somebody_replaced_is_named(monkeypatch):
    network = flux()
    plain = network.forward
    network.forward = functools.wraps(plain)(lambda *args, **kwargs: plain(*args, **kwargs))
    (replaced,) = attachments_of(network)
    assert replaced.kind is AttachmentKind.HOOK
    assert replaced.name.startswith(f"forward replaced by {__name__}.test_a_forward")
    del network.forward
    monkeypatch.setattr(type(network), "forward", teacache_forward)
    (replaced,) = attachments_of(network)
    assert replaced.name == f"FluxTransformer2DModel.forward replaced by {__name__}.teacache_forward"


def test_a_foreign_forward_hook_is_named_and_janoscopes_watching_is_not():
    pipe, _ = build("flux")

    class Sink:
        """Nothing is recorded."""

    with Capture(pipe, load_probe(CHECKOUT / "flux.toml"), Sink()):
        assert attachments_of(pipe.transformer) == ()
        patch = InstancePatch(pipe.transformer, "forward", lambda original: original)
        assert attachments_of(pipe.transformer) == ()
        patch.remove()
    pipe.transformer.register_forward_hook(teacache_forward)
    (hook,) = attachments_of(pipe.transformer)
    assert hook == Attachment(AttachmentKind.HOOK, f"{__name__}.teacache_forward")


def test_an_executor_is_named_under_another_wrapper_too():
    pipe, _ = build("flux")
    table = {"name": "t", "warmup": 2, "cooldown": 1, "tile": [1, 2, 2], "intervals": {"static": 4, "moderate": 3, "active": 1}}
    policy = Policy.from_table(table | {"quantiles": {"static": 0.3, "moderate": 0.6}}, "test")
    with Executor(pipe, load_probe(CHECKOUT / "flux.toml"), policy=policy):
        patch = InstancePatch(pipe.transformer, "forward", lambda original: lambda *args, **kwargs: original(*args, **kwargs))
        assert attachments_of(pipe.transformer) == (Attachment(AttachmentKind.EXECUTOR, "janoscope.Executor"),)
        patch.remove()
    assert attachments_of(pipe.transformer) == ()
