"""A bare pipeline as a Model: named as it was loaded, never by a machine's path."""

import pytest
from diffusers import DiffusionPipeline
from tiny_pipelines import build

from janoscope.errors import InputError
from janoscope.pipeline.model import Model, as_model, load_model
from janoscope.pipeline.model_directory import bundled_directory
from janoscope.pipeline.model_options import ModelOptions
from janoscope.probe import find_probe


@pytest.fixture(scope="module")
def demo() -> Model:
    return load_model("demo", ModelOptions(device="cpu"))


def test_a_model_is_returned_as_it_is(demo):
    assert as_model(demo) is demo


def test_a_pipeline_of_the_bundled_model_equals_what_load_model_gives(demo):
    pipe = DiffusionPipeline.from_pretrained(bundled_directory("demo"))
    model = as_model(pipe)
    assert model.pipe is pipe
    assert (model.name, model.probe, model.revision) == (demo.name, demo.probe, demo.revision)
    assert (model.call, model.policy_table) == (demo.call, demo.policy_table)


def test_a_pipeline_of_a_directory_is_named_by_its_last_part(tmp_path):
    pipe, _ = build("flux")
    pipe.save_pretrained(tmp_path / "my-flux")
    model = as_model(DiffusionPipeline.from_pretrained(tmp_path / "my-flux"))
    assert (model.name, model.probe.family, dict(model.call)) == ("my-flux", "flux", {})


def test_a_pipeline_built_by_hand_is_unknown_and_another_network_is_refused():
    pipe, _ = build("flux")
    assert as_model(pipe).name == "unknown"
    pipe.transformer = None
    with pytest.raises(InputError, match="neither a transformer nor a unet"):
        as_model(pipe)


def test_options_as_recipes_keep_them_name_a_probe_object_by_its_content():
    flux = find_probe(["FluxTransformer2DModel"])
    names = ["device", "dtype", "revision", "variant", "scheduler", "probe", "name"]
    assert list(ModelOptions().to_json("demo")) == names
    kept = ModelOptions(probe=flux).to_json("demo")["probe"]
    assert isinstance(kept, str)
    assert kept.startswith("flux ")
    assert kept != ModelOptions(probe=find_probe(["SD3Transformer2DModel"])).to_json("demo")["probe"]
