"""`janoscope calibrate`."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from .options import (
    all_prompts,
    as_argument,
    call_flags,
    force_option,
    hush,
    json_option,
    model_flags,
    quiet_option,
    take_call,
    take_model,
    verbose_option,
)
from .progress import progress


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="[MODEL] [RUNS...]")
@click.option("--target-compute", type=float, metavar="C", help="FLOPs against the full run, such as 0.5.")
@click.option("--target-speedup", type=float, metavar="S", help="Wall time of the full run over ours on this device.")
@click.option("--target-psnr", type=float, metavar="P", help="The least compute with this mean PSNR (dB).")
@click.option("--pareto", is_flag=True, help="The whole front, a policy for each of its points.")
@click.option("-p", "--prompt", "prompts", multiple=True, help="What to generate; give it several times.")
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(path_type=Path),
    help="A file of prompts: text, CSV, TSV, JSON, JSONL or Parquet.",
)
@click.option("--prompt-column", metavar="NAME", help="Its column of prompts [default: prompt, prompt_en, caption or text].")
@click.option("--max-runs", type=click.IntRange(min=1), help="Generations in all [default: 80 for 16 prompts].")
@click.option(
    "--candidates", type=click.IntRange(min=1), default=4, show_default=True, help="Policies run on every held-out prompt."
)
@click.option("--trials", type=click.IntRange(min=1), default=3000, show_default=True, help="Policies scored on the recordings.")
@click.option("--expert", metavar="NAME", help="One network of a model with two (transformer, transformer_2) [default: each].")
@click.option("--boundary", type=float, metavar="SHARE", help="With RUNS: where two experts change over, such as 0.875.")
@click.option(
    "--export",
    "tools",
    multiple=True,
    type=click.Choice(["teacache", "magcache"]),
    help="Of RUNS made with `record --for`: what another tool's cache is calibrated with, instead of a policy.",
)
@click.option("--ray", metavar="ADDRESS", help="Spread recording, replay and validation over a Ray cluster.")
@model_flags
@call_flags
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("calibration"), show_default=True, help="A directory."
)
@force_option
@json_option
@quiet_option
@verbose_option
def calibrate(
    sources: tuple[str, ...],
    target_compute: float | None,
    target_speedup: float | None,
    target_psnr: float | None,
    pareto: bool,
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    prompt_column: str | None,
    max_runs: int | None,
    candidates: int,
    trials: int,
    expert: str | None,
    boundary: float | None,
    tools: tuple[str, ...],
    ray: str | None,
    output: Path,
    force: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Find the policy that meets a target for MODEL on prompts like yours, from recordings and a few real runs.

    Two in five prompts are recorded and fitted on, the others held out: on them the few best policies are run against full runs.
    Recordings (files, directories, manifests) given beside MODEL are searched on as well. Of recordings alone the policy is found
    by replay, and nothing is validated.
    """
    from ..pipeline.inputs import check_model
    from ..pipeline.model import ModelOptions
    from ..report.calibration import render_calibration
    from ..results.few_prompts import few_prompts_words
    from ..workflows.calibrate.directory import lacks_its_page
    from ..workflows.calibrate.stages import Effort
    from ..workflows.calibrate.stages import calibrate as run_calibration

    if tools:
        _refuse_policy_options(sources, target_compute, target_speedup, target_psnr, pareto)
        _refuse_model_options(sources, options, prompts, prompts_file, max_runs)
        _export(sources, tools, output, options["probe"], boundary, force, as_json)
        return
    target = _target(target_compute, target_speedup, target_psnr, pareto)
    told: dict[str, Any] = {
        "effort": Effort(max_runs, candidates, trials, options["seed"], ray),
        "expert": expert,
        "force": force,
    }
    model, recordings = _parted(sources)
    if model is None:
        _refuse_model_options(sources, options, prompts, prompts_file, max_runs)
        told |= {"boundary": boundary, "load": ModelOptions(probe=options["probe"])}
    else:
        if boundary is not None:
            raise click.UsageError("--boundary is for RUNS; a MODEL's pipeline says it itself.")
        if not verbose:
            hush()
        given = all_prompts(prompts, prompts_file, prompt_column, "two prompts or more with -p PROMPT")
        check_model(model, revision=options["revision"], probe=options["probe"])
        _, load = take_model({**options, "model": model})
        call = take_call({**options, "prompt": given[0]})
        told |= {"prompts": given, "load": load, "call": call, "recordings": recordings}
    if not force and lacks_its_page(output, target):
        _draw_missing_page(output)
    with _kept_at_a_stop(output):
        found = run_calibration(
            model or recordings,
            output,
            target,
            progress=lambda label: progress(label, quiet, unit="candidate" if label == "search" else "run"),
            on_resume=lambda: click.echo(f"going on with what lies in {output}", err=True),
            **told,
        )
    drawn = render_calibration(output)
    if as_json:
        click.echo((output / "calibration.json").read_text(encoding="utf-8").rstrip())
    else:
        click.echo(str(found))
        if few := few_prompts_words(found.main.held_out, "held-out prompts"):
            click.echo(few)
        for file in [*sorted(output.glob("policy*.toml")), output / "calibration.json", *drawn]:
            click.echo(f"Wrote {file}")
        if found.reached and model is not None and (output / "policy.toml").is_file():
            policy = as_argument(output / "policy.toml")
            click.echo(f"Next: janoscope apply {shlex.quote(model)} -p PROMPT --policy {policy} --reference")
    sys.exit(0 if found.reached else 1)


def _draw_missing_page(output: Path) -> None:
    """Of a calibration that was stopped between its result and its page; ends the command."""
    from ..report.calibration import read_calibration, render_calibration

    click.echo(f"{output} holds a finished calibration without its page, which is drawn now; --force calibrates anew.", err=True)
    for file in render_calibration(output):
        click.echo(f"Wrote {file}")
    sys.exit(0 if read_calibration(output)["reached"] else 1)


@contextmanager
def _kept_at_a_stop(output: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if output.exists():
            click.echo(f"What was done lies in {output}; the same command goes on with it.", err=True)
        raise


def _export(
    sources: tuple[str, ...],
    tools: tuple[str, ...],
    output: Path,
    probe: Path | None,
    boundary: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Other tools' figures from recordings."""
    from ..workflows.calibrate.step_caches import write_exports

    written = write_exports([Path(source) for source in sources], tools, output, probe=probe, boundary=boundary, force=force)
    for sentence in written[0].left_out:
        click.echo(sentence, err=True)
    for one in written:
        click.echo(one.path.read_text(encoding="utf-8").rstrip() if as_json else one.text)
        click.echo(f"Wrote {one.path}", err=as_json)


def _refuse_policy_options(sources: tuple[str, ...], *targets: float | bool | None) -> None:
    """An export has no target, and a model is not run for it."""
    if any(target not in (None, False) for target in targets):
        raise click.UsageError(
            "--export finds no policy; leave --target-compute, --target-speedup, --target-psnr and --pareto out."
        )
    if (model := _parted(sources)[0]) is not None:
        raise click.UsageError(f"--export reads recordings, and {model} is none; make them with `janoscope record --for TOOL`.")


def _target(compute: float | None, speedup: float | None, psnr: float | None, pareto: bool) -> Any:
    from ..workflows.calibrate.target import Target

    given = [("compute", compute), ("speedup", speedup), ("psnr", psnr), ("pareto", 0.0 if pareto else None)]
    known = [(kind, value) for kind, value in given if value is not None]
    if len(known) != 1:
        raise click.UsageError("give one of --target-compute, --target-speedup, --target-psnr and --pareto.")
    return Target(*known[0])  # type: ignore[arg-type]


def _parted(sources: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """(model, recordings). Files, and directories without a model in them, are recordings; anything else is a model."""
    recordings = [source for source in sources if _is_recording(Path(source))]
    models = [source for source in sources if source not in recordings]
    if len(models) > 1:
        raise click.UsageError(
            f"{' and '.join(models)}: give one MODEL, and recordings (files, directories, manifests) that exist beside it."
        )
    return (models[0] if models else None), recordings


def _is_recording(path: Path) -> bool:
    if path.suffix in (".h5", ".jsonl"):
        return True
    return path.is_dir() and not (path / "model_index.json").is_file()


def _refuse_model_options(
    sources: tuple[str, ...], options: dict[str, Any], prompts: tuple[str, ...], file: Path | None, max_runs: int | None
) -> None:
    """An option that has no effect is refused, not ignored."""
    idle = [name for name, value in options.items() if value not in (None, ()) and name not in ("seed", "probe")]
    idle += ["prompt"] * bool(prompts) + ["prompts"] * (file is not None) + ["max_runs"] * (max_runs is not None)
    if idle:
        flags = ", ".join("--call" if name == "extra" else f"--{name.replace('_', '-')}" for name in idle)
        raise click.UsageError(f"{flags} has no effect on recordings ({sources[0]}); name a MODEL, or leave it out.")
