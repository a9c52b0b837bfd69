"""A tiny pipeline as a loaded model, with a policy of its own and the calls that a comparison makes."""

from tiny_pipelines import build

from janoscope.pipeline.call import CallOptions
from janoscope.pipeline.model import Model
from janoscope.probe import find_probe
from janoscope.workflows.compare.contest import calls_of

POLICY = {
    "name": "tiny",
    "warmup": 2,
    "cooldown": 1,
    "tile": [1, 4, 4],
    "quantiles": {"static": 0.4, "moderate": 0.7},
    "intervals": {"static": 3, "moderate": 2, "active": 1},
}


def tiny_model(family="flux", **call):
    pipe, arguments = build(family)
    known = {key: value for key, value in arguments.items() if key not in ("prompt", "output_type")}
    network = pipe.transformer if hasattr(pipe, "transformer") else pipe.unet
    sheet = find_probe([cls.__name__ for cls in type(network).__mro__])
    return Model("tiny", pipe, sheet, call={**known, "num_inference_steps": 8, "output_type": "pil"} | call, policy_table=POLICY)


def calls(model, prompts=("a cat",), seeds=(0,)):
    return calls_of(model, CallOptions(prompt=prompts[0]), prompts, seeds)
