"""What a model or a call cannot be given is refused in one line, and early; what is our own bug is not."""

import re

import pytest
import torch

from janoscope.errors import InputError
from janoscope.pipeline.call import CallOptions, make_call
from janoscope.pipeline.generate import generate
from janoscope.pipeline.model import load_model, usable_device
from janoscope.pipeline.model_directory import model_defaults
from janoscope.pipeline.model_options import ModelOptions


@pytest.fixture(scope="module")
def model():
    return load_model("demo", ModelOptions(device="cpu"))


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("prompt", "--prompt"),
        ("generator", "--seed"),
        ("num_inference_steps", "--steps"),
        ("height", "--height"),
        ("width", "--width"),
        ("num_frames", "--frames"),
        ("negative_prompt", "--negative-prompt"),
    ],
)
def test_an_argument_with_an_option_of_its_own_is_refused_by_name(key, option):
    with pytest.raises(InputError, match=f"^--call {key}: .* use {option}[.]$"):
        CallOptions("x", extra={key: 3})


def test_the_guidance_argument_of_this_model_is_refused_and_another_is_not(model):
    with pytest.raises(InputError, match=r"--call true_cfg_scale: .* use --guidance"):
        make_call(model, CallOptions("a large red apple", extra={"true_cfg_scale": 2.0}))
    told = make_call(model, CallOptions("a large red apple", extra={"guidance_scale": 2.0, "max_sequence_length": 8}))
    assert told.arguments["guidance_scale"] == 2.0
    assert told.arguments["max_sequence_length"] == 8


@pytest.mark.parametrize("extra", [{"output_type": "pt"}, {"return_dict": False}])
def test_another_kind_of_result_is_refused(extra):
    with pytest.raises(InputError, match=f"--call {next(iter(extra))}"):
        CallOptions("x", extra=extra)


@pytest.mark.parametrize("output_type", ["pil", "np", "latent"])
def test_the_kinds_of_result_we_read_are_taken(output_type):
    assert CallOptions("x", extra={"output_type": output_type}).extra["output_type"] == output_type


@pytest.mark.parametrize("device", ["bogus", "cpu:x", "meta", "xpu" if not torch.cuda.is_available() else "cuda:99"])
def test_a_device_that_cannot_be_used_is_refused_before_loading(monkeypatch, device):
    monkeypatch.setattr("janoscope.pipeline.model._load_pipeline", lambda *_: pytest.fail("loaded"))
    with pytest.raises(InputError, match=f"^--device {device} cannot be used: .*[.]$"):
        load_model("demo", ModelOptions(device=device))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device that has to be missing")
def test_cuda_without_cuda_is_refused():
    with pytest.raises(InputError, match=r"^--device cuda cannot be used"):
        usable_device("cuda")


def test_the_cpu_can_be_used():
    assert usable_device("cpu") == "cpu"
    assert usable_device(None) == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("text", ["[call\nsteps = 3", "call = 3", 'policy = "demo"', b"\xff\xfe"])
def test_broken_defaults_of_a_model_are_refused_with_the_file_named(tmp_path, text):
    (tmp_path / "janoscope.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "janoscope.toml"))):
        model_defaults(tmp_path)


def test_whole_defaults_are_read(tmp_path):
    (tmp_path / "janoscope.toml").write_text('[call]\nheight = 64\n[policy]\nname = "x"\n')
    assert model_defaults(tmp_path) == ({"height": 64}, {"name": "x"})


@pytest.mark.parametrize(
    "extra",
    [{"callback_on_step_end_tensor_inputs": ["nothing"]}, {"sigmas": "x"}, {"max_sequence_length": 100000}],
    ids=["check_inputs", "scheduler", "length"],
)
@pytest.mark.parametrize("on_step", [None, lambda done, steps: None], ids=["bare", "watched"])
def test_what_the_pipeline_refuses_is_one_line(model, extra, on_step):
    call = make_call(model, CallOptions("a large red apple", steps=2, extra=extra))
    with pytest.raises(InputError, match=r"^FluxPipeline refuses this call: .* Change that option[.]$"):
        generate(model, call, on_step)


def test_an_error_inside_the_network_keeps_its_traceback(model, monkeypatch):
    def broken(*_, **__):
        raise ValueError("broken")

    monkeypatch.setattr(model.pipe.transformer.transformer_blocks[0], "forward", broken)
    with pytest.raises(ValueError, match="broken"):
        generate(model, make_call(model, CallOptions("a large red apple", steps=2)))


def test_an_error_in_what_listens_to_us_keeps_its_traceback(model):
    def broken(done, steps):
        raise TypeError("ours")

    with pytest.raises(TypeError, match="ours"):
        generate(model, make_call(model, CallOptions("a large red apple", steps=2)), broken)
