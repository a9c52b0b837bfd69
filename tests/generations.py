"""Whole generations of tiny pipelines with and without the executor, for the tests beside it."""

from functools import cache

import torch
from tiny_pipelines import VARIANTS, build

from janoscope.execution import Executor
from janoscope.plan import Policy
from janoscope.probe import CHECKOUT, load_probe

STEPS = 8
# what makes a second network call a step, where the tiny call has guidance switched off
TWO_PASSES = {"flux": {"true_cfg_scale": 2.0, "negative_prompt": "red"}}

# two warm-up steps, refresh at 2 and 5, cool-down at 7: W W R a m R m C
BASE = {
    "name": "test",
    "warmup": 2,
    "cooldown": 1,
    "tile": [1, 4, 4],
    "quantiles": {"static": 0.4, "moderate": 0.7},
    "intervals": {"static": 3, "moderate": 2, "active": 1},
}
KINDS = ["warmup", "warmup", "refresh", "active", "moderate", "refresh", "moderate", "cooldown"]


def policy(**changes):
    """The base with changes; `thresholds` take the place of its quantiles."""
    kept = {key: value for key, value in BASE.items() if not (key == "quantiles" and "thresholds" in changes)}
    return Policy.from_table(kept | changes, "test")


@cache
def probe_of_family(name):
    return load_probe(CHECKOUT / f"{VARIANTS.get(name, name)}.toml")


def generate(pipe, call, seed=0, **changes):
    """The latents (or pictures, where a pipeline gives no latents) of one generation, as one tensor."""
    arguments = {"num_inference_steps": STEPS} | {k: v for k, v in call.items() if k != "num_inference_steps"} | changes
    result = pipe(**arguments, generator=torch.Generator().manual_seed(seed))
    output = result.images if hasattr(result, "images") else result.frames
    return torch.as_tensor(output[0] if isinstance(output, list) else output).clone()


class Tiny:
    """A tiny pipeline with its call and its probe."""

    def __init__(self, name):
        self.name, self.probe = name, probe_of_family(name)
        self.pipe, self.call = build(name)

    def plain(self, **changes):
        return generate(self.pipe, self.call, **changes)

    def executor(self, policy=None, **options):
        return Executor(self.pipe, self.probe, policy=policy, **options)

    def run(self, policy=None, plan=None, options=None, **changes):
        """(latents, executor) of one generation under a policy or a plan."""
        with self.executor(policy, plan=plan, **(options or {})) as executor:
            return generate(self.pipe, self.call, **changes), executor

    def attributes(self):
        """Names of everything that stands on the instances that the executor touches."""
        owners = {"scheduler": self.pipe.scheduler}
        for component in self.probe.tap.components:
            if (module := getattr(self.pipe, component, None)) is not None:
                owners |= {f"{component}.{path}": inner for path, inner in module.named_modules()}
        return {path: (list(vars(owner)), _hooks(owner)) for path, owner in owners.items()}


def _hooks(owner):
    return [len(vars(owner).get(name, ())) for name in ("_forward_hooks", "_forward_pre_hooks")]
