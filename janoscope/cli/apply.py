"""`janoscope apply`."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InputError
from .command import collected, command
from .options import (
    PATH,
    CallFlags,
    ModelFlags,
    Reporting,
    announce,
    call_options,
    force_option,
    grouped,
    model_options,
    output_option,
    prompt_option,
    reporting_options,
)
from .parallel import PairFlags, follows, paired, parallel_options
from .progress import emphasised, progress

if TYPE_CHECKING:
    from ..pipeline.call import CallOptions
    from ..pipeline.model import Model
    from ..plan import Cache, Plan, Policy
    from ..workflows.apply.session import Applied


@dataclass(frozen=True)
class RuleFlags:
    """What decides which tokens a step computes, and how the run is checked."""

    policy: str | None
    plan_file: Path | None
    any_prompt: bool
    reference: bool
    strict: bool


@dataclass(frozen=True)
class CacheFlags:
    """Another cache strategy than the policy's."""

    strategy: str | None
    device_mib: float | None
    window: int | None

    def cache(self) -> "Cache | None":
        """The strategy asked for; None where nothing was."""
        from ..plan import Cache

        table = {name: value for name, value in vars(self).items() if value is not None}
        return Cache.from_table(table, "--cache") if table else None


@command(
    "Generate by a policy or a plan, skipping tokens or steps",
    """janoscope apply demo -p "a red apple on grass" --policy demo/best-step --reference
janoscope apply demo -p "a red apple on grass" --seed 3 --steps 30 --plan run/plan.json -o fast.png""",
)
@model_options
@prompt_option
@call_options
@collected(
    "rules",
    RuleFlags,
    (
        grouped("Schedule", "--policy", help="A preset name or a policy file; the plan is made after the warm-up."),
        grouped("Schedule", "--plan", "plan_file", type=PATH, help="plan.json of `janoscope analyze`."),
        grouped("Schedule", "--any-prompt", is_flag=True, help="Accept a plan made for another prompt or seed."),
        grouped("Check", "--reference", is_flag=True, help="Make the full run too and print PSNR, SSIM and speedup."),
        grouped("Check", "--strict", is_flag=True, help="Exit code 1 when less than 5 % of the FLOPs are saved."),
    ),
)
@collected(
    "caching",
    CacheFlags,
    (
        grouped(
            "Cache",
            "--cache",
            "strategy",
            metavar="STRATEGY",
            help="What is cached of skipped tokens: kv, hidden, kv-fp8, kv-int8, offload.",
        ),
        grouped(
            "Cache",
            "--device-mib",
            type=float,
            help="With --cache offload: MiB of the cache that may stay on the device [default: 0].",
        ),
        grouped("Cache", "--window", type=int, help="With --cache offload: layers fetched ahead [default: 2]."),
    ),
)
@parallel_options
@output_option("out.png", "The image or video.")
@force_option
@reporting_options
def apply(
    model: str,
    loading: ModelFlags,
    prompt: str,
    calling: CallFlags,
    rules: RuleFlags,
    caching: CacheFlags,
    pairing: PairFlags,
    output: Path,
    force: bool,
    reporting: Reporting,
) -> None:
    """Generate with MODEL under a policy or a plan, and report what was computed."""
    if (rules.policy is None) == (rules.plan_file is None):
        raise click.UsageError("give --policy NAME|FILE or --plan FILE, one of the two.")
    if rules.any_prompt and rules.plan_file is None:
        raise click.UsageError("--any-prompt has no effect without --plan: a policy fits any prompt. Leave it out.")
    cache = caching.cache()
    announce(model, reporting.quiet)
    from ..pipeline.inputs import check_model, inputs_first
    from ..results.plan_file import read_plan
    from ..workflows.apply.departures import departures_of_run
    from ..workflows.apply.files import refuse_output
    from ..workflows.apply.session import save_applied

    options = calling.options(prompt)
    if (options.extra or {}).get("output_type") == "latent":
        raise InputError("--call output_type: apply writes an image, which latents are not yet. Leave it out.")
    plan = read_plan(rules.plan_file) if rules.plan_file else None
    with inputs_first(lambda: check_model(model, revision=loading.revision, probe=loading.probe, policy=rules.policy)):
        refuse_output(output, reference=rules.reference, force=force, keep=rules.plan_file)
    with paired(pairing) as pair:
        loaded = loading.load(model, reporting.verbose, pair)
        policy = loaded.policy(rules.policy) if rules.policy else None
        applied = _generate(loaded, options, Schedule(policy, plan, rules.any_prompt, cache, rules.reference), reporting.quiet)
    failed = rules.strict and applied.account.warning is not None
    if follows(pair):
        sys.exit(1 if failed else 0)
    for departure in departures_of_run(policy, applied.plan.fingerprint) if policy else ():
        click.echo(departure, err=True)
    files = save_applied(applied, output)
    if rules.plan_file is not None:
        files += _drawn_again(rules.plan_file, output)
    if reporting.as_json:
        click.echo(json.dumps(applied.to_json(), indent=1, allow_nan=False))
    else:
        _say(applied, files)
    if applied.account.warning:
        click.echo(applied.account.warning, err=True)
    sys.exit(1 if failed else 0)


@dataclass(frozen=True)
class Schedule:
    """The policy or the plan in force, read and checked."""

    policy: "Policy | None"
    plan: "Plan | None"
    any_prompt: bool
    cache: "Cache | None"
    reference: bool

    def letters(self, steps: int) -> str:
        """One letter for the kind of each step, as the progress bar shows them."""
        from ..plan import ladder, step_kinds

        return ladder(step_kinds(self.policy, steps) if self.policy else self.plan.step_kind if self.plan else ())


def _generate(model: "Model", options: "CallOptions", schedule: Schedule, quiet: bool) -> "Applied":
    """One accelerated generation; warnings and departures from what the policy was measured on go to stderr before it."""
    from ..pipeline.call import make_call
    from ..workflows.apply.departures import departures_of_call, measured_words
    from ..workflows.apply.session import apply_model

    call, policy = make_call(model, options), schedule.policy
    notices = list(call.warnings)
    if policy:
        notices += [measured_words(policy, model.name) or "", *departures_of_call(policy, model, call)]
    for notice in () if follows(model.pair) else filter(None, notices):
        click.echo(notice, err=True)
    with progress("apply", quiet or follows(model.pair), letters=schedule.letters) as on_step:
        return apply_model(
            model,
            call,
            policy=policy,
            plan=schedule.plan,
            any_prompt=schedule.any_prompt,
            cache=schedule.cache,
            reference=schedule.reference,
            on_step=on_step,
        )


def _drawn_again(plan_file: Path, output: Path) -> list[Path]:
    """The page of the analysis that the plan is of, with what was measured; none where this run's results lie elsewhere."""
    from ..report import render_analysis
    from ..report.analysis.applied import FACTS

    directory = output.parent
    if output.with_suffix(".json").name != FACTS or not (directory / "analysis.json").is_file():
        return []
    if plan_file.resolve().parent != directory.resolve():
        return []
    try:
        return [render_analysis(directory)]
    except InputError as error:
        click.echo(f"the page is not drawn again: {error}", err=True)
        return []


def _say(applied: "Applied", files: list[Path]) -> None:
    """The run summary, what was written, and last how far the result is from the full run."""
    click.echo(str(applied.account))
    if applied.processes > 1:
        click.echo("tokens, cache and FLOPs are those of one of two processes, each with a guidance branch of its own")
    for file in files:
        click.echo(f"Wrote {file}")
    if applied.psnr is not None and applied.ssim is not None:
        quality = "identical" if math.isinf(applied.psnr) else f"PSNR {applied.psnr:.2f} dB, SSIM {applied.ssim:.4f}"
        line = f"against the full run: {quality}, speedup {applied.speedup:.2f}x in wall time, one pair of warm runs"
        click.echo(emphasised(line))
