"""Every cache strategy against `kv`, on one network of every family: the same keys and values, or as near as its codes are."""

import pytest
import torch
from strategies import OTHERS, TOLERANCE, branch_cache
from tiny_transformers import EXECUTABLE, tiny_transformer

from janoscope.errors import ExecutionError
from janoscope.execution.caching.quantized import FP8, INT8
from janoscope.execution.counting.flops import flop_counter
from janoscope.execution.hooks import CallState, Mode, NetworkHooks
from janoscope.execution.reprojection import Reentry
from janoscope.execution.rows import Rows
from janoscope.probe import find_probe

EXACT = ("hidden", "offload")


class Network:
    """A tiny network of a family under hooks: `calls` gives what a refresh and partial calls at other inputs and times give."""

    def __init__(self, family, dtype=torch.float32):
        self.family = family
        self.module, arguments, self.tokens = tiny_transformer(family)
        self.facts = find_probe([cls.__name__ for cls in type(self.module).__mro__]).execution
        self.module.to(dtype)
        self.arguments = {
            name: value.to(dtype)
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32 and "ids" not in name
            else value
            for name, value in arguments.items()
        }
        self.state = CallState()

    def at(self, step):
        """The call of a step: another latent and another timestep, so that every modulation differs."""
        latent = self.arguments["hidden_states"]
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(step)).to(latent)
        return self.arguments | {"hidden_states": latent + 0.5 * noise, "timestep": self.arguments["timestep"] * (1 - 0.2 * step)}

    def some(self, seed):
        return torch.randperm(self.tokens, generator=torch.Generator().manual_seed(seed))[: self.tokens // 2].sort().values

    @torch.no_grad()
    def calls(self, strategy, **options):
        hooks = NetworkHooks("transformer", self.module, self.facts, self.state)
        cache = branch_cache(strategy, self.tokens, hooks.layers, **options)
        try:
            return [self._call(hooks, cache, step, indices) for step, indices in enumerate(self._schedule())], cache
        finally:
            hooks.remove()

    def _schedule(self):
        return [None, torch.arange(self.tokens), self.some(0), self.some(1), None, self.some(2)]

    def _call(self, hooks, cache, step, indices):
        mode, rows = (Mode.REFRESH, None) if indices is None else (Mode.PARTIAL, Rows(self.tokens, indices, self.facts))
        with self.state.during(mode, cache, rows):
            output = self.module(**self.at(step), return_dict=False)[0]
            hooks.check_served()
        return output


@pytest.fixture(scope="module", params=EXECUTABLE)
def network(request):
    made = Network(request.param)
    made.expected, made.kv = made.calls("kv")
    return made


@pytest.mark.parametrize("strategy", OTHERS)
def test_a_strategy_gives_what_kv_gives(network, strategy):
    got, cache = network.calls(strategy)
    difference = [(a - b).abs().max().item() for a, b in zip(got, network.expected, strict=True)]
    assert difference[0] == difference[1] == difference[4] == 0, "nothing is read from the cache where all tokens are computed"
    assert max(difference) <= TOLERANCE[strategy] * max(1.0, network.expected[0].abs().max().item())
    if strategy not in EXACT:
        assert min(difference[2], difference[3], difference[5]) > 0, "codes of eight bits were read"
    if strategy == "offload":
        assert max(difference) == 0
    total = cache.bytes.device + cache.bytes.host
    assert 0 < total < network.kv.bytes.device if strategy != "offload" else total <= network.kv.bytes.device


def test_hidden_equals_kv_in_bf16_within_two_percent(network):
    """Products of other row counts may round another way; the largest difference met is stated in docs/execution.md."""
    halved = Network(network.family, torch.bfloat16)
    expected, _ = halved.calls("kv")
    for strategy in EXACT:
        got, _ = halved.calls(strategy)
        worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, expected, strict=True))
        assert worst <= (2e-2 if strategy == "hidden" else 0)


def test_inputs_of_other_items_are_wrong(network, monkeypatch):
    """Of other tokens would do, but for families without a rotary table: attention does not mind the order of its keys."""
    honest = Reentry.keys_values
    monkeypatch.setattr(Reentry, "keys_values", lambda self, stored, *more: honest(self, stored.roll(1, 0), *more))
    got, _ = network.calls("hidden")
    assert (got[3] - network.expected[3]).abs().max() > 1e-3


def test_rotary_rows_of_other_tokens_are_wrong_when_keys_are_projected_again(network, monkeypatch):
    honest = Rows._cut

    def rolled(self, table, text, text_rows=None):
        return honest(self, table if text_rows is None else table.roll(1, self.facts.rotary_dim), text, text_rows)

    monkeypatch.setattr(Rows, "_cut", rolled)
    got, _ = network.calls("hidden")
    difference = (got[3] - network.expected[3]).abs().max()
    assert difference > 1e-3 if network.facts.rotary else difference < 1e-5, "without a rotary table there is nothing to cut"


def test_hidden_projects_keys_and_values_of_skipped_tokens_and_no_queries(network):
    """4 D^2 FLOPs a skipped token, attention and item; at most one row of text more, whose query, key and value go along."""
    counted = {}
    for strategy in ("kv", "hidden"):
        hooks = NetworkHooks("transformer", network.module, network.facts, network.state)
        cache = branch_cache(strategy, network.tokens, hooks.layers)
        with torch.no_grad():
            network._call(hooks, cache, 0, None)
            with flop_counter() as counter:
                network._call(hooks, cache, 1, network.some(0))
        counted[strategy], layers = counter.get_total_flops(), hooks.layers
        hooks.remove()
    config = network.module.config
    width = config["num_attention_heads"] * config["attention_head_dim"]
    items = network.arguments["hidden_states"].shape[0]
    extra = counted["hidden"] - counted["kv"]
    exact = layers * items * (network.tokens - network.tokens // 2) * 4 * width**2
    text = layers * items * 6 * width**2
    assert exact <= extra <= exact + text


@pytest.mark.parametrize("family", ["flux", "sd3", "wan", "cogvideox"])
def test_fused_projections_are_cut_to_keys_and_values(family):
    fused = Network(family)
    fused.module.fuse_qkv_projections()
    expected, _ = fused.calls("kv")
    got, _ = fused.calls("hidden")
    assert max((a - b).abs().max().item() for a, b in zip(got, expected, strict=True)) < 1e-5


def test_a_processor_that_does_not_reach_the_attention_again_is_refused(monkeypatch):
    network = Network("flux")

    class Once:
        """Attends on its first call and not on the next."""

        def __init__(self, inner):
            self.inner, self.called = inner, 0

        def __call__(self, *args, **kwargs):
            self.called += 1
            return self.inner(*args, **kwargs) if self.called < 4 else (args[1], args[2])

    attention = network.module.transformer_blocks[0].attn
    attention.processor = Once(attention.processor)
    with pytest.raises(ExecutionError, match=r"transformer_blocks\.0\.attn with processor Once .* take cache strategy kv"):
        network.calls("hidden")


@pytest.mark.parametrize(("code", "relative"), [(FP8, 2**-4), (INT8, 0.5 / 127)])
def test_codes_are_as_near_as_their_bits_allow(code, relative):
    """e4m3 keeps 3 bits of mantissa: half a step is 1/16 of a value. int8: half a step is half of a scale."""
    values = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    values[0, 0, 0] = 0
    values[1, :, 4] *= 1e4
    codes, scale = code.encode(values)
    assert codes.dtype == torch.uint8
    assert scale.shape == ((2, 1, 5, 1) if code is FP8 else (2, 3, 5, 1))
    back = torch.empty_like(values)
    code.decode(codes, scale, back)
    # what e4m3 cannot say any more lies below 2^-9 of a scale
    bound = values.abs() * relative + scale * 2**-10 if code is FP8 else scale.expand_as(values) * 0.5001
    assert ((back - values).abs() <= bound).all()
    assert (back[0, 0, 0] == 0).all()
    assert not torch.equal(back, values)


def test_a_key_that_is_not_finite_does_not_become_a_number():
    values = torch.ones(1, 2, 3, 4)
    values[0, 1, 2, 3] = float("nan")
    for code in (FP8, INT8):
        back = torch.empty_like(values)
        code.decode(*code.encode(values), back)
        assert back[0, 1, 2].isnan().any()
        assert back[0, 1, :2].isfinite().all()
