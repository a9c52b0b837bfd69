"""Networks whose weights are not plain: low-rank adapters, quantised, kept elsewhere between calls."""

import numpy as np
import pytest
import torch
from capture_sink import MemorySink
from generations import Tiny, generate, policy
from plain_hooks import watched

from janoscope.capture import Capture
from janoscope.capture.patch import InstancePatch
from janoscope.errors import ExecutionError

EVERY_TOKEN = {"intervals": {"static": 1, "moderate": 1, "active": 1}}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def with_adapter(family, targets=TARGETS):
    """A tiny pipeline whose transformer has a LoRA of random weights that shows in the picture."""
    tiny = Tiny(family)
    add_adapter(tiny, targets)
    return tiny


def add_adapter(tiny, targets=TARGETS):
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = LoraConfig(r=2, lora_alpha=8, target_modules=list(targets), init_lora_weights=False)
        tiny.pipe.transformer.add_adapter(config, "painter")


def assert_executed_and_recorded(tiny):
    """Exact where every step is full, restored, and recorded as plain hooks see it. Gives the latents (plain, skipping)."""
    plain = tiny.plain()
    before = tiny.attributes()
    assert torch.equal(tiny.run(policy(**EVERY_TOKEN))[0], plain)
    skipping, executor = tiny.run(policy())
    assert tiny.attributes() == before
    assert executor.summary.compute < 0.9
    assert (skipping - plain).abs().max() > 1e-4
    sink = MemorySink()
    with Capture(tiny.pipe, tiny.probe, sink), watched(tiny.pipe, tiny.probe.tap.components) as steps:
        assert torch.equal(generate(tiny.pipe, tiny.call), plain)
    recorded = [sink.only.stacked(index, "model_output", "guided") for index in range(len(steps))]
    assert tiny.probe.tokens.layout == "packed"
    np.testing.assert_array_equal(np.stack(recorded), np.stack([step.prediction.numpy() for step in steps]))
    return plain, skipping


def test_a_low_rank_adapter_works_as_its_merged_weights_do():
    tiny = with_adapter("flux")
    _, skipping = assert_executed_and_recorded(tiny)
    tiny.pipe.transformer.fuse_lora()
    torch.testing.assert_close(tiny.run(policy())[0], skipping, rtol=0, atol=2e-4)
    bare, _ = Tiny("flux").run(policy())
    assert (bare - skipping).abs().max() > 1e-2, "control: the adapter shows"


@pytest.mark.parametrize("family", ["wan", "sd3"])
def test_an_adapter_of_other_families_works_as_its_merged_weights_do(family):
    tiny = with_adapter(family)
    skipping, _ = tiny.run(policy())
    tiny.pipe.transformer.fuse_lora()
    torch.testing.assert_close(tiny.run(policy())[0], skipping, rtol=0, atol=2e-4)


def test_an_adapter_may_be_switched_off_while_the_executor_is_attached():
    tiny = with_adapter("flux")
    bare, _ = Tiny("flux").run(policy())
    with tiny.executor(policy()):
        painted = generate(tiny.pipe, tiny.call)
        tiny.pipe.transformer.disable_adapters()
        assert torch.equal(generate(tiny.pipe, tiny.call), bare)
    assert not torch.equal(painted, bare)


def test_an_adapter_that_comes_later_is_taken_in_attention_and_refused_at_the_output():
    tiny, other = Tiny("flux"), Tiny("flux")
    expected, _ = with_adapter("flux").run(policy())
    with tiny.executor(policy()):
        add_adapter(tiny)
        assert torch.equal(generate(tiny.pipe, tiny.call), expected)
    with other.executor(policy()):
        add_adapter(other, ["proj_out"])
        with pytest.raises(ExecutionError, match=r"transformer\.proj_out was replaced since .* attach the executor after it"):
            generate(other.pipe, other.call)
    assert_executed_and_recorded(other)


def test_model_offload_puts_the_network_back_after_every_generation_and_the_executor_stays(monkeypatch):
    """diffusers takes accelerate's hooks off and on again at the end of a call, and with them what was put over them."""
    tiny = Tiny("flux")
    expected, _ = tiny.run(policy())
    tiny.pipe.enable_model_cpu_offload(device="cpu")
    with tiny.executor(policy()) as executor:
        for _ in range(3):
            assert torch.equal(generate(tiny.pipe, tiny.call), expected)
            assert executor.summary.compute < 0.9
    assert torch.equal(tiny.plain(), Tiny("flux").plain())
    assert_executed_and_recorded(tiny)
    monkeypatch.setattr(InstancePatch, "renew", lambda self: None)
    with tiny.executor(policy()):
        generate(tiny.pipe, tiny.call)
        with pytest.raises(ExecutionError, match="no network call passed the executor"):
            generate(tiny.pipe, tiny.call)  # control: without it the second one would run unhooked


def test_model_offload_that_is_switched_on_later_is_worn_over_the_executor():
    tiny = Tiny("flux")
    expected, _ = tiny.run(policy())
    with tiny.executor(policy()):
        tiny.pipe.enable_model_cpu_offload(device="cpu")
        for _ in range(3):
            assert torch.equal(generate(tiny.pipe, tiny.call), expected)
    assert torch.equal(tiny.plain(), Tiny("flux").plain())


def test_groups_of_layers_that_are_fetched_on_demand_work():
    tiny = Tiny("flux")
    tiny.pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    )
    expected, _ = Tiny("flux").run(policy())
    assert torch.equal(assert_executed_and_recorded(tiny)[1], expected)


def _torchao(network):
    reason = "torchao is no test dependency: importing it prints warnings into every command that loads transformers"
    quantization = pytest.importorskip("torchao.quantization", reason=reason)
    quantization.quantize_(network, quantization.Int8WeightOnlyConfig())


def _quanto(network):
    quanto = pytest.importorskip("optimum.quanto", reason="optimum-quanto is no test dependency: it needs a compiler at run time")
    quanto.quantize(network, weights=quanto.qint8)
    quanto.freeze(network)


def _bitsandbytes(network):
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is no test dependency: 100 MB of GPU code")
    for module in [m for m in network.modules() if any(isinstance(c, torch.nn.Linear) for c in m.children())]:
        for name, child in [(n, c) for n, c in module.named_children() if isinstance(c, torch.nn.Linear)]:
            new = bnb.nn.Linear4bit(child.in_features, child.out_features, child.bias is not None, quant_type="nf4")
            new.load_state_dict(child.state_dict())
            setattr(module, name, new.to("cpu"))


@pytest.mark.parametrize("quantise", [_torchao, _quanto, _bitsandbytes])
def test_quantised_weights_work(quantise):
    tiny = Tiny("flux")
    bare, _ = tiny.run(policy())
    quantise(tiny.pipe.transformer)
    _, skipping = assert_executed_and_recorded(tiny)
    difference = (skipping - bare).abs().max()
    assert 1e-4 < difference < 1, "quantised, and still the same picture"
