"""FLOPs counted on copies without weights: those of torch's counter around real calls, and nothing of it inside a generation."""

import functools
import inspect

import pytest
import torch
from generations import Tiny, generate, policy
from strategies import branch_cache
from tiny_pipelines import FAMILIES, build
from tiny_transformers import EXECUTABLE, tiny_transformer
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from janoscope.execution.counting.flops import CallKind, CountedNetwork, FlopMeter, SomeTokens, flop_counter, shapes_of
from janoscope.execution.hooks import CallState, Mode, NetworkHooks
from janoscope.execution.rows import Rows
from janoscope.probe import find_probe

WITHIN = 0.005


class Counts:
    """A network's FLOPs for all and for some tokens: `real` by torch's counter around its own calls, `ours` without them."""

    def __init__(self, family, change=lambda module: None):
        self.module, self.arguments, self.tokens = tiny_transformer(family)
        change(self.module)
        self.facts = find_probe([cls.__name__ for cls in type(self.module).__mro__]).execution
        self.network = CountedNetwork("transformer", self.module, self.facts)

    def ours(self, strategy, computed=None):
        some = None if computed is None else SomeTokens(computed, self.tokens, strategy == "hidden")
        kind = CallKind(shapes_of(self.arguments), some)
        self.network.note(kind, self.arguments)
        return self.network.flops(kind)

    @torch.no_grad()
    def real(self, strategy, computed):
        """(all tokens, some)."""
        state = CallState()
        hooks = NetworkHooks("transformer", self.module, self.facts, state)
        cache, counted = branch_cache(strategy, self.tokens, hooks.layers), []
        rows = Rows(self.tokens, torch.randperm(self.tokens)[:computed].sort().values, self.facts)
        for mode, chosen in ((Mode.REFRESH, None), (Mode.PARTIAL, rows)):
            with state.during(mode, cache, chosen), flop_counter() as counter:
                self.module(**self.arguments, return_dict=False)
            counted.append(counter.get_total_flops())
        hooks.remove()
        return counted


@pytest.mark.parametrize("strategy", ["kv", "hidden"])
@pytest.mark.parametrize("family", EXECUTABLE)
def test_full_and_partial_calls_have_the_flops_that_torch_counts(family, strategy):
    counts = Counts(family)
    third = counts.tokens // 3
    full, partial = counts.real(strategy, third)
    assert counts.ours(strategy) == pytest.approx(full, rel=WITHIN)
    assert counts.ours(strategy, third) == pytest.approx(partial, rel=WITHIN)
    # controls: another number of tokens, another strategy
    assert counts.ours(strategy, third + 2) != pytest.approx(partial, rel=WITHIN)
    assert counts.ours({"kv": "hidden", "hidden": "kv"}[strategy], third) != pytest.approx(partial, rel=WITHIN)


class Int8Linear(nn.Linear):
    """A quantised layer as torchao's and quanto's are: an integer product, of which torch's counter knows nothing."""

    def forward(self, given):
        rows = given.reshape(-1, self.in_features)
        padded = torch.nn.functional.pad(rows, (0, 0, 0, max(0, 17 - len(rows))))  # _int_mm wants more than 16 rows
        made = torch._int_mm(padded.mul(16).to(torch.int8), self.weight.mul(64).to(torch.int8).t())[: len(rows)] / 1024
        return made.to(given.dtype).reshape(*given.shape[:-1], self.out_features) + self.bias


def quantise(module):
    for block in module.transformer_blocks:
        for projection in (block.attn.to_q, block.attn.to_k, block.attn.to_v, block.ff.net[0].proj):
            projection.__class__ = Int8Linear


@pytest.mark.parametrize("strategy", ["kv", "hidden"])
def test_products_of_quantised_weights_are_counted(strategy):
    plain, quantised = Counts("flux"), Counts("flux", quantise)
    third = plain.tokens // 3
    assert quantised.ours(strategy) == plain.ours(strategy)
    # the real products have rows that pad, and like bitsandbytes' they are made whole where `hidden` projects keys again
    assert [quantised.ours(strategy), quantised.ours(strategy, third)] == pytest.approx(quantised.real(strategy, third), rel=0.02)
    with torch.no_grad(), FlopCounterMode(display=False) as by_torch_alone:
        quantised.module(**quantised.arguments)
    assert by_torch_alone.get_total_flops() < 0.9 * plain.ours(strategy), "control: torch's own counter passes them over"


def test_an_adapter_loaded_between_generations_is_counted():
    from peft import LoraConfig

    tiny = Tiny("flux")
    with tiny.executor(policy()) as executor:
        generate(tiny.pipe, tiny.call)
        without = [step.flops for step in executor.summary.steps]
        tiny.pipe.transformer.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "ff.net.0.proj"]))
        generate(tiny.pipe, tiny.call)
        counted = [step.flops for step in executor.summary.steps]
        tiny.pipe.transformer.disable_adapters()
        generate(tiny.pipe, tiny.call)
        disabled = [step.flops for step in executor.summary.steps]
    tiny.pipe.transformer.enable_adapters()
    real = []
    with flop_counter() as counter:
        tiny.pipe.transformer.register_forward_hook(lambda *_: real.append(counter.get_total_flops()))
        generate(tiny.pipe, tiny.call)
    assert real[0] > without[0] * 1.01, "control: the adapter's products are seen"
    assert counted[0] == pytest.approx(real[1] - real[0], rel=WITHIN)
    assert all(more > less for more, less in zip(counted, without, strict=True))
    assert disabled == without


def test_nothing_is_counted_while_a_pipeline_generates():
    tiny, modes = Tiny("flux"), []
    tiny.pipe.transformer.x_embedder.register_forward_hook(lambda *_: modes.append(_get_current_dispatch_mode()))
    with tiny.executor(policy()) as executor:
        generate(tiny.pipe, tiny.call)
    calls = len(modes)
    assert calls
    assert modes == [None] * calls
    assert executor.summary.steps[0].flops > 0
    assert len(modes) == calls, "counting runs a copy, without the network's hooks"
    with flop_counter():
        generate(tiny.pipe, tiny.call)
    assert None not in modes[calls:], "control: a counter is seen from inside"


def compiled_frames(tiny):
    torch._dynamo.utils.counters.clear()
    generate(tiny.pipe, tiny.call, num_inference_steps=4)
    return torch._dynamo.utils.counters["frames"]["ok"]


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("counter", ["ours", "torch's"])
def test_blocks_are_still_compiled_after_a_counted_generation(counter, fresh_dynamo):
    tiny = Tiny("flux")
    tiny.pipe.transformer.compile_repeated_blocks(backend="eager")
    if counter == "torch's":  # control: what a counter around a compiled call does to later ones
        with FlopCounterMode(display=False):
            generate(tiny.pipe, tiny.call)
    else:
        with tiny.executor(policy()) as executor:
            generate(tiny.pipe, tiny.call)
        assert executor.summary.compute < 1
        with flop_counter():
            generate(tiny.pipe, tiny.call)
    later = Tiny("flux")
    later.pipe.to(torch.bfloat16)  # compiled anew; other sizes would not be, since what is compiled by now takes any
    later.pipe.transformer.compile_repeated_blocks(backend="eager")
    assert (compiled_frames(later) > 0) == (counter == "ours")


def test_operators_without_a_formula_are_named():
    @torch.library.custom_op("janoscope_test::secret_mm", mutates_args=())
    def secret_mm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left @ right

    with pytest.warns(RuntimeWarning, match=r"no FLOPs are counted for janoscope_test\.secret_mm"), flop_counter():
        secret_mm(torch.ones(2, 3), torch.ones(3, 4))


def test_a_network_that_reads_values_is_estimated_by_the_formula(monkeypatch):
    tiny = Tiny("flux")
    counted = tiny.run(policy())[1].summary
    kind = type(tiny.pipe.transformer)
    plain = kind.forward

    @functools.wraps(plain)
    def reads_a_value(self, hidden_states, **more):
        hidden_states.max().item()
        return plain(self, hidden_states, **more)

    monkeypatch.setattr(kind, "forward", reads_a_value)
    account = tiny.run(policy())[1].summary
    with pytest.warns(RuntimeWarning, match="estimated by a formula: FluxTransformer2DModel cannot be traced"):
        assert account.compute == pytest.approx(counted.compute, abs=0.05)


def test_counts_are_kept_until_the_network_changes():
    module = tiny_transformer("flux")[0]
    meter = FlopMeter()
    first = meter.network("transformer", module)
    assert meter.network("transformer", module) is first
    module.x_embedder = nn.Linear(16, 32, bias=False)
    assert meter.network("transformer", module) is not first


@pytest.mark.parametrize("name", FAMILIES)
def test_counting_leaves_no_trace_on_the_network(name):
    """A forward may write to what a module holds beside its modules; the copy without weights must not share it (Z-Image)."""
    pipe, call = build(name)
    network = getattr(pipe, "transformer", None) or pipe.unet
    given = []
    handle = network.register_forward_pre_hook(lambda m, a, k: given.append((a, k)), with_kwargs=True)
    with torch.no_grad():
        pipe(**call | {"num_inference_steps": 2}, generator=torch.Generator().manual_seed(0))
        handle.remove()
        args, kwargs = given[0]
        before = tree_leaves(network(*args, **kwargs))[0].clone()
        arguments = inspect.signature(type(network).forward).bind(network, *args, **kwargs).arguments
        counted, kind = FlopMeter().network("network", network), CallKind(shapes_of(arguments))
        counted.note(kind, arguments)
        counted.flops(kind)
        assert torch.equal(tree_leaves(network(*args, **kwargs))[0], before)
