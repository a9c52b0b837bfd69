"""Memory before a run: weights exact, activations as torch's tracker sees them, the cache as apply measures it, and what fits."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_transformers import COLS, EXECUTABLE, NETWORKS, ROWS, network
from torch.distributed._tools.mem_tracker import MemTracker

from janoscope.errors import InputError
from janoscope.pipeline.call import CallOptions, make_call
from janoscope.pipeline.model import load_model
from janoscope.pipeline.model_configs import Part, find_published
from janoscope.pipeline.model_options import ModelOptions
from janoscope.plan import STRATEGIES, Cache, Intervals, Policy, Split
from janoscope.probe import find_probe, load_probe, probe_paths
from janoscope.workflows.apply.session import apply_model
from janoscope.workflows.memory.meta_network import (
    FlashAttention,
    PeakMemory,
    activation_peak,
    build_on_meta,
    forward_arguments,
    parameter_count,
)
from janoscope.workflows.memory.predict import GIB, Levels, predict_memory, usable
from janoscope.workflows.memory.workload import WorkloadOptions, workload_of

WAN_14B, WAN_1B, FLUX = (
    "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "black-forest-labs/FLUX.1-dev",
)
SD3 = "stabilityai/stable-diffusion-3-medium-diffusers"
TRACED = (*EXECUTABLE, "latte", "flux2-klein", "cogvideox-1.5")
GRIDS = dict.fromkeys(("wan", "cogvideox", "hunyuanvideo", "ltx-video", "latte"), (3, 5, 7)) | {"cogvideox-1.5": (2, 5, 7)}
GRIDS |= {"dit": (1, ROWS, ROWS)}


def predicted(name, budget=None, levels=None, policy=None, **asked):
    published = find_published(str(name))
    return predict_memory(
        published, workload_of(published, WorkloadOptions(**asked)), budget=budget, levels=levels, policy=policy
    )


def traced(name, rows_of_text=9):
    """(network on meta, its arguments) of a tiny network."""
    class_name, _ = NETWORKS[name]
    config = dict(network(name).config)
    sheet = find_probe([class_name])
    grid = GRIDS.get(name, (1, ROWS, COLS))
    arguments = forward_arguments(sheet, config, grid, items=2, text_tokens=rows_of_text, dtype="float32")
    return build_on_meta(Part("transformer", "diffusers", class_name, config), "float32"), arguments, sheet


# -- weights ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("demo", "float32"), ("flux", "bfloat16"), ("wan", "bfloat16"), ("sd3", "float16"), ("cogvideox", "float16")],
)
def test_weights_are_those_of_the_loaded_pipeline_to_the_byte(saved, name, dtype):
    place = "demo" if name == "demo" else str(saved(name))
    loaded = load_model(place, ModelOptions(device="cpu", dtype=dtype)).pipe
    counted = {part.name: dict(part.bytes) for part in predicted(place, dtype=dtype, height=32, width=32, frames=1).weights}
    assert set(counted) == {name for name, part in loaded.components.items() if isinstance(part, torch.nn.Module)}
    for component, by_dtype in counted.items():
        module, real = getattr(loaded, component), {}
        for tensor in (*module.parameters(), *module.buffers()):
            key = str(tensor.dtype).removeprefix("torch.")
            real[key] = real.get(key, 0) + tensor.numel() * tensor.element_size()
        assert by_dtype == real, component


def test_wan_keeps_named_modules_in_float32(saved):
    """The control of the test above: a network cast as a whole would take less."""
    bytes_of = predicted(saved("wan"), dtype="bfloat16", height=32, width=32, frames=1).weights[0].bytes
    assert bytes_of["float32"] > 0
    assert bytes_of["bfloat16"] > bytes_of["float32"]


def test_published_models_have_their_published_sizes():
    """Billions of parameters: of transformers as the probes note, of encoders and VAEs as their model cards do."""
    others = {"T5EncoderModel": 4.762, "UMT5EncoderModel": 5.681, "AutoencoderKLWan": 0.127, "AutoencoderKL": 0.084}
    seen = set()
    for path in probe_paths():
        for name, entry in load_probe(path).models.items():
            published = find_published(name)
            counts = [parameter_count(build_on_meta(part, "bfloat16")) / 1e9 for part in (*published.networks, *published.others)]
            assert counts[0] == pytest.approx(entry["parameters_billion"], abs=0.05), name
            for part, count in zip(published.others, counts[1:], strict=True):
                if part.class_name in others:
                    assert count == pytest.approx(others[part.class_name], abs=1e-3), (name, part.name)
                    seen.add(part.class_name)
    assert seen == set(others)


# -- activations ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRACED)
def test_every_probe_says_what_its_network_is_given(name):
    module, arguments, sheet = traced(name)
    with torch.device("meta"), torch.no_grad():
        output = module(**arguments, return_dict=False)[0]
    given = arguments[sheet.tap.input]
    channels = 2 if sheet.output.learned_variance == "second-half" else 1
    assert output.numel() == given.numel() * channels
    assert activation_peak(module, arguments) > 3 * given.numel() * 4


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_the_peak_is_that_of_torchs_own_tracker(name):
    module, arguments, _ = traced(name)
    tracker, inputs = MemTracker(), [tensor for tensor in arguments.values() if isinstance(tensor, torch.Tensor)]
    tracker.track_external(module, *inputs)
    with torch.device("meta"), torch.no_grad(), FlashAttention(), tracker:
        module(**arguments, return_dict=False)
    seen = tracker.get_tracker_snapshot("peak")[torch.device("meta")]["Total"]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))
    assert activation_peak(module, arguments) == pytest.approx(seen - weights, rel=0.02)


def test_attention_scores_are_not_counted():
    """Twice the tokens take twice the memory; with stored scores, the control, it would be up to four times."""
    one, two = (predicted(SD3, height=size, width=1024).activations for size in (1024, 2048))
    assert two / one < 2.05
    module, arguments, _ = traced("flux", rows_of_text=2000)
    with torch.device("meta"), torch.no_grad(), PeakMemory(iter(())) as scores:
        query = torch.empty(2, 2, 2077, 16, device="meta")
        torch.softmax(query @ query.transpose(-1, -2), -1) @ query
    assert scores.peak > 2 * activation_peak(module, arguments)


def test_a_word_of_a_probe_that_means_nothing_is_refused():
    class_name, _ = NETWORKS["wan"]
    sheet, config = find_probe([class_name]), dict(network("wan").config)
    wrong = replace(sheet, arguments={"encoder_hidden_states": "item text text_dims"})
    with pytest.raises(InputError, match="'text_dims' is no axis"):
        forward_arguments(wrong, config, (3, 5, 7), items=1, text_tokens=9, dtype="float32")
    misnamed = replace(sheet, arguments={"encoder_states": "item text text_dim"})
    arguments = forward_arguments(misnamed, config, (3, 5, 7), items=1, text_tokens=9, dtype="float32")
    with pytest.raises(InputError, match="could not be traced"):
        activation_peak(build_on_meta(Part("transformer", "diffusers", class_name, config), "float32"), arguments)


# -- the cache --------------------------------------------------------------------------------------------------------------


def measured(model, options, strategy):
    """The account of a run in which some 60 % of the tokens are skipped, and its levels."""
    rules = {"warmup": 2, "cooldown": 1, "thresholds": None, "quantiles": Split(0.3, 0.6), "intervals": Intervals(4, 2, 1)}
    policy = replace(model.policy(None), **rules, cache=Cache(strategy))
    account = apply_model(model, make_call(model, options), policy=policy).account
    total = sum(account.token_levels.values())
    return account, Levels(*(account.token_levels.get(level, 0) / total for level in ("static", "moderate")))


RUNS = {
    "demo": (None, {}),
    "wan": (None, {"height": 80, "width": 112, "frames": 9, "extra": {"max_sequence_length": 16}}),
    "sd3": (93, {"height": 112, "width": 176, "extra": {"max_sequence_length": 16}}),  # CLIP's 77 and T5's 16
}


@pytest.mark.parametrize(
    ("name", "strategy"), [("demo", "offload"), *((name, strategy) for name in ("wan", "sd3") for strategy in STRATEGIES)]
)
def test_the_cache_is_what_apply_measures(saved, name, strategy):
    text, more = RUNS[name]
    place = "demo" if name == "demo" else str(saved(name))
    model = load_model(place, ModelOptions(device="cpu", dtype="float32"))
    account, levels = measured(model, CallOptions("a cat", steps=6, **more), strategy)
    sizes = {key: value for key, value in more.items() if key != "extra"}
    told = predicted(place, levels=levels, dtype="float32", text_tokens=text, **sizes)
    row = next(row for row in told.strategies if row.strategy == strategy and not row.guidance_parallel)
    assert account.cache_bytes > 0
    assert sum(row.cache) == pytest.approx(account.cache_bytes, rel=0.02)


def test_levels_layers_and_branches_add_up():
    for row in predicted(WAN_1B, levels=Levels(0.6, 0.3)).strategies:
        branches = 1 if row.guidance_parallel else 2
        whole = row.cache.device + row.cache.host if row.strategy != "offload" else None
        if whole is not None:
            assert sum(row.levels.values()) == pytest.approx(whole, rel=1e-6)
            assert row.layer * 30 * branches == pytest.approx(whole, rel=1e-6)
            assert row.levels["static"] == pytest.approx(0.6 * whole, rel=1e-3)
    with pytest.raises(InputError, match="no fractions that add up"):
        Levels(0.7, 0.4)


def test_a_branch_on_each_of_two_devices_holds_half_and_hidden_a_quarter():
    rows = {(row.strategy, row.guidance_parallel): row.cache.device for row in predicted(WAN_1B).strategies}
    assert rows["kv", True] == rows["kv", False] / 2
    assert rows["hidden", True] == rows["kv", False] / 4


# -- what fits --------------------------------------------------------------------------------------------------------------


def test_wan_14b_at_720p_fits_one_device_of_80_gib_with_offload():
    told = predicted(WAN_14B, budget=usable(80))
    assert told.workload.token_count == 75600
    assert [row.strategy for row in told.strategies if row.fits and not row.guidance_parallel] == ["offload"]
    assert told.fits.strategy == "offload"
    assert told.fits.total <= usable(80)
    assert told.fits.cache.host > 60 * GIB
    kv = next(row for row in told.strategies if row.strategy == "kv")
    assert kv.cache.device == pytest.approx(115.4 * GIB, rel=1e-3)  # executor.md section 7


def test_a_policys_strategy_is_tried_first():
    model = find_published("demo")
    table = {"name": "p", "warmup": 2, "cooldown": 1, "tile": [1, 4, 4], "quantiles": {"static": 0.5, "moderate": 0.75}}
    policy = Policy.from_table(
        table | {"intervals": {"static": 4, "moderate": 2, "active": 1}, "cache": {"strategy": "kv-int8"}, "source": "test"},
        "here",
    )
    told = predict_memory(model, workload_of(model, WorkloadOptions()), budget=usable(8), policy=policy)
    assert told.fits.strategy == "kv-int8"
    assert told.fits.levels["static"] == pytest.approx(2 * told.fits.levels["moderate"], rel=1e-3)
    plain = predict_memory(model, workload_of(model, WorkloadOptions()), budget=usable(8)).fits
    assert plain.strategy == "kv"
    forecast = predict_memory(
        model, workload_of(model, WorkloadOptions()), policy=replace(policy, cache=Cache("kv", forecast=True))
    )
    assert forecast.strategies[0].cache.device == 2 * plain.cache.device
    window = replace(policy, cache=Cache("offload", device_mib=1, window=1))
    assert predict_memory(model, workload_of(model, WorkloadOptions()), budget=usable(8), policy=window).fits.device_mib == 1


def test_the_shortfall_is_told_with_what_helps(janoscope):
    said = janoscope("memory", WAN_1B, "--memory-gib", 12)
    assert said.code == 1
    assert "more are needed" in said.out.splitlines()[-1]
    said = janoscope("memory", FLUX, "--memory-gib", 30)
    assert said.code == 1
    assert "text encoders take 9.10 GiB" in said.out.splitlines()[-1]


# -- where the figures come from --------------------------------------------------------------------------------------------


def test_a_transformers_config_is_enough(tmp_path, janoscope):
    config = {"_class_name": "WanTransformer3DModel", "num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128}
    (tmp_path / "config.json").write_text(json.dumps(config | {"ffn_dim": 8960}))
    whole = predicted(WAN_1B)
    for place in (tmp_path, tmp_path / "config.json"):
        told = json.loads(janoscope("memory", place, "--json").out)
        assert [part["name"] for part in told["weights"]] == ["transformer"]
        assert told["activations"] == whole.activations
        assert told["strategies"][0]["cache"] == {"device": whole.strategies[0].cache.device, "host": 0}
        assert any("text encoders and VAE are not counted" in note for note in told["notes"])


def test_latte_is_predicted_without_a_cache(saved):
    told = predicted(saved("latte"), height=80, width=112, frames=3)
    assert told.strategies == ()
    assert told.activations > 0
    assert "latte is not executed" in told.notes[-1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["Wan-AI/Wan2.1-T2V-14B"], "near it: Wan-AI/Wan2.1-T2V-14B-Diffusers"),
        (["demo", "--dtype", "int4"], "--dtype int4 is unknown"),
        (["demo", "--memory-gib", "1"], "leaves nothing"),
        (["demo", "--static", "0.8", "--moderate", "0.3"], "no fractions that add up"),
        (["demo", "--height", "1"], "give no token"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(janoscope, arguments, told):
    said = janoscope("memory", *arguments)
    assert said.code == 2
    assert told in said.err
    assert said.err.count("\n") == 1


def test_broken_directories_are_refused(tmp_path, janoscope):
    assert "holds neither" in janoscope("memory", tmp_path).err
    (tmp_path / "config.json").write_text("{}")
    assert "names no _class_name" in janoscope("memory", tmp_path).err
    (tmp_path / "config.json").write_text('{"_class_name": "WanTransformer3DModel", "num_layers": "many"}')
    assert "cannot be built" in janoscope("memory", tmp_path, "--height", 480, "--width", 832, "--frames", 81).err
