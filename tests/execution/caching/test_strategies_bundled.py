"""What a cache strategy costs in quality on the bundled, trained models: PSNR against `kv`, whose picture it should make."""

from dataclasses import replace

import pytest

from janoscope.metrics import psnr
from janoscope.pipeline.call import CallOptions, make_call
from janoscope.pipeline.model import load_model
from janoscope.pipeline.model_directory import bundled_directory
from janoscope.pipeline.model_options import ModelOptions
from janoscope.plan import Cache
from janoscope.workflows.apply.session import apply_model

# dB; a picture of the demo met 68.6 and 58.4 and was identical under hidden (docs/execution.md)
LEAST = {"hidden": 60, "kv-int8": 40, "kv-fp8": 30}
PROMPTS = {"demo": "two blue balls on snow", "demo:video": "a red ball"}


@pytest.mark.slow  # four generations of a trained model
@pytest.mark.parametrize("name", PROMPTS)
def test_the_picture_is_that_of_kv_but_for_noise(name):
    if not (bundled_directory(name) / "model_index.json").is_file():
        pytest.skip(f"the bundled model {name} is not in this checkout; python -m janoscope.demo.training.train makes it")
    model = load_model(name, ModelOptions(device="cpu"))
    call = make_call(model, CallOptions(prompt=PROMPTS[name], seed=0))
    frames = {
        strategy: apply_model(model, call, policy=replace(model.policy(None), cache=Cache(strategy))).generated.frames
        for strategy in ("kv", *LEAST)
    }
    quality = {strategy: psnr(frames["kv"], frames[strategy]) for strategy in LEAST}
    assert all(quality[strategy] >= least for strategy, least in LEAST.items()), quality
    assert quality["hidden"] > quality["kv-int8"] > quality["kv-fp8"], "control: codes of eight bits show"
