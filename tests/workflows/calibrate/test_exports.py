"""Exports: MagCache's ratios against diffusers' own calibration, TeaCache's polynomial against numpy on plain hooks."""

import ast
import itertools
import json
import re

import numpy as np
import pytest
import torch
from diffusers.hooks import MagCacheConfig, apply_mag_cache
from tiny_pipelines import build
from tiny_transformers import EXECUTABLE, NETWORKS, network

import janoscope
from janoscope.capture import parse_tap
from janoscope.errors import InputError
from janoscope.pipeline.call import CallOptions, make_call
from janoscope.pipeline.generate import generate
from janoscope.pipeline.model import load_model, probe_of
from janoscope.pipeline.model_options import ModelOptions
from janoscope.probe import find_probe
from janoscope.recording import open_recording
from janoscope.workflows.calibrate.experts import common_boundary
from janoscope.workflows.calibrate.step_caches import DEGREE, export_magcache, export_teacache, fit_polynomial, write_exports
from janoscope.workflows.compare.library_caches import Cached, MagCache
from janoscope.workflows.compare.spec import parse_spec
from janoscope.workflows.record.session import record_model
from janoscope.workflows.record.tool_taps import export_taps

STEPS = 8
LONG = 24  # of which either expert of Wan 2.2 makes enough for a polynomial
PROMPTS = ("a large red apple on grass, blue sky", "a small blue cube on sand, grey sky")
TINY = {"height": 80, "width": 112, "frames": 9, "extra": {"max_sequence_length": 16}}


def recorded(model, folder, prompts=PROMPTS, steps=STEPS, **options):
    """A recording a prompt with the taps of both tools."""
    taps = export_taps(model.probe, ("teacache", "magcache"))
    paths = []
    for seed, prompt in enumerate(prompts):
        call = make_call(model, CallOptions(prompt, seed=seed, steps=steps, **options))
        paths.append(record_model(model, call, folder / f"{seed}.h5", taps=taps, keep_output=False).path)
    return paths


@pytest.fixture(scope="module")
def demo():
    return load_model("demo", ModelOptions(device="cpu"))


@pytest.fixture(scope="module")
def demo_runs(demo, tmp_path_factory):
    return recorded(demo, tmp_path_factory.mktemp("demo"))


def diffusers_ratios(model, prompt, seed, capsys, steps=STEPS, **options):
    """What diffusers prints at the end of a calibrating run, a list a branch in the order of calls."""
    apply_mag_cache(model.pipe.transformer, MagCacheConfig(num_inference_steps=steps, calibrate=True))
    capsys.readouterr()
    try:
        generate(model, make_call(model, CallOptions(prompt, seed=seed, steps=steps, **options)))
    finally:
        registry = model.pipe.transformer._diffusers_hook
        for module in model.pipe.transformer.modules():
            if hooks := getattr(module, "_diffusers_hook", None):
                for name in [name for name in hooks.hooks if name.startswith("mag_cache")]:
                    hooks.remove_hook(name, recurse=False)
        registry._child_registries_cache = None
    return [ast.literal_eval(line) for line in re.findall(r"^\[[\d., ]+\]$", capsys.readouterr().out, re.MULTILINE)]


@pytest.mark.parametrize("name", ["demo", "wan", "sd3"])
def test_magcache_ratios_are_those_that_diffusers_calibrates(demo, saved, name, tmp_path, capsys):
    """Two calls a step (the demo, Wan) give a list a branch; stacked branches (SD3) one list, which is their mean."""
    model = demo if name == "demo" else load_model(str(saved(name)), ModelOptions(device="cpu"))
    options = {} if name == "demo" else {key: value for key, value in TINY.items() if name == "wan" or key != "frames"}
    theirs = diffusers_ratios(model, PROMPTS[0], 0, capsys, **options)
    (path,) = recorded(model, tmp_path, PROMPTS[:1], **options)
    ours = export_magcache([path])
    lists = list(ours.by_branch.values()) if len(theirs) > 1 else [ours.mag_ratios]
    assert len(theirs) == len(lists)
    for their, our in zip(theirs, lists, strict=True):
        assert our == pytest.approx(their, abs=2e-5)
        assert np.ptp(our[1:]) > 1e-3  # ratios of one would agree without measuring anything
    if len(theirs) > 1:
        assert theirs[0] != pytest.approx(theirs[1], abs=1e-4)  # the branches are not interchangeable


@pytest.fixture(scope="module")
def two_experts(tmp_path_factory):
    """A recording of Wan 2.2 in 24 steps, and the step at which its second network takes over."""
    pipe, call = build("wan2.2")
    path = tmp_path_factory.mktemp("experts") / "wan22.h5"
    with janoscope.record(pipe, path, taps=export_taps(probe_of(pipe), ("teacache", "magcache"))):
        pipe(**call | {"num_inference_steps": LONG}, generator=torch.Generator().manual_seed(0))
    return path, sum(timestep >= 875 for timestep in pipe.scheduler.timesteps.tolist())


def test_two_experts_have_ratios_and_a_polynomial_each(two_experts, tmp_path):
    path, change = two_experts
    first, second = (export_magcache([path], expert=name) for name in ("transformer", "transformer_2"))
    assert (len(first.mag_ratios), len(second.mag_ratios)) == (change, LONG - change)
    assert first.mag_ratios[0] == second.mag_ratios[0] == 1
    fits = [export_teacache([path], expert=name) for name in ("transformer", "transformer_2")]
    assert [fit.pairs for fit in fits] == [2 * (change - 1), 2 * (LONG - change - 1)]
    with pytest.raises(InputError, match=rf"transformer \({change} steps\) and transformer_2 \({LONG - change} steps\).*expert="):
        export_magcache([path])
    written = write_exports([path], ("magcache",), tmp_path)
    assert [one.path.name for one in written] == ["magcache-transformer.json", "magcache-transformer_2.json"]
    assert [len(json.loads(one.path.read_text())["mag_ratios"]) for one in written] == [change, LONG - change]
    assert written[1].text.startswith(
        f"for pipe.transformer_2:\nMagCacheConfig(num_inference_steps={LONG - change}, mag_ratios=[1.00000"
    )
    assert common_boundary([path]) == 0.875


def test_ratios_of_each_expert_are_those_that_diffusers_calibrates(two_experts, capsys):
    path, change = two_experts
    pipe, call = build("wan2.2")
    for network_, steps in ((pipe.transformer, change), (pipe.transformer_2, LONG - change)):
        apply_mag_cache(network_, MagCacheConfig(num_inference_steps=steps, calibrate=True))
    capsys.readouterr()
    pipe(**call | {"num_inference_steps": LONG}, generator=torch.Generator().manual_seed(0))
    theirs = [ast.literal_eval(line) for line in re.findall(r"^\[[\d., ]+\]$", capsys.readouterr().out, re.MULTILINE)]
    ours = [
        ratios for name in ("transformer", "transformer_2") for ratios in export_magcache([path], expert=name).by_branch.values()
    ]
    assert [len(ratios) for ratios in theirs] == [change, change, LONG - change, LONG - change]
    for their, our in zip(theirs, ours, strict=True):
        assert our == pytest.approx(their, abs=2e-5)
    # control: over the change of networks there is no ratio to speak of
    assert theirs[2][0] == 1


def test_compare_calibrates_magcache_for_each_expert(saved):
    model = load_model(str(saved("wan2.2")), ModelOptions(device="cpu"))
    call = make_call(model, CallOptions(PROMPTS[0], seed=0, steps=16, **TINY))
    cache = MagCache(parse_spec("magcache:threshold=1,retention=0"))
    cache.prepare(model, call)
    assert [len(ratios) for ratios in cache.ratios] == [5, 11]
    assert [ratios[0] for ratios in cache.ratios] == [1, 1]
    assert cache.ratios[0][1:] != cache.ratios[1][1:5]
    configs = []

    def looks(model, call, branches):
        cache(model, call, branches)
        for network_ in branches.networks:
            hooks = network_.blocks[0]._diffusers_hook.hooks
            configs.append([hook.config.num_inference_steps for name, hook in hooks.items() if name.startswith("mag_cache")])

    Cached(parse_spec("magcache"), looks, counts_apart=False).generate(model, call, count=False)
    assert [set(steps) for steps in configs] == [{5}, {11}]


def test_the_ratios_are_taken_by_diffusers(demo_runs):
    ratios = export_magcache(demo_runs)
    config = MagCacheConfig(num_inference_steps=STEPS, mag_ratios=list(ratios.mag_ratios))
    assert config.mag_ratios.tolist() == pytest.approx(ratios.mag_ratios)
    assert ratios.mag_ratios[0] == 1
    assert ratios.interleaved[:4] == (1, 1, ratios.by_branch["cond"][1], ratios.by_branch["uncond"][1])
    assert ratios.recordings == 2
    one, other = (export_magcache([path]).by_branch["cond"] for path in demo_runs)
    assert ratios.spread["cond"] == pytest.approx(np.std([one, other], axis=0))


def test_teacache_fits_what_plain_hooks_see(demo, demo_runs):
    """The distances of both branches, from hooks that know nothing of janoscope, fitted by numpy.polyfit as TeaCache does."""
    inputs, outputs = [], []
    network_, norm = demo.pipe.transformer, demo.pipe.transformer.transformer_blocks[0].norm1
    hooks = [norm.register_forward_hook(lambda module, given, out: inputs.append(out[0].clone()))]
    hooks.append(network_.register_forward_hook(lambda module, given, out: outputs.append(out[0].clone())))
    try:
        for seed, prompt in enumerate(PROMPTS):
            generate(demo, make_call(demo, CallOptions(prompt, seed=seed, steps=STEPS)))
    finally:
        for hook in hooks:
            hook.remove()
    x, y = [], []
    for run in range(2):
        for branch in range(2):
            place = slice(run * 2 * STEPS + branch, (run + 1) * 2 * STEPS, 2)
            for found, values in ((x, inputs[place]), (y, outputs[place])):
                found += [float((b - a).abs().mean() / a.abs().mean()) for a, b in itertools.pairwise(values)]
    assert len(x) == 2 * 2 * (STEPS - 1)
    fit = export_teacache(demo_runs)
    assert fit.pairs == len(x)
    assert fit.x_range == pytest.approx((min(x), max(x)), rel=1e-4)
    assert np.polyval(fit.coefficients, x) == pytest.approx(np.polyval(np.polyfit(x, y, DEGREE), x), rel=1e-3)
    residual = np.array(y) - np.polyval(np.polyfit(x, y, DEGREE), x)
    assert fit.r2 == pytest.approx(1 - residual.var() / np.var(y), abs=1e-3)
    assert [one.prompt for one in fit.per_prompt] == list(PROMPTS)
    shuffled = np.polyval(fit.coefficients, np.random.default_rng(0).permutation(x))
    assert np.square(shuffled - y).mean() > 2 * fit.rmse**2  # the control: input distances of other steps predict less


def test_a_polynomial_is_found_again():
    rng = np.random.default_rng(0)
    truth = np.array([499.0, -283.0, 55.9, -3.82, 0.264])  # the size of TeaCache's for Flux
    x = rng.uniform(0.01, 0.25, 200)
    assert fit_polynomial(x, np.polyval(truth, x)) == pytest.approx(truth, rel=1e-6)
    noisy = fit_polynomial(x, np.polyval(truth, x) + 0.01 * rng.standard_normal(200))
    assert noisy != pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("name", [*EXECUTABLE, "latte"])
def test_every_tap_that_a_probe_names_is_there(name):
    sheet = find_probe([NETWORKS[name][0]])
    modules = dict(network(name).named_modules())
    named = [text for text in (sheet.residual.modulated, sheet.residual.first, sheet.residual.last) if text]
    assert named
    assert [text for text in named if parse_tap(text).path not in modules] == []


def test_what_is_missing_is_told(demo, demo_runs, tmp_path, saved):
    call = make_call(demo, CallOptions(PROMPTS[0], steps=STEPS))
    plain = record_model(demo, call, tmp_path / "plain.h5", keep_output=False).path
    with pytest.raises(InputError, match=r"plain.h5 holds no tap .*--for teacache"):
        export_teacache([plain])
    with pytest.raises(InputError, match="no export for 'pab'"):
        export_taps(demo.probe, ("pab",))
    with pytest.raises(InputError, match="latte names no first and last"):
        export_taps(find_probe(["LatteTransformer3DModel"]), ("magcache",))
    short = recorded(demo, tmp_path, PROMPTS[:1], steps=3)
    with pytest.raises(InputError, match="too few for a polynomial"):
        export_teacache(short)
    with pytest.raises(InputError, match="have 3, 8 steps"):
        export_magcache([*demo_runs, *short])


def test_record_for_tools_on_the_command_line(janoscope, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    one, many = tmp_path / "run.h5", tmp_path / "runs"
    common = ("--steps", 6, "--no-output", "-q", "--for", "teacache,magcache")
    assert janoscope("record", "demo", "-p", PROMPTS[0], "-o", one, *common).code == 0
    assert janoscope("record", "demo", "--prompts", prompts, "-o", many, *common).code == 0
    for path in (one, *many.glob("*.h5")):
        with open_recording(path) as recording:
            assert {"transformer_blocks.0.norm1.output.0", "transformer_blocks.0.input", "norm_out.input"} < set(
                recording.signals
            )
    refused = janoscope("record", "demo", "--prompts", prompts, "-o", many, *common[:-1], "magcache")
    assert refused.code == 2  # other options than the set's
    said = janoscope("record", "demo", "-p", "a", "-o", tmp_path / "no.h5", "--for", "pab")
    assert said.code == 2
    assert "legal are teacache, magcache" in said.err


def test_files_say_what_they_were_measured_on(demo_runs, tmp_path):
    written = write_exports([demo_runs[0].parent], ("teacache", "magcache"), tmp_path / "out")
    assert [one.path.name for one in written] == ["teacache.json", "magcache.json"]
    for one in written:
        data = json.loads(one.path.read_text())
        assert data["measured_on"]["model"] == "demo"
        assert data["measured_on"]["steps"] == STEPS
        assert [run["prompt"] for run in data["measured_on"]["recordings"]] == sorted(PROMPTS)
        assert torch.tensor(data.get("coefficients", data.get("mag_ratios"))).isfinite().all()
    assert written[0].text.startswith("coefficients = [")
    assert written[1].text.startswith(f"MagCacheConfig(num_inference_steps={STEPS}, mag_ratios=[1.00000, ")
    with pytest.raises(InputError, match="pass --force"):
        write_exports(demo_runs, ("magcache",), tmp_path / "out")
    with pytest.raises(InputError, match="no export for 'pab'"):
        write_exports(demo_runs, ("pab",), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_calibrate_exports_from_recordings(demo_runs, janoscope, tmp_path):
    said = janoscope("calibrate", *demo_runs, "--export", "magcache", "--export", "teacache", "-o", tmp_path)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"MagCacheConfig(num_inference_steps={STEPS}, mag_ratios=[")
    assert "coefficients = [" in said.out
    assert said.out.endswith(f"Wrote {tmp_path / 'teacache.json'}\n")
    for arguments, told in (
        ((*demo_runs, "--export", "magcache", "-o", tmp_path), "pass --force"),
        ((*demo_runs, "--export", "magcache", "--target-compute", 0.5), "--export finds no policy"),
        (("demo", "--export", "magcache"), "demo is none"),
        ((*demo_runs, "--export", "magcache", "--steps", 9), "--steps has no effect on recordings"),
    ):
        refused = janoscope("calibrate", *arguments)
        assert refused.code == 2
        assert told in refused.err
