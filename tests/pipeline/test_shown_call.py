"""Prompt, seed, size and guidance are read off the pipeline's call; what is said wins; what neither says is unknown."""

import pytest
import torch
from tiny_pipelines import build

import janoscope
from janoscope.errors import InputError
from janoscope.pipeline.shown_call import ShownCall, shown_call
from janoscope.plan import Policy

POLICY = Policy.from_table(
    {
        "name": "t",
        "warmup": 2,
        "cooldown": 1,
        "tile": [1, 2, 2],
        "quantiles": {"static": 0.3, "moderate": 0.6},
        "intervals": {"static": 4, "moderate": 3, "active": 1},
    },
    "test",
)


def run_of(path):
    with janoscope.open(path) as recording:
        return recording.provenance["run"]


def generate(pipe, call, seed=7):
    return pipe(**call, generator=torch.Generator().manual_seed(seed))


# family -> the argument that is its guidance scale; embeds stand for a prompt in the last
@pytest.mark.parametrize(
    ("family", "guidance"),
    [("flux", "guidance_scale"), ("sd3", "guidance_scale"), ("wan", "guidance_scale"), ("qwen-image", "true_cfg_scale")],
)
def test_a_recording_reads_its_call(family, guidance, tmp_path):
    pipe, call = build(family)
    call[guidance] = 3.25
    with janoscope.record(pipe, tmp_path / "run.h5"):
        generate(pipe, call)
    run = run_of(tmp_path / "run.h5")
    shown = {name: run[name] for name in ("prompt", "negative_prompt", "seed", "guidance_scale")}
    prompt = call.get("prompt", "unknown")
    assert shown == {"prompt": prompt, "negative_prompt": call.get("negative_prompt"), "seed": 7, "guidance_scale": 3.25}
    assert (run["height"], run["width"]) == (call["height"], call["width"])
    assert run["arguments"]["num_inference_steps"] == call["num_inference_steps"]
    assert run["frames"] == call.get("num_frames", "unknown")


def test_a_class_label_is_the_prompt(tmp_path):
    pipe, call = build("dit")
    with janoscope.record(pipe, tmp_path / "run.h5"):
        generate(pipe, call | {"class_labels": [3]})
    assert run_of(tmp_path / "run.h5")["prompt"] == "3"


def test_what_is_said_wins_and_each_generation_shows_its_own(tmp_path):
    pipe, call = build("flux")
    with janoscope.record(pipe, tmp_path / "said.h5", prompt="said", seed=1, guidance=9.0, negative_prompt=None):
        generate(pipe, call)
    run = run_of(tmp_path / "said.h5")
    assert [run[name] for name in ("prompt", "seed", "guidance_scale", "negative_prompt")] == ["said", 1, 9.0, None]
    with janoscope.record(pipe, tmp_path / "two.h5") as handle:
        generate(pipe, call | {"prompt": "a dog"}, seed=1)
        generate(pipe, call | {"prompt": ["a cat"]}, seed=2)
    assert [(run_of(path)["prompt"], run_of(path)["seed"]) for path in handle.paths] == [("a dog", 1), ("a cat", 2)]


def test_without_a_call_or_a_generator_nothing_shows(tmp_path):
    pipe, call = build("flux")
    assert shown_call(pipe, janoscope.load_model("demo").probe) == ShownCall()
    with janoscope.record(pipe, tmp_path / "run.h5"):
        pipe(**call)
    assert run_of(tmp_path / "run.h5")["seed"] == "unknown"
    other, _ = build("flux")
    with janoscope.record(pipe, tmp_path / "two-prompts.h5"):
        generate(pipe, call | {"prompt": ["a cat", "a dog"]})
    assert run_of(tmp_path / "two-prompts.h5")["prompt"] == "unknown"
    assert vars(other).keys() == vars(build("flux")[0]).keys()


def test_a_plan_of_a_recording_is_applied_to_the_same_call_alone(tmp_path):
    pipe, call = build("flux")
    call["num_inference_steps"] = 10
    with janoscope.record(pipe, tmp_path / "run.h5"):
        generate(pipe, call)
    plan = janoscope.analyze(tmp_path / "run.h5", policy=POLICY).plan
    assert (plan.fingerprint.prompt, plan.fingerprint.seed) == (call["prompt"], 7)
    with janoscope.apply(pipe, plan=plan) as run:
        generate(pipe, call)
    assert run.plan == plan
    with janoscope.apply(pipe, policy=POLICY) as run:
        generate(pipe, call)
    assert run.plan is not None
    assert run.plan.fingerprint == plan.fingerprint
    for other in ({"prompt": "a dog"}, {"guidance_scale": 1.5}):
        with pytest.raises(InputError, match=next(iter(other)).split("_")[0]), janoscope.apply(pipe, plan=plan):
            generate(pipe, call | other)
    with janoscope.apply(pipe, plan=plan, any_prompt=True):
        generate(pipe, call | {"prompt": "a dog"}, seed=8)
