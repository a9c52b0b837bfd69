"""Where apply writes is checked before it works; what it writes is JSON that any reader takes; times are of warm runs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from janoscope.errors import InputError
from janoscope.pipeline import generate as study_generate
from janoscope.pipeline.call import CallOptions, make_call
from janoscope.pipeline.model import load_model
from janoscope.pipeline.model_options import ModelOptions
from janoscope.results import images
from janoscope.workflows.apply import session as study_apply
from janoscope.workflows.apply.departures import measured_words
from janoscope.workflows.apply.files import refuse_output
from janoscope.workflows.apply.session import apply_model, save_applied

PROMPT = "a large red apple on grass, blue sky"
STEPS = 12


@pytest.fixture(scope="module")
def model():
    return load_model("demo", ModelOptions(device="cpu"))


@pytest.fixture(scope="module")
def call(model):
    return make_call(model, CallOptions(PROMPT, seed=3, steps=STEPS))


@pytest.fixture
def generations(monkeypatch):
    """Steps of each generation that apply_model makes, in their order."""
    made = []

    def generate(model, call, on_step=None):
        made.append(call.steps)
        return study_generate.generate(model, call, on_step)

    monkeypatch.setattr(study_apply, "generate", generate)
    return made


@pytest.fixture(scope="module")
def applied(model, call):
    return apply_model(model, call, policy=model.policy(None), reference=True)


@pytest.mark.parametrize("name", ["out", "out.txt", "out.png.bak"])
def test_an_ending_that_cannot_be_written_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"ends in .png or .mp4"):
        refuse_output(tmp_path / name, reference=False, force=True)


def test_a_run_that_ends_in_its_warm_up_is_refused_before_it_is_made(model, monkeypatch):
    rules, made = model.policy(None), []
    monkeypatch.setattr(study_apply, "generate", lambda *arguments: made.append(arguments))
    short = make_call(model, CallOptions(PROMPT, steps=rules.warmup - 1))
    with pytest.raises(InputError, match="ends after 6 steps, before its warm-up does"):
        apply_model(model, short, policy=rules, reference=True)
    assert not made


def test_mp4_is_refused_only_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_can_write_mp4", lambda: False)
    with pytest.raises(InputError, match="video extra"):
        refuse_output(tmp_path / "out.mp4", reference=False, force=False)
    monkeypatch.setattr(images, "_can_write_mp4", lambda: True)
    refuse_output(tmp_path / "out.mp4", reference=False, force=False)


def test_a_directory_that_cannot_be_made_is_refused_and_one_that_can_is_not(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file is a file"):
        refuse_output(tmp_path / "file" / "deep" / "out.png", reference=False, force=False)
    refuse_output(tmp_path / "new" / "deep" / "out.png", reference=False, force=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["out.png", "out-full.png", "out.json"])
def test_every_file_in_the_way_is_refused_without_force(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match=f"{name} exists already"):
        refuse_output(tmp_path / "out.png", reference=True, force=False)
    refuse_output(tmp_path / "out.png", reference=True, force=True)


def test_the_full_picture_is_in_the_way_only_where_one_is_made(tmp_path):
    (tmp_path / "out-full.png").write_text("precious")
    refuse_output(tmp_path / "out.png", reference=False, force=False)
    with pytest.raises(InputError, match=r"out-full\.png exists already"):
        refuse_output(tmp_path / "out.png", reference=True, force=False)
    assert (tmp_path / "out-full.png").read_text() == "precious"


@pytest.mark.parametrize("name", ["plan", "analysis"])
def test_a_plan_or_analysis_is_never_written_over(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}.json"):
        refuse_output(tmp_path / f"{name}.png", reference=False, force=True)


def test_the_plan_that_is_read_is_never_written_over(tmp_path):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(InputError, match=r"mine.json"):
        refuse_output(tmp_path / "mine.png", reference=False, force=True, keep=tmp_path / "mine.json")
    refuse_output(tmp_path / "mine.png", reference=False, force=True, keep=tmp_path / "other.json")


def test_without_a_reference_there_is_one_generation(model, call, generations):
    apply_model(model, call, policy=model.policy(None))
    assert generations == [STEPS]


def test_a_plan_for_another_run_costs_no_full_generation(model, call, applied, generations):
    seen = []
    other = make_call(model, CallOptions(PROMPT, seed=4, steps=STEPS))
    with pytest.raises(InputError, match="seed: plan "):
        apply_model(model, other, plan=applied.plan, reference=True, on_step=lambda done, steps: seen.append(done))
    assert generations == [STEPS]
    assert len(seen) <= 1


def test_the_run_that_is_timed_changes_neither_image(model, call, applied):
    assert np.array_equal(applied.reference.frames, study_generate.generate(model, call).frames)
    alone = apply_model(model, call, policy=model.policy(None))
    assert np.array_equal(applied.generated.frames, alone.generated.frames)


def test_with_a_reference_the_accelerated_run_is_timed_after_the_full_one(model, call, generations, monkeypatch):
    """Warm and side by side: accelerated, full, accelerated again, whose time counts."""
    walls = iter([9.0, 4.0, 2.0])
    honest = study_apply.generate
    monkeypatch.setattr(study_apply, "generate", lambda *given: replace(honest(*given), wall_s=next(walls)))
    applied = apply_model(model, call, policy=model.policy(None), reference=True)
    assert generations == [STEPS] * 3
    assert applied.speedup == 2.0


def test_identical_pictures_are_null_and_a_flag(applied, tmp_path):
    from dataclasses import replace

    same = replace(applied, psnr=math.inf, ssim=1.0)
    save_applied(same, tmp_path / "out.png")
    text = (tmp_path / "out.json").read_text()
    held = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (held["psnr"], held["identical"], held["ssim"]) == (None, True, 1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-full.png", "out.json", "out.png"]


def test_different_pictures_keep_their_number(applied):
    held = applied.to_json()
    assert held["identical"] is False
    assert held["psnr"] == applied.psnr
    assert math.isfinite(held["psnr"])


def test_without_a_reference_there_is_nothing_to_be_identical_to(model, call):
    held = apply_model(model, call, policy=model.policy(None)).to_json()
    assert (held["psnr"], held["identical"], held["speedup"]) == (None, None, None)


def test_a_measured_policy_says_on_what_and_a_hand_written_one_nothing(model):
    written = model.policy(None)
    assert measured_words(written, "demo") is None
    on = {"model": "demo", "model_size": "4.35 M parameters", "psnr": {"mean": 55.12}, "compute": 0.5, "prompts": 8}
    told = measured_words(replace(written, measured_on=on), "demo")
    assert told == "policy demo was measured on demo (4.35 M parameters): 55.1 dB at compute 0.50 over 8 prompts."
    assert measured_words(replace(written, measured_on=on), "flux").endswith(" On flux it was not measured.")
    assert measured_words(replace(written, measured_on={"model": "demo"}), "demo") == "policy demo was measured on demo."


def test_an_mp4_of_an_odd_size_is_padded_not_resampled(tmp_path):
    """Stripes of three pixels: stretched to the next multiple of 16 they would no longer stand where they stood."""
    import imageio.v3 as imageio

    stripes = np.repeat(np.arange(45) // 3 % 2 * 200, 3).reshape(1, 1, 45, 3).astype(np.uint8)
    frames = np.broadcast_to(stripes, (4, 31, 45, 3)).copy()
    back = imageio.imread(images.save_frames(frames, tmp_path / "odd.mp4"), plugin="FFMPEG")
    assert back.shape == (4, 32, 46, 3)
    assert np.abs(back[:, :31, :45].astype(int) - frames).mean() < 12
    stretched = np.abs(back[:, :31, :43].astype(int) - frames[:, :, 2:]).mean()
    assert stretched > 60, "control: two pixels off would be seen"
