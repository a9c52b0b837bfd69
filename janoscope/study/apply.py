"""Apply: run a pipeline by a policy or a plan, and say what that cost and what it saved."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..execution import Account, Executor, Identity
from ..metrics import psnr, ssim
from ..plan import Plan, Policy
from ..probe import ProbeSheet
from .call import PipelineCall
from .generate import Generated, generate, save_frames
from .model import Model, named_policy, sheet_of


@contextmanager
def apply(
    pipe: Any,
    *,
    policy: Policy | str | Path | None = None,
    plan: Plan | str | Path | None = None,
    sheet: ProbeSheet | None = None,
    model: str = "unknown",
    prompt: str = "unknown",
    seed: int | None = None,
    guidance: Mapping[str, Any] | None = None,
    any_prompt: bool = False,
) -> Iterator[Executor]:
    """Accelerate every generation that `pipe` makes inside the context; the pipeline is restored at its end.

    Args:
        policy: a Policy, a preset name of the family, or the path of a TOML file; each generation makes its own plan with it.
        plan: a Plan or the path of plan.json, obeyed as it is.
        model, prompt, seed, guidance: what the pipeline cannot show; a plan is held against them.

    Raises:
        InputError, ExecutionError: see `Executor`.

    Example:
        >>> with janoscope.apply(pipe, policy="jano/flux-1/1") as run:  # doctest: +SKIP
        ...     image = pipe("a suitcase and a vase").images[0]
        >>> print(run.account)  # doctest: +SKIP
    """
    sheet = sheet or sheet_of(pipe)
    if isinstance(policy, str | Path):
        policy = named_policy(sheet, str(policy))
    if isinstance(plan, str | Path):
        plan = read_plan(Path(plan))
    identity = Identity(model, prompt, seed) if guidance is None else Identity(model, prompt, seed, dict(guidance))
    with Executor(pipe, sheet, policy=policy, plan=plan, identity=identity, any_prompt=any_prompt) as executor:
        yield executor


@dataclass(frozen=True)
class Applied:
    """One accelerated generation; psnr (dB), ssim and speedup (wall time) against the full run where a reference was made."""

    generated: Generated
    account: Account
    plan: Plan
    reference: Generated | None = None
    psnr: float | None = None
    ssim: float | None = None

    @property
    def speedup(self) -> float | None:
        return self.reference.wall_s / self.generated.wall_s if self.reference else None

    def to_json(self) -> dict[str, Any]:
        """What apply.json holds."""
        figures = {"psnr": self.psnr, "ssim": self.ssim, "speedup": self.speedup}
        costs = {
            "compute": self.account.compute,
            "token_fraction": self.account.token_fraction,
            "cache_bytes": self.account.cache_bytes,
        }
        return {"schema": "janoscope-apply/1", **figures, **costs, "account": self.account.to_json()}


def apply_model(
    model: Model,
    call: PipelineCall,
    *,
    policy: Policy | None = None,
    plan: Plan | None = None,
    any_prompt: bool = False,
    reference: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Applied:
    """One accelerated generation of a loaded model, and with `reference` the full one too, made first."""
    full = generate(model, call, on_step) if reference else None
    told: dict[str, Any] = {"model": model.name, "prompt": call.prompt, "seed": call.seed, "guidance": call.guidance_facts()}
    with apply(model.pipe, policy=policy, plan=plan, sheet=model.sheet, any_prompt=any_prompt, **told) as executor:
        generated = generate(model, call, on_step)
    made = executor.plan
    if made is None:
        steps = len(executor.account.steps)
        raise InputError(
            f"the run ended after {steps} steps, before its warm-up did; give more --steps or a policy with a shorter warm-up."
        )
    if full is None or full.frames is None or generated.frames is None:
        return Applied(generated, executor.account, made, full)
    quality = {"psnr": psnr(full.frames, generated.frames), "ssim": ssim(full.frames, generated.frames)}
    return Applied(generated, executor.account, made, full, **quality)


def read_plan(path: Path) -> Plan:
    try:
        return Plan.from_text(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"plan {path} cannot be read: {error}. `janoscope analyze` writes one.") from error


def save_applied(applied: Applied, output: Path) -> list[Path]:
    """The accelerated output at `output`, the full run's beside it as `<name>-full`, and the figures as apply.json."""
    if applied.generated.frames is None:
        raise InputError("the pipeline returned latents; leave output_type out to get a picture.")
    output.parent.mkdir(parents=True, exist_ok=True)
    files = [save_frames(applied.generated.frames, output)]
    names = {"output": output.name}
    if applied.reference is not None and applied.reference.frames is not None:
        files.append(save_frames(applied.reference.frames, output.with_stem(output.stem + "-full")))
        names["reference"] = files[-1].name
    account = output.with_suffix(".json")
    write_json(applied.to_json() | names, account)
    return [*files, account]


def write_json(data: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
