"""Apply: run a pipeline by a policy or a plan, and say what that cost and what it saved."""

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...capture.protocols import Pipeline
from ...errors import InputError
from ...execution import Executor, RunSummary, StepExecutor, executor_for
from ...metrics import psnr, ssim
from ...parallel.pair import Pair
from ...pipeline.call import PipelineCall
from ...pipeline.generate import Generated, generate
from ...pipeline.handle import Handle
from ...pipeline.model import Model, probe_of
from ...pipeline.model_directory import named_policy
from ...pipeline.model_options import ProbeSource
from ...pipeline.provenance import RunDescription
from ...pipeline.shown_call import UNKNOWN, shown_call
from ...plan import Cache, Plan, Policy
from ...plan.fingerprint import Identity
from ...results.images import save_frames
from ...results.plan_file import read_plan
from ...results.writing import write_json
from .files import applied_files


class ApplyHandle(Handle):
    """What `apply` gives: attached to the pipeline, see `Handle`; what the last generation computed, and by which plan."""

    def __init__(self, layers: ExitStack, executor: Executor | StepExecutor):
        super().__init__(layers, "apply(pipe, ...)", "accelerated", lambda: executor.is_unused)
        self.executor = executor

    @property
    def summary(self) -> RunSummary:
        """What the last generation computed; empty before the first."""
        return self.executor.summary

    @property
    def account(self) -> RunSummary:
        """The old name of `summary`."""
        warnings.warn("`account` is now called `summary`.", DeprecationWarning, stacklevel=2)
        return self.summary

    @property
    def plan(self) -> Plan | None:
        """The plan given, or made by the last generation; None while there is none."""
        return self.executor.plan

    @property
    def policy(self) -> Policy | None:
        """The policy in force."""
        return self.executor.policy

    @property
    def skipped(self) -> np.ndarray | None:
        """Tokens that the last step did not compute, bool (token,); None when it computed all."""
        return self.executor.skipped


def apply(
    pipe: Pipeline,
    *,
    policy: Policy | str | Path | None = None,
    plan: Plan | str | Path | None = None,
    probe: ProbeSource | None = None,
    sheet: ProbeSource | None = None,
    model: str = UNKNOWN,
    prompt: str = UNKNOWN,
    seed: int | None = None,
    guidance: Mapping[str, object] | None = None,
    any_prompt: bool = False,
    pair: Pair | None = None,
    cache: Cache | str | None = None,
) -> ApplyHandle:
    """Accelerate every generation that `pipe` makes until the handle is closed, by `close()` or `with`; the pipeline is then
    as it was.

    Args:
        policy: a Policy, a preset name of the family, or the path of a TOML file; each generation makes its own plan with it.
        plan: a Plan or the path of plan.json, obeyed as it is.
        probe: a probe, or the path of its file, other than the one that matches the network. sheet: its old name.
        model: an id of the model; a plan is compared with it.
        prompt, seed: of the generations; by default read off each call of the pipeline where its family shows them.
        guidance: `scale` and `negative_prompt` likewise.
        any_prompt: accept a plan that was made for another prompt or seed.
        pair: make every generation together with a second process, a guidance branch each (`Pair.join`).
        cache: what is kept of skipped tokens, a strategy's name or a Cache, in the place of the policy's or the plan's own.

    Raises:
        InputError, ExecutionError: see `Executor`.

    Example:
        >>> with janoscope.apply(pipe, policy="jano/flux-1/1") as run:  # doctest: +SKIP
        ...     image = pipe("a suitcase and a vase").images[0]
        >>> print(run.summary)  # doctest: +SKIP
        >>> handle = janoscope.apply(pipe, policy="jano/flux-1/1")  # doctest: +SKIP
        >>> handle.close()  # doctest: +SKIP
    """
    chosen = probe_of(pipe, probe, sheet)
    if isinstance(policy, str | Path):
        policy = named_policy(chosen, str(policy))
    if isinstance(plan, str | Path):
        plan = read_plan(Path(plan))
    if isinstance(cache, str):
        cache = Cache.from_table({"strategy": cache}, "cache")

    def identity() -> Identity:
        call = (
            RunDescription(prompt, UNKNOWN if seed is None else seed, model=model).completed(shown_call(pipe, chosen)).identity()
        )
        return call if guidance is None else replace(call, guidance=dict(guidance))

    with ExitStack() as stack:
        executor = executor_for(
            pipe,
            chosen,
            policy=policy,
            plan=plan,
            cache=cache,
            identity=identity,
            any_prompt=any_prompt,
            on_select=pair.selected if pair else None,
        )
        stack.enter_context(executor)
        if pair is not None:
            stack.enter_context(pair.attached(pipe, chosen))
        return ApplyHandle(stack.pop_all(), executor)


@dataclass(frozen=True)
class Applied:
    """One accelerated generation; psnr (dB), ssim and speedup (wall time) against the full run where a reference was made.

    psnr is inf for identical pictures. speedup is of one warm run each; FLOPs are counted after both.
    processes: 2 where guidance branches ran in parallel; summary and cache are then those of one of them, its own branch's.
    """

    generated: Generated
    account: RunSummary
    plan: Plan
    reference: Generated | None = None
    psnr: float | None = None
    ssim: float | None = None
    processes: int = 1

    @property
    def speedup(self) -> float | None:
        return self.reference.wall_s / self.generated.wall_s if self.reference else None

    def to_json(self) -> dict[str, object]:
        """What apply.json holds; psnr is null where the pictures are identical."""
        identical = None if self.psnr is None else math.isinf(self.psnr)
        figures = {"psnr": None if identical else self.psnr, "identical": identical, "ssim": self.ssim, "speedup": self.speedup}
        costs: dict[str, object] = {
            "compute": self.account.compute,
            "token_fraction": self.account.token_fraction,
            "cache_bytes": self.account.cache_bytes,
        }
        if self.processes > 1:
            costs["guidance_parallel"] = self.processes
        return {"schema": "janoscope-apply/1", **figures, **costs, "account": self.account.to_json()}


def apply_model(
    model: Model,
    call: PipelineCall,
    *,
    policy: Policy | None = None,
    plan: Plan | None = None,
    any_prompt: bool = False,
    cache: Cache | None = None,
    reference: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Applied:
    """One accelerated generation of a loaded model, and with `reference` the full one after it.

    The accelerated one goes first, so that a plan made for another run is refused before the time of a full run is spent. With
    a reference it is made once more after the full one, and that time counts: then both are warm, and stand side by side.
    """
    if policy is not None and call.steps is not None and call.steps < policy.warmup:
        raise _ends_in_warmup(call.steps)

    def accelerated() -> tuple[Generated, ApplyHandle]:
        with apply(
            model.pipe,
            policy=policy,
            plan=plan,
            probe=model.probe,
            model=model.name,
            prompt=call.prompt,
            seed=call.seed,
            guidance=call.guidance_facts(),
            any_prompt=any_prompt,
            pair=model.pair,
            cache=cache,
        ) as run:
            return generate(model, call, on_step), run

    generated, run = accelerated()
    made = run.plan
    if made is None:
        raise _ends_in_warmup(len(run.summary.steps))
    full = generate(model, call, on_step) if reference else None
    if full is not None:
        generated = replace(generated, wall_s=accelerated()[0].wall_s)
    processes = 1 if model.pair is None else 2
    if full is None or full.frames is None or generated.frames is None:
        return Applied(generated, run.summary, made, full, processes=processes)
    quality = {"psnr": psnr(full.frames, generated.frames), "ssim": ssim(full.frames, generated.frames)}
    return Applied(generated, run.summary, made, full, **quality, processes=processes)


def _ends_in_warmup(steps: int) -> InputError:
    return InputError(
        f"the run ends after {steps} steps, before its warm-up does; give more --steps or a policy with a shorter warm-up."
    )


def _prompts_words(prompts: object) -> str:
    """How many prompts a figure is the mean of: of a calibrated policy those held out, not all."""
    return "some prompts" if prompts is None else "1 prompt" if prompts == 1 else f"{prompts} prompts"


def save_applied(applied: Applied, output: Path) -> list[Path]:
    """Write the `applied_files`, and give their paths."""
    if applied.generated.frames is None:
        raise InputError("the pipeline returned latents; leave output_type out to get a picture.")
    reference = applied.reference.frames if applied.reference else None
    _, full, account = applied_files(output, reference is not None)
    output.parent.mkdir(parents=True, exist_ok=True)
    files = [save_frames(applied.generated.frames, output)]
    names = {"output": output.name}
    if full is not None and reference is not None:
        files.append(save_frames(reference, full))
        names["reference"] = full.name
    write_json(account, applied.to_json() | names)
    return [*files, account]
