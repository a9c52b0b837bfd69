import tomllib
from dataclasses import replace

import numpy as np
import pytest

from janoscope.errors import InputError
from janoscope.plan import (
    Cache,
    CacheBytes,
    ModelFacts,
    StepKind,
    Timing,
    cache_bytes,
    entry_tokens,
    predict,
    preset,
    resident_layers,
    run_facts,
    step_compute,
    step_kinds,
)
from janoscope.plan.cost import step_flops
from janoscope.probe import load_probe, probe_paths

GIB = 2**30
W, R, M, A, REUSE, C = StepKind


def sheet(family):
    path = next(path for path in probe_paths() if path.stem == family)
    return tomllib.loads(path.read_text(encoding="utf-8"))


def ranks_of_shares(count, active, moderate=0.0):
    ranks = np.ones(count, dtype=np.int8)
    ranks[: round((active + moderate) * count)] = 2
    ranks[: round(active * count)] = 3
    return ranks


@pytest.mark.parametrize(("active", "speedup"), [(0.25, 3.67), (0.5, 1.94), (0.75, 1.32)])
def test_flops_of_a_partial_step_give_the_ratios_measured_on_a_flux_like_model(active, speedup):
    # dim 768, 2 blocks, 4096 image and 128 text tokens: FLOP-implied 3.67, 1.94, 1.32; measured 3.69, 1.97, 1.32
    facts = ModelFacts(2, 768, 4 * 768, "joint", 128)
    full = step_flops(facts, 4096, 4096)
    assert full / 1e9 == pytest.approx(229, rel=0.01)
    assert full / step_flops(facts, round(active * 4096), 4096) == pytest.approx(speedup, abs=0.005)


def test_control_forgetting_the_text_stream_is_told_apart():
    facts = ModelFacts(2, 768, 4 * 768, "none", 128)
    assert step_flops(facts, 4096, 4096) / step_flops(facts, 1024, 4096) == pytest.approx(4.0)


def test_flops_by_hand_with_joint_with_cross_and_without_text():
    # D = 2, F = 8, T = 3, 5 tokens of which 2 are computed
    assert step_flops(ModelFacts(1, 2, 8, "none"), 2, 5) == 2 * (32 + 64) + 4 * 2 * 5 * 2
    assert step_flops(ModelFacts(1, 2, 8, "joint", 3), 2, 5) == 5 * 96 + 4 * 5 * 8 * 2
    assert step_flops(ModelFacts(1, 2, 8, "cross", 3), 2, 5) == 2 * 96 + 4 * 2 * 5 * 2 + 2 * (16 + 24) + 48
    assert step_flops(ModelFacts(7, 2, 8, "none"), 2, 5) == 7 * 272
    assert step_flops(ModelFacts(1, 2, 8, "joint", 3), 0, 5) == 0
    # a second attention: four projections of D x D and two products with all keys, two FLOPs a multiply-add
    without, dual = (step_flops(ModelFacts(2, 3, 8, "none", dual_layers=count), 2, 5) for count in (0, 1))
    assert dual - without == 2 * (4 * 3 * 3 + 2 * 5 * 3) * 2


def test_compute_of_every_kind_of_step():
    ranks = np.array([1, 1, 2, 3], dtype=np.int8)
    assert step_compute((W, R, M, A, REUSE, C), ranks).tolist() == [1, 1, 0.5, 0.25, 0, 1]
    joint = step_compute((W, R, M, A, REUSE, C), ranks, ModelFacts(3, 8, 32, "joint", 4))
    assert joint.tolist() == pytest.approx([1, 1, 6 / 8, 5 / 8, 0, 1])
    no_active = step_compute((A,), np.array([1, 2], dtype=np.int8), ModelFacts(3, 8, 32, "joint", 4))
    assert no_active.tolist() == [0]  # the network is not called, text or not


# method notes, cost table: row, published speedup, active share that explains it when no token is moderate
PUBLISHED = [
    ("flux", "jano/flux-1/1", "black-forest-labs/FLUX.1-dev", 4096, 1.86, 0.25),
    ("flux", "jano/flux-1/2", "black-forest-labs/FLUX.1-dev", 4096, 2.00, 0.21),
    ("flux", "jano/flux-1/3", "black-forest-labs/FLUX.1-dev", 4096, 2.07, 0.19),
    ("wan", "jano/wan-1.3b/1", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 32760, 1.45, 0.38),
    ("wan", "jano/wan-14b/1", "Wan-AI/Wan2.1-T2V-14B-Diffusers", 75600, 1.71, 0.36),
    ("wan", "jano/wan-14b/2", "Wan-AI/Wan2.1-T2V-14B-Diffusers", 75600, 2.02, 0.23),
    ("wan", "jano/wan-14b/3", "Wan-AI/Wan2.1-T2V-14B-Diffusers", 75600, 2.30, 0.14),
]


@pytest.mark.parametrize(("family", "row", "model", "tokens", "speedup", "active"), PUBLISHED, ids=lambda v: str(v))
def test_predicted_speedup_meets_the_published_one_at_the_share_that_explains_it(family, row, model, tokens, speedup, active):
    data = sheet(family)
    facts = ModelFacts.from_entry(data["models"][model])
    assert np.prod(entry_tokens(data["models"][model])) == tokens
    kinds = step_kinds(preset(data["policies"], row), 50)
    # the shares are given to two digits: .005 of them is worth up to .015 here
    assert predict(kinds, ranks_of_shares(tokens, active), facts).speedup == pytest.approx(speedup, abs=0.025)
    assert abs(predict(kinds, ranks_of_shares(tokens, active + 0.05), facts).speedup - speedup) > 0.05


def test_the_speedup_bound_of_the_schedule_is_met_where_nothing_is_skipped_in_between():
    kinds = step_kinds(preset(sheet("flux")["policies"], "jano/flux-1/1"), 50)
    assert predict(kinds, np.ones(100, dtype=np.int8), timing=Timing(refresh=0)).speedup == pytest.approx(3.33, abs=0.01)


def test_prediction_counts_the_refresh_and_the_fixed_share():
    ranks = ranks_of_shares(4, 0.25)
    kinds = (W, R, A, REUSE)
    assert predict(kinds, ranks, timing=Timing(0.04, 0)).speedup == pytest.approx(4 / (1 + 1.04 + 0.25))
    assert predict(kinds, ranks, timing=Timing(0.04, 0.5)).speedup == pytest.approx(4 / (1 + 1.04 + 0.625))
    assert predict(kinds, ranks).compute == pytest.approx((1 + 1 + 0.25) / 4)
    assert predict(kinds, ranks).cache_bytes is None


def test_a_full_run_costs_what_it_costs_and_caches_nothing():
    facts = ModelFacts(2, 8, 32, "joint", 3)
    assert predict((W, W, C), np.array([1, 3], dtype=np.int8), facts) == (1.0, 1.0, 0)


# executor notes, section 7: layers, tokens, width, bytes, branches -> full K/V
@pytest.mark.parametrize(
    ("facts", "rows", "size"),
    [
        (ModelFacts(57, 3072, 0, itemsize=2, branches=1), 4096, 2.67 * GIB),
        (ModelFacts(30, 1536, 0, itemsize=2, branches=2), 32760, 11.2 * GIB),
        (ModelFacts(30, 1536, 0, itemsize=4, branches=2), 32760, 22.5 * GIB),
        (ModelFacts(40, 5120, 0, itemsize=2, branches=2), 75600, 115.4 * GIB),
        (ModelFacts(40, 5120, 0, itemsize=4, branches=2), 75600, 230.7 * GIB),
    ],
)
def test_full_cache_sizes_match_the_published_memory_table(facts, rows, size):
    assert sum(cache_bytes(facts, rows)) == pytest.approx(size, rel=0.005)


@pytest.mark.parametrize(
    ("family", "model", "size"),
    [
        ("flux", "black-forest-labs/FLUX.1-dev", 2.67 * GIB),
        ("wan", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 11.2 * GIB),
        ("wan", "Wan-AI/Wan2.1-T2V-14B-Diffusers", 115.4 * GIB),
        ("sd3", "stabilityai/stable-diffusion-3-medium-diffusers", 1.12 * GIB),
        ("cogvideox", "THUDM/CogVideoX-5b", 16.9 * GIB),
    ],
)
def test_published_models_predict_the_cache_without_a_download(family, model, size):
    entry = sheet(family)["models"][model]
    facts, tokens = ModelFacts.from_entry(entry), int(np.prod(entry_tokens(entry)))
    assert sum(cache_bytes(replace(facts, text_tokens=0), tokens)) == pytest.approx(size, rel=0.01)  # the table leaves text out
    assert (sum(cache_bytes(facts, tokens)) > 1.01 * size) == (facts.joint_text > 0), "ours keeps the text's rows too"


def test_cache_bytes_of_every_strategy():
    facts = ModelFacts(10, 8, 32, "none", 0, itemsize=2, branches=2)
    layer = 2 * 100 * 8 * 2 * 2
    assert cache_bytes(facts, 100) == cache_bytes(facts, 100, Cache("kv")) == (10 * layer, 0)
    assert cache_bytes(facts, 100, Cache("kv", forecast=True)) == (20 * layer, 0)
    assert cache_bytes(facts, 100, Cache("hidden")) == (5 * layer, 0)
    scales = 10 * 2 * 2 * 100 * 4  # layers, keys and values, branches, tokens, float32
    assert cache_bytes(facts, 100, Cache("kv-fp8")) == (5 * layer + scales, 0)
    assert cache_bytes(facts, 100, Cache("kv-int8")) == (5 * layer + scales, 0)
    assert cache_bytes(replace(facts, heads=4), 100, Cache("kv-int8")) == (5 * layer + 4 * scales, 0)
    assert cache_bytes(facts, 60) == (6 * layer, 0)
    assert cache_bytes(ModelFacts(10, 8, 32, itemsize=2, branches=2, dual_layers=3), 100) == (13 * layer, 0)
    with pytest.raises(InputError, match="no cache strategy 'ram'; legal: kv, hidden"):
        cache_bytes(facts, 100, Cache("ram"))


def test_text_counts_where_it_is_kept():
    facts = ModelFacts(10, 8, 32, "joint", 5, itemsize=2, dual_layers=3)
    row = 2 * 8 * 2
    assert cache_bytes(facts, 100).device == (10 * 105 + 3 * 100) * row, "the second attention of a block is image-only"
    assert cache_bytes(facts, 100, Cache("hidden")).device == 13 * 100 * row / 2
    assert cache_bytes(facts, 100, Cache("kv-fp8")).device == 13 * 100 * 2 * (8 + 4)


def test_offloaded_bytes_by_hand():
    """10 layers, two calls a step, 60 of 100 tokens ever skipped; one layer complete, slots of 2 fetched and 2 leaving layers."""
    facts = ModelFacts(10, 8, 32, "joint", 5, itemsize=2, branches=2)
    row = 2 * 8 * 2
    layer, whole = 60 * row, 105 * row
    assert cache_bytes(facts, 100, Cache("offload"), 60) == (whole + 4 * layer, 20 * layer)
    assert cache_bytes(facts, 100, Cache("offload")) == (whole + 4 * 100 * row, 20 * 100 * row), "all, where nobody knows which"
    assert cache_bytes(facts, 100, Cache("offload", window=5), 60) == (whole + 7 * layer, 20 * layer)
    some = Cache("offload", device_mib=(whole + 11 * layer + 5) / 2**20)
    assert cache_bytes(facts, 100, some, 60) == (whole + 4 * layer + 6 * layer, 14 * layer), "three of each branch stay"
    everything = Cache("offload", device_mib=(whole + 20 * layer) / 2**20)
    assert cache_bytes(facts, 100, everything, 60) == (whole + 20 * layer, 0), "and no slot is needed"
    # branches that share a call share its copies: half as many of twice the size
    stacked = replace(facts, stacked=2)
    assert cache_bytes(stacked, 100, Cache("offload"), 60) == (2 * (whole + 4 * layer), 20 * layer)


def test_device_and_host_are_added_each_by_itself():
    assert CacheBytes(3, 50).plus(CacheBytes(10, 700)) == CacheBytes(13, 750)


@pytest.mark.parametrize(("budget", "resident"), [(2 * 4 * 10 + 25, 4), (2 * 4 * 10 + 24, 1), (25 + 4 * 10 + 19, 0), (0, 0)])
def test_all_layers_stay_or_what_the_buffers_leave(budget, resident):
    """Four layers of 10 bytes in each of two calls, 25 bytes for the whole one, slots of two fetched and two leaving layers."""
    assert resident_layers(budget, 2, 4, 2, layer=10, whole=25) == resident


def test_hidden_projects_keys_and_values_of_skipped_tokens_again():
    facts = ModelFacts(3, 8, 32, "joint", 4, dual_layers=1)
    ranks = ranks_of_shares(10, 0.3)
    assert step_flops(facts, 3, 10, recomputes=True) - step_flops(facts, 3, 10) == 7 * 4 * 8**2 * 4
    assert step_flops(facts, 10, 10, recomputes=True) == step_flops(facts, 10, 10)
    kv, hidden = (step_compute((R, A, REUSE), ranks, facts, strategy) for strategy in ("kv", "hidden"))
    assert hidden[0] == kv[0] == 1
    assert hidden[1] > kv[1]
    assert hidden[2] == kv[2] == 0


def test_a_plan_predicts_the_cache_of_its_policys_strategy_with_joint_text():
    facts = ModelFacts(10, 8, 32, "joint", 5)
    ranks = ranks_of_shares(100, 0.2)
    assert predict((W, R, A), ranks, facts, Cache("kv", forecast=True)).cache_bytes == 10 * 105 * 8 * 2 * 4
    assert predict((W, R, A), ranks, facts, Cache("hidden")).cache_bytes == 10 * 100 * 8 * 2
    offloaded = predict((W, R, A), ranks, facts, Cache("offload")).cache_bytes
    assert offloaded == sum(cache_bytes(facts, 100, Cache("offload"), 80)), "20 active tokens are never skipped"


def test_facts_from_configs_of_several_families():
    flux = {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128}
    assert ModelFacts.from_config(flux, text="joint", text_tokens=512) == ModelFacts(
        57, 3072, 12288, "joint", 512, 2, 1, heads=24
    )
    wan = {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960}
    made = ModelFacts.from_config(wan, text="cross", text_tokens=512, dtype="float32", branches=2)
    assert made == ModelFacts(30, 1536, 8960, "cross", 512, 4, 2, heads=12)
    assert made.joint_text == 0
    ratio = ModelFacts.from_config(flux | {"mlp_ratio": 3.0}, text="none", text_tokens=0)
    assert ratio.feed_forward == 3 * 3072
    dual = ModelFacts.from_config(flux | {"dual_attention_layers": [0, 1, 2]}, text="none", text_tokens=0)
    assert dual.dual_layers == 3


@pytest.mark.parametrize(
    ("family", "text_tokens", "text"), [("flux", 5, "joint"), ("wan", 5, "cross"), ("wan", 0, "none"), ("flux", 0, "joint")]
)
def test_facts_of_a_seen_run_have_the_probes_text_and_the_runs_sizes(family, text_tokens, text):
    execution = load_probe(next(path for path in probe_paths() if path.stem == family)).execution
    config = {"num_layers": 2, "num_attention_heads": 3, "attention_head_dim": 4}
    found = run_facts(execution, config, dtype="float32", text_tokens=text_tokens, branches=2, stacked=2)
    assert found == ModelFacts(2, 12, 48, text, text_tokens, 4, 2, heads=3, stacked=2)


def test_a_run_without_execution_sizes_or_known_dtype_has_no_facts():
    execution = load_probe(next(path for path in probe_paths() if path.stem == "flux")).execution
    config = {"num_layers": 2, "num_attention_heads": 3, "attention_head_dim": 4}
    for of, told, dtype in ((None, config, "float32"), (execution, {}, "float32"), (execution, config, "int4")):
        assert run_facts(of, told, dtype=dtype, text_tokens=5, branches=1) is None


def test_refuses_a_config_that_names_no_sizes_and_says_which():
    with pytest.raises(InputError, match="lacks attention_head_dim, num_layers, from which"):
        ModelFacts.from_config({"num_attention_heads": 3}, text="none", text_tokens=0)
    good = {"num_layers": 2, "num_attention_heads": 3, "attention_head_dim": 4}
    with pytest.raises(InputError, match="dtype = 'int4'; legal: joint, cross, none and float32"):
        ModelFacts.from_config(good, text="none", text_tokens=0, dtype="int4")


def test_tokens_of_a_size_and_of_a_padded_last_frame():
    models = sheet("cogvideox")["models"]
    assert entry_tokens(models["THUDM/CogVideoX1.5-5B"]) == (11, 48, 85)  # 21 latent frames, patch 2
    assert entry_tokens(sheet("flux")["models"]["black-forest-labs/FLUX.1-dev"], 512, 768) == (1, 32, 48)


def test_every_models_entry_gives_facts_and_tokens():
    seen = []
    for path in probe_paths():
        for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).get("models", {}).items():
            facts = ModelFacts.from_entry(entry)
            assert min(facts.layers, facts.width, *entry_tokens(entry)) >= 1, name
            assert entry["source"]
            seen.append(name)
    assert len(seen) >= 2
