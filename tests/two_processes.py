"""What a pair of processes does, for `test_guidance_parallel`: torchrun starts this file twice.

    torchrun --nproc-per-node 2 two_processes.py DIRECTORY [FAMILY ...]

Every run is made by one process alone first (the leading one), then by both. What came out lies in DIRECTORY, as recordings and
as one JSON a process; the test judges it.
"""

import inspect
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from generations import TWO_PASSES, Tiny, generate, policy

import janoscope
from janoscope.capture.layout import prediction_of, with_prediction
from janoscope.capture.patch import InstancePatch
from janoscope.errors import JanoscopeError
from janoscope.parallel import batch_split as batch_cut
from janoscope.parallel.pair import Pair
from janoscope.pipeline.call import CallOptions, make_call
from janoscope.pipeline.model import load_model
from janoscope.pipeline.model_options import ModelOptions
from janoscope.workflows.apply.session import apply_model
from janoscope.workflows.compare.contest import compare

TIMEOUT_S = 2.0


def second_branch(tiny):
    """What makes a second network call, where the tiny call of a family has one."""
    if tiny.name == "hunyuanvideo":
        return (
            {"true_cfg_scale": 2.0}
            | {f"negative_{key}": tiny.call[key].flip(1) for key in ("prompt_embeds", "pooled_prompt_embeds")}
            | {"negative_prompt_attention_mask": tiny.call["prompt_attention_mask"]}
        )
    return TWO_PASSES.get(tiny.name, {})


def by_halves(probe):
    """One process that computes a batched call as two do: one half, then the other, and joins them."""

    def wrap(original):
        signature = inspect.signature(original)

        def forward(*args, **kwargs):
            given = signature.bind(*args, **kwargs)
            outputs = []
            for half in (0, 1):
                cut = batch_cut.BatchCut(probe, half).cut(given.arguments)
                call = inspect.BoundArguments(signature, cut)
                outputs.append(original(*call.args, **call.kwargs))
            first, second = map(prediction_of, outputs)
            joined = [*first, *second] if isinstance(first, list) else torch.cat([first, second])
            return with_prediction(outputs[0], joined)

        return forward

    return wrap


class Script:
    def __init__(self, directory):
        self.pair = Pair.join(timeout_s=120)
        self.directory, self.told = directory, {}

    def tell(self, **facts):
        self.told |= facts
        (self.directory / f"rank{self.pair.branch}.json").write_text(json.dumps(self.told, indent=1))

    def refused(self, work):
        """The kind and words of the error that `work` ends with."""
        try:
            work()
        except JanoscopeError as error:
            return f"{type(error).__name__}: {error}"
        return "no error"

    def family(self, name):
        """A recording of a generation, under a policy where the family can be executed, alone and by both."""
        tiny = Tiny(name)
        how = {"policy": policy(), "seed": 0} if tiny.probe.execution else {}
        changes = second_branch(tiny)
        bytes_alone = 0
        if self.pair.leads:
            with janoscope.record(tiny.pipe, self.directory / f"{name}-one.h5", **how) as one:
                generate(tiny.pipe, tiny.call, **changes)
            if tiny.probe.guidance.calls == "batched":
                with janoscope.record(tiny.pipe, self.directory / f"{name}-halves.h5", **how):
                    network = getattr(tiny.pipe, tiny.probe.tap.components[0])
                    patch = InstancePatch(network, "forward", by_halves(tiny.probe))
                    generate(tiny.pipe, tiny.call, **changes)
                    patch.remove()
            bytes_alone = one.executor.summary.cache_bytes if how else 0
        with janoscope.record(tiny.pipe, self.directory / f"{name}-two.h5", pair=self.pair, **how) as two:
            latents = generate(tiny.pipe, tiny.call, **changes)
        account = two.executor.summary if how else None
        owners = (getattr(tiny.pipe, tiny.probe.tap.components[0]), tiny.pipe.scheduler)
        self.tell(
            **{
                name: {
                    "latents": float(latents.double().sum()),
                    "left": [key for part in owners for key in ("forward", "step", "set_timesteps") if key in vars(part)],
                    "paths": [path.name for path in two.paths],
                    "cache_bytes": [bytes_alone, account.cache_bytes if account else 0],
                    "compute": [one.executor.summary.compute if how and self.pair.leads else None, account and account.compute],
                }
            }
        )

    def hidden(self):
        """What one process holds with strategy kv, and each of two with strategy hidden."""
        wan, held = Tiny("wan"), {}
        for strategy, pair in (("kv", None), ("hidden", None), ("hidden", self.pair)):
            if pair is None and not self.pair.leads:
                continue
            with janoscope.apply(wan.pipe, policy=policy(cache={"strategy": strategy}), pair=pair) as run:
                latents = generate(wan.pipe, wan.call)
            held[f"{strategy} {'one' if pair is None else 'two'}"] = [run.summary.cache_bytes, float(latents.double().sum())]
        self.tell(hidden=held)

    def guards(self):
        """What is wrong must be found out, by both processes, and the next generation must be right again."""
        wan, sd3, flux, leads = Tiny("wan"), Tiny("sd3"), Tiny("flux"), self.pair.leads

        def run(tiny=wan, **changes):
            with self.pair.attached(tiny.pipe, tiny.probe):
                return generate(tiny.pipe, tiny.call, **changes)

        def other_plan():
            quantiles = {"static": 0.4 if leads else 0.5, "moderate": 0.7}
            with wan.executor(policy(quantiles=quantiles), on_select=self.pair.selected):
                run()

        def early_read():
            with self.pair.attached(wan.pipe, wan.probe):
                patch = InstancePatch(wan.pipe.transformer, "forward", lambda f: lambda *a, **k: (f(*a, **k)[0].clone(),))
                try:
                    generate(wan.pipe, wan.call)
                finally:
                    patch.remove()

        def one_fails(at):
            def fail(pipe, step, timestep, kwargs):
                if step == at and not leads:
                    raise janoscope.JanoscopeError("out of luck")
                return kwargs

            run(callback_on_step_end=fail)

        def swapped():
            join = batch_cut.BatchCut.join
            batch_cut.BatchCut.join = lambda self, own, theirs: join(self, theirs, own)
            try:
                return run(sd3)
            finally:
                batch_cut.BatchCut.join = join

        self.tell(
            seeds=self.refused(lambda: run(seed=0 if leads else 1)),
            plans=self.refused(other_plan),
            early=self.refused(early_read),
            one_branch=self.refused(lambda: run(flux)),
            batch_of_one_branch=self.refused(lambda: run(sd3, guidance_scale=1.0, num_images_per_prompt=2)),
            ended=self.refused(lambda: run(Tiny("lumina2"), cfg_trunc_ratio=0.5)),
            extra=self.refused(lambda: run(sd3, skip_guidance_layers=[0], skip_layer_guidance_start=0.0)),
            fails=self.refused(lambda: one_fails(1)),
            fails_late=self.refused(lambda: one_fails(7)),
            recovered=bool(torch.equal(run(), wan.plain())),
            swapped=float((swapped() - sd3.plain()).abs().max()),
            batched=float((run(sd3) - sd3.plain()).abs().max() / sd3.plain().abs().max()),
        )

    def verbs(self):
        """`apply` and `compare` on the bundled model, as the command line calls them."""
        alone = load_model("demo", ModelOptions(device="cpu"))
        both = replace(alone, pair=self.pair)
        rules = replace(alone.policy(None), warmup=3, cooldown=1)
        call = make_call(alone, CallOptions("red circle", seed=3, steps=8))
        for name, model in (("one", alone), ("two", both)):
            if model is both or self.pair.leads:
                applied = apply_model(model, call, policy=rules, reference=True)
                table = compare(model, [call], ["uniform:k=2,warmup=3", "jano:warmup=3,cooldown=1"]).to_json()
                picture = self.directory / f"apply-{name}-{self.pair.branch}.npy"
                np.save(picture, np.stack([applied.generated.frames, applied.reference.frames]))
                figures = [[row["runs"][0][key] for key in ("compute", "psnr", "ssim")] for row in table["rows"]]
                self.tell(**{f"compare {name}": figures, f"notes {name}": [row["note"] for row in table["rows"]]})

    def lost(self):
        """A companion that is stopped, then one that dies, while a recording is made."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, for the survivor
        for what, number in (("stopped", signal.SIGSTOP), ("killed", signal.SIGKILL)):
            self.pair.close()
            self.pair = Pair.join(timeout_s=TIMEOUT_S if what == "stopped" else 60)
            tiny, pids = Tiny("wan"), [None, None]
            self.pair.meet([0] * 12)  # both are here
            torch.manual_seed(0)
            pids = self._pids(what)
            began = []

            def hook(pipe, step, timestep, kwargs, began=began, number=number):
                if step == 2 and not self.pair.leads:
                    os.kill(os.getpid(), number)
                began.append(time.monotonic())
                return kwargs

            def record(tiny=tiny, what=what, hook=hook):
                with janoscope.record(tiny.pipe, self.directory / f"{what}.h5", pair=self.pair):
                    generate(tiny.pipe, tiny.call, callback_on_step_end=hook)

            error = self.refused(record)
            self.tell(**{what: [error, time.monotonic() - began[-1]]})
            if self.pair.leads and what == "stopped":
                os.kill(pids[1], signal.SIGCONT)

    def _pids(self, what):
        (self.directory / f"{what}-{self.pair.branch}.pid").write_text(str(os.getpid()))
        self.pair.meet([0] * 12)
        return [int((self.directory / f"{what}-{branch}.pid").read_text()) for branch in (0, 1)]


if __name__ == "__main__":
    script = Script(Path(sys.argv[1]))
    for family in sys.argv[2:]:
        script.family(family)
    if not os.environ.get("ONLY_FAMILIES"):
        script.hidden()
        script.guards()
        script.verbs()
        script.lost()
