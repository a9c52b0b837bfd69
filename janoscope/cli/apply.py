"""`janoscope apply`."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .options import call_options, force_option, json_option, load, model_options, quiet_option, take_call, verbose_option
from .parallel import follows, paired, parallel_options
from .progress import progress

if TYPE_CHECKING:
    from ..workflows.apply.session import Applied


@click.command()
@model_options
@call_options
@parallel_options
@click.option("--policy", help="A preset name or a policy file; the plan is made after the warm-up.")
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), help="plan.json of `janoscope analyze`.")
@click.option("--any-prompt", is_flag=True, help="Accept a plan made for another prompt or seed.")
@click.option(
    "--cache", "strategy", metavar="STRATEGY", help="What is kept of skipped tokens: kv, hidden, kv-fp8, kv-int8, offload."
)
@click.option("--device-mib", type=float, help="Of --cache offload: MiB of the cache that may stay on the device [default: 0].")
@click.option("--window", type=int, help="Of --cache offload: layers fetched ahead [default: 2].")
@click.option("--reference", is_flag=True, help="Make the full run too and print PSNR, SSIM and speedup.")
@click.option("--strict", is_flag=True, help="Exit code 1 when less than 5 % of the FLOPs are saved.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out.png"), show_default=True)
@force_option
@json_option
@quiet_option
@verbose_option
def apply(
    policy: str | None,
    plan_file: Path | None,
    any_prompt: bool,
    strategy: str | None,
    device_mib: float | None,
    window: int | None,
    reference: bool,
    strict: bool,
    output: Path,
    force: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    guidance_parallel: int | None,
    peer_timeout: float | None,
    **options: Any,
) -> None:
    """Generate with MODEL under a policy or a plan, and give an account of what was computed."""
    from ..pipeline.call import make_call
    from ..pipeline.inputs import check_model, inputs_first
    from ..plan import Cache, ladder, step_kinds
    from ..results.plan_file import read_plan
    from ..workflows.apply.departures import departures_of_call, departures_of_run, measured_words
    from ..workflows.apply.files import refuse_output
    from ..workflows.apply.session import apply_model, save_applied

    if (policy is None) == (plan_file is None):
        raise click.UsageError("give --policy NAME|FILE or --plan FILE, one of the two.")
    if any_prompt and plan_file is None:
        raise click.UsageError("--any-prompt has no effect without --plan: a policy fits any prompt. Leave it out.")
    told = {"strategy": strategy, "device_mib": device_mib, "window": window}
    told = {key: value for key, value in told.items() if value is not None}
    cache = Cache.from_table(told, "--cache") if told else None
    asked = take_call(options)
    if (asked.extra or {}).get("output_type") == "latent":
        raise InputError("--call output_type: apply writes a picture, which latents are not yet. Leave it out.")
    plan = read_plan(plan_file) if plan_file else None
    with inputs_first(lambda: check_model(options["model"], revision=options["revision"], probe=options["probe"], policy=policy)):
        refuse_output(output, reference=reference, force=force, keep=plan_file)
    with paired(guidance_parallel, peer_timeout) as pair:
        model = load(options, verbose, pair)
        call = make_call(model, asked)
        rules = model.policy(policy) if policy else None
        notices = [*call.warnings, (measured_words(rules, model.name) or "") if rules else ""]
        notices += departures_of_call(rules, model, call) if rules else []
        for notice in () if follows(pair) else filter(None, notices):
            click.echo(notice, err=True)

        def letters(steps: int) -> str:
            return ladder(step_kinds(rules, steps) if rules else plan.step_kind if plan else ())

        with progress("apply", quiet or follows(pair), ladder=letters) as on_step:
            applied = apply_model(
                model,
                call,
                policy=rules,
                plan=plan,
                any_prompt=any_prompt,
                cache=cache,
                reference=reference,
                on_step=on_step,
            )
    failed = strict and applied.account.warning is not None
    if follows(pair):
        sys.exit(1 if failed else 0)
    for departure in departures_of_run(rules, applied.plan.fingerprint) if rules else ():
        click.echo(departure, err=True)
    files = save_applied(applied, output)
    if plan_file is not None:
        files += _drawn_again(plan_file, output)
    if as_json:
        click.echo(json.dumps(applied.to_json(), indent=1, allow_nan=False))
    else:
        _tell(applied, files)
    if applied.account.warning:
        click.echo(applied.account.warning, err=True)
    sys.exit(1 if failed else 0)


def _drawn_again(plan_file: Path, output: Path) -> list[Path]:
    """The page of the analysis that the plan is of, with what was measured; none where this run's figures are not beside it."""
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


def _tell(applied: "Applied", files: list[Path]) -> None:
    """The account, how far from the full run, and what was written."""
    click.echo(str(applied.account))
    if applied.processes > 1:
        click.echo("tokens, cache and FLOPs are those of one of two processes, each with a guidance branch of its own")
    if applied.psnr is not None and applied.ssim is not None:
        quality = "identical" if math.isinf(applied.psnr) else f"PSNR {applied.psnr:.2f} dB, SSIM {applied.ssim:.4f}"
        click.echo(f"against the full run: {quality}, speedup {applied.speedup:.2f}x in wall time, one pair of runs")
    for file in files:
        click.echo(f"Wrote {file}")
