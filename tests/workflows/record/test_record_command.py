"""`janoscope record` and the reading verbs on tiny pipelines: options, inner modules, accelerated runs, looking at files."""

import fcntl
import json
import shutil
import tomllib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from janoscope.errors import InputError
from janoscope.pipeline import model as model_module
from janoscope.pipeline.model import load_model, probe_of
from janoscope.pipeline.provenance import text_of_probe
from janoscope.probe import CHECKOUT, load_probe, parse_probe, probe_paths
from janoscope.recording import open_recording
from janoscope.workflows.record.session import record

SIZE = ("--height", 112, "--width", 176)
FLUX = (*SIZE, "-q", "--call", "max_sequence_length=16", "-p", "a cat on the grass")


def test_options_reach_the_pipeline_and_the_file(saved, janoscope, tmp_path):
    run = tmp_path / "run.h5"
    options = ("--steps", 4, "--seed", 5, "--call", "true_cfg_scale=2.5", "--negative-prompt", "red", "--guidance", 1.5)
    said = janoscope("record", saved("flux"), *FLUX, *options, "-o", run)
    assert said.code == 0, said.err
    assert said.err == ""
    assert (tmp_path / "run.png").stat().st_size > 0
    assert f"Wrote {run} (4 steps" in said.out
    assert said.out.splitlines()[-1] == f"Next: janoscope analyze {run}"
    with open_recording(run) as recording:
        told = recording.provenance["run"]
        expected = {"prompt": "a cat on the grass", "seed": 5, "negative_prompt": "red", "guidance_scale": 1.5, "steps": 4}
        assert {key: told[key] for key in expected} == expected
        assert (told["height"], told["width"], told["frames"]) == (112, 176, "unknown"), "what was asked for"
        assert told["actual"] == {"height": 112, "width": 176, "frames": 1}
        assert told["arguments"]["true_cfg_scale"] == 2.5
        assert recording.branches == ("guided", "cond", "uncond")
        assert recording.verify() == []
        guided, cond, uncond = (recording.read("model_output", branch=branch) for branch in recording.branches)
        np.testing.assert_allclose(guided, uncond + 2.5 * (cond - uncond), atol=1e-5)


def test_another_scheduler_of_the_same_kind_takes_its_place(saved, janoscope, tmp_path):
    for scheduler in ("FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
        said = janoscope(
            *("record", saved("wan2.2"), "--height", 80, "--width", 112, "--frames", 9, "-q", "-p", "a cat", "--steps", 3),
            *("--call", "max_sequence_length=16", "--no-output", "--scheduler", scheduler, "-o", tmp_path / f"{scheduler}.h5"),
        )
        assert said.code == 0, said.err
        assert not list(tmp_path.glob("*.mp4")), "--no-output"
        with open_recording(tmp_path / f"{scheduler}.h5") as recording:
            assert recording.provenance["scheduler"]["class"] == scheduler
            assert recording.provenance["run"]["actual"] == {"height": 80, "width": 112, "frames": 9}
            assert recording.prediction_type == "flow"
            np.testing.assert_allclose(recording.alpha + recording.sigma, 1)
    said = janoscope("diff", *sorted(tmp_path.glob("*.h5")))
    assert "scheduler.class: 'DPMSolverMultistepScheduler' | 'FlowMatchEulerDiscreteScheduler'" in said.out
    assert "model_output: from step" in said.out


REFUSED = [
    ("flux", ("--frames", 5), "--frames has no effect on FluxPipeline: it takes no num_frames or video_length."),
    ("flux", ("--negative-prompt", "red"), "--negative-prompt has no effect while true_cfg_scale is 1.0; raise it"),
    ("flux", ("--call", "shininess=3"), "--call shininess has no effect on FluxPipeline"),
    ("flux", ("--call", "shininess"), "KEY=JSON is needed"),
    ("flux", ("--revision", "main"), "--revision has no effect on"),
    ("flux", ("--variant", "fp16"), "holds no weights of that name"),
    (
        "flux",
        ("--scheduler", "DDIMScheduler"),
        "--scheduler DDIMScheduler is for epsilon or v prediction and this model does flow",
    ),
    ("flux", ("--scheduler", "NoScheduler"), "diffusers has no such scheduler"),
    ("flux", ("--dtype", "int8"), "--dtype int8 is unknown; legal: float32, float16, bfloat16."),
    (
        "flux",
        ("--tap", "transformer_block.0"),
        "no module 'transformer_block.0' to tap in transformer; near it: transformer_blocks.0",
    ),
    ("flux", ("--tap", "transformer_blocks.0:steps=5"), "cannot be understood; write PATH"),
    ("flux", ("--policy", "none/such"), "none/such"),
    ("flux", ("--probe", "missing.toml"), "probe missing.toml cannot be read"),
    ("dit", (), "--height has no effect on DiTPipeline"),
]


@pytest.mark.parametrize(("family", "options", "message"), REFUSED)
def test_what_has_no_effect_is_refused_in_one_line(saved, janoscope, tmp_path, family, options, message):
    size = SIZE if family == "dit" else FLUX[:-2] if family == "flux" else ("-q",)
    said = janoscope("record", saved(family), *size, "-p", "a cat", "--steps", 2, "-o", tmp_path / "run.h5", *options)
    assert said.code == 2
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_call_that_the_pipeline_refuses_is_told_in_its_words(saved, janoscope, tmp_path):
    said = janoscope("record", saved("sd3"), "-q", "-p", "a cat", "--steps", 2, "--height", 113, "-o", tmp_path / "run.h5")
    assert said.code == 2
    assert "StableDiffusion3Pipeline refuses this call: `height` and `width` have to be divisible" in said.err
    assert len(said.err.splitlines()) == 1


def test_a_class_is_given_by_number(saved, janoscope, tmp_path):
    said = janoscope("record", saved("dit"), "-q", "-p", "1", "--steps", 2, "-o", tmp_path / "run.h5")
    assert said.code == 0, said.err
    with open_recording(tmp_path / "run.h5") as recording:
        assert recording.provenance["run"]["prompt"] == "1"
        assert "predicted_variance" in recording.signals
    said = janoscope("record", saved("dit"), "-q", "-p", "a cat", "--steps", 2, "-o", tmp_path / "other.h5")
    assert "'a cat' is no class of dit; give a class number" in said.err


def test_an_unknown_transformer_is_told_how_to_write_a_probe():
    class FooTransformer2DModel(nn.Module):
        pass

    with pytest.raises(
        InputError, match=r"no probe matches FooTransformer2DModel; looked in .*docs/probes\.md.*its path as probe"
    ):
        probe_of(SimpleNamespace(transformer=FooTransformer2DModel()))
    with pytest.raises(InputError, match=r"neither a transformer nor a unet; .*docs/own-sampler\.md"):
        probe_of(SimpleNamespace())


def test_a_probe_of_ones_own_is_used(saved, janoscope, tmp_path):
    sheet = tmp_path / "mine.toml"
    sheet.write_text((CHECKOUT / "flux.toml").read_text().replace('family = "flux"', 'family = "mine"'))
    said = janoscope("record", saved("flux"), *FLUX, "--steps", 2, "--probe", sheet, "-o", tmp_path / "run.h5")
    assert said.code == 0, said.err
    with open_recording(tmp_path / "run.h5") as recording:
        told = recording.provenance
        assert told["capture"]["probe"] == "mine"
        assert parse_probe(tomllib.loads(told["capture"]["probe_text"]), "the recording") == load_probe(sheet)
        assert told["run"]["options"] == {"probe": str(sheet), "call": {"max_sequence_length": 16}}


@pytest.mark.parametrize("path", probe_paths(), ids=lambda path: path.stem)
def test_a_probe_is_kept_whole(path):
    sheet = load_probe(path)
    assert parse_probe(tomllib.loads(text_of_probe(sheet)), "text") == sheet
    assert text_of_probe(replace(sheet, title='odd " \\ \n 猫')) != text_of_probe(sheet)
    odd = replace(sheet, title='odd " \\ \n 猫')
    assert parse_probe(tomllib.loads(text_of_probe(odd)), "text") == odd


def test_what_the_command_was_given_is_kept(saved, janoscope, tmp_path):
    options = ("--scheduler", "FlowMatchEulerDiscreteScheduler", "--dtype", "float32", "--call", 'output_type="np"')
    said = janoscope("record", saved("flux"), *FLUX, "--steps", 2, *options, "-o", tmp_path / "run.h5")
    assert said.code == 0, said.err
    (tmp_path / "p.txt").write_text("1\n")
    said = janoscope("record", saved("dit"), "-q", "--prompts", tmp_path / "p.txt", "--steps", 2, "-o", tmp_path / "set")
    assert said.code == 0, said.err
    with open_recording(tmp_path / "run.h5") as recording:
        told = recording.provenance
        call = {"max_sequence_length": 16, "output_type": "np"}
        assert told["run"]["options"] == {"scheduler": options[1], "dtype": "float32", "call": call}
        assert told["model"]["argument"] == str(saved("flux"))
        assert "probe_text" not in told["capture"], "the bundled probe goes by its name"
        assert "generator" not in told["run"]["arguments"]
    with open_recording(next((tmp_path / "set").glob("*.h5"))) as recording:
        told = recording.provenance
        assert (told["run"]["options"], told["model"]["argument"]) == ({}, str(saved("dit")))
        assert told["run"]["arguments"]["class_labels"] == [1]


def test_taps_hold_what_the_module_gave_thinned_as_asked(saved, janoscope, tmp_path):
    model, seen, run = saved("flux"), [], tmp_path / "run.h5"
    taps = ("--tap", "transformer_blocks.1:steps=1:4:2:tokens=20:channels=9", "--tap", "x_embedder")
    said = janoscope("record", model, *(word for word in FLUX if word != "-q"), "--steps", 5, *taps, "-o", run)
    assert said.code == 0, said.err
    assert "run.h5 will take" in said.err
    assert "(taps " in said.err
    pipe = load_model(str(model)).pipe
    handle = pipe.transformer.transformer_blocks[1].register_forward_hook(lambda m, a, out: seen.append(out[1].clone()))
    call = {"height": 112, "width": 176, "num_inference_steps": 5, "max_sequence_length": 16}
    pipe("a cat on the grass", **call, generator=torch.Generator().manual_seed(0))
    handle.remove()
    name = "transformer_blocks.1.output"
    with open_recording(run) as recording:
        assert set(recording.signals) == {"model_output", "sample", name, "x_embedder.output"}
        for step in range(5):
            values = recording.map(name, step)
            assert values.shape == (20, 8)  # every 4th of 77 tokens, every 4th of 32 channels
            if step in (1, 3):
                np.testing.assert_array_equal(values, seen[step][0, ::4, ::4].numpy())
                assert not np.array_equal(values, seen[step][0, 1::4, ::4].numpy()[:20]), "control: other tokens differ"
            else:
                assert np.isnan(values).all()
        assert recording.spec("x_embedder.output").tokens == 77
        assert recording.provenance["capture"]["taps"][name]["token_stride"] == 4
        assert recording.verify() == []


POLICY = """
name = "test"
map = "jano"
warmup = 3
cooldown = 1
tile = [1, 4, 4]
tokens = "majority"
quantiles = { static = 0.4, moderate = 0.7 }
intervals = { static = 4, moderate = 2, active = 1 }
"""


def test_an_accelerated_run_marks_the_tokens_it_skipped(saved, janoscope, tmp_path):
    (tmp_path / "policy.toml").write_text(POLICY)
    run = tmp_path / "run.h5"
    said = janoscope("record", saved("flux"), *FLUX, "--steps", 10, "--policy", tmp_path / "policy.toml", "-o", run)
    assert said.code == 0, said.err
    assert "compute 0." in said.out
    with open_recording(run) as recording:
        skipped, output = recording.skipped, recording.read("model_output")
        assert recording.provenance["capture"]["policy"]["name"] == "test"
        assert not skipped[:3].any(), "warm-up"
        assert not skipped[-1].any(), "cool-down"
        held = np.zeros_like(skipped)
        held[1:] = (output[1:] == output[:-1]).all(axis=-1)
        np.testing.assert_array_equal(held, skipped)
        assert 0 < skipped.mean() < 1
        assert "An accelerated run" in repr(recording)


def test_looking_at_a_recording(saved, janoscope, tmp_path):
    run = tmp_path / "run.h5"
    janoscope("record", saved("flux"), *FLUX, "--steps", 3, "-o", run, "--no-output")
    told = json.loads(janoscope("inspect", run, "--json").out)
    assert (told["steps"], told["complete"], told["branches"], told["skipped_share"]) == (3, True, ["guided"], None)
    assert told["signals"]["sample"] == {
        "tokens": 77,
        "channels": 16,
        "dtype": "float32",
        "source_dtype": "float32",
        "nonfinite": 0,
        "nonfinite_created": 0,
        "storage_loss": 0.0,
        "maps": 3,
    }
    assert "tokens 77 = 1 x 7 x 11 (frame, row, col)" in janoscope("inspect", run).out
    assert janoscope("verify", run).out.endswith("3 steps, complete, 0 faults\n")
    assert janoscope("export", run, "-o", tmp_path / "half.h5", "--dtype", "float16").out == f"Wrote {tmp_path / 'half.h5'}\n"
    with open_recording(tmp_path / "half.h5") as half:
        assert half.spec("sample").stored == "float16"
    parted = janoscope("diff", run, tmp_path / "half.h5")
    assert parted.code == 0
    assert "sample: from step 0, 3 of 3 steps, 77 of 77 tokens" in parted.out
    assert "identical" in janoscope("diff", run, run).out


def test_verify_finds_a_flipped_bit_and_says_so_by_its_exit_code(saved, janoscope, tmp_path):
    run, hurt = tmp_path / "run.h5", tmp_path / "hurt.h5"
    janoscope("record", saved("flux"), *FLUX, "--steps", 3, "-o", run, "--no-output")
    with open_recording(run) as recording:
        place = run.read_bytes().index(recording.map("model_output", 1, raw=True).tobytes())
    shutil.copy(run, hurt)
    with hurt.open("r+b") as file:
        file.seek(place + 100)
        byte = file.read(1)[0]
        file.seek(place + 100)
        file.write(bytes([byte ^ 1]))
    assert janoscope("verify", run).code == 0
    said = janoscope("verify", hurt, "--json")
    assert said.code == 1
    (fault,) = json.loads(said.out)["faults"]
    assert "model_output step 1" in fault
    assert "checksum differs" in fault


def test_an_existing_recording_is_kept(saved, janoscope, tmp_path):
    run = tmp_path / "run.h5"
    run.write_text("mine")
    said = janoscope("record", saved("flux"), *FLUX, "--steps", 2, "-o", run)
    assert (said.code, run.read_text()) == (2, "mine")
    assert "--force" in said.err
    assert janoscope("record", saved("flux"), *FLUX, "--steps", 2, "-o", run, "--force").code == 0


def load_nothing(*arguments, **options):
    raise AssertionError("the model was loaded before the refusal")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("run", "must end in .h5"),
        ("nowhere/run.h5", "nowhere does not exist, so run.h5 cannot be written there"),
        ("locked.h5", "locked.h5 is being written by another recorder"),
        ("seen.h5", "seen.png exists already"),
        ("clip.h5", "clip.mp4 exists already"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    saved, janoscope, tmp_path, monkeypatch, output, message
):
    for name in ("seen.png", "clip.mp4", "locked.partial.h5"):
        (tmp_path / name).write_text("mine")
    monkeypatch.setattr(model_module, "load_model", load_nothing)
    with (tmp_path / "locked.partial.h5").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = janoscope("record", saved("flux"), *FLUX, "--steps", 2, "-o", tmp_path / output)
    assert said.code == 2
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}


def test_a_picture_is_replaced_when_told_to_and_left_alone_without_output(saved, janoscope, tmp_path):
    picture = tmp_path / "run.png"
    picture.write_text("mine")
    run = ("record", saved("flux"), *FLUX, "--steps", 2, "-o", tmp_path / "run.h5")
    assert janoscope(*run, "--no-output").code == 0
    assert picture.read_text() == "mine"
    assert janoscope(*run, "--force").code == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_refusal_when_a_later_generation_begins_is_told_as_it_is(saved, tmp_path):
    pipe = load_model(str(saved("flux"))).pipe
    call = {"height": 112, "width": 176, "num_inference_steps": 2, "max_sequence_length": 16}
    (tmp_path / "run-2.h5").write_text("mine")

    def record_two():
        with record(pipe, tmp_path / "run.h5"):
            pipe("a cat", **call)
            pipe("a cat", **call)

    with pytest.raises(InputError, match=r"run-2\.h5 exists"):
        record_two()
    with open_recording(tmp_path / "run.h5") as recording:
        assert recording.complete, "control: the first is whole"
    with pytest.raises(InputError, match=r"must end in \.h5"), record(pipe, tmp_path / "run"):
        raise AssertionError("begun all the same")
