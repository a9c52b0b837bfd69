"""`janoscope calibrate`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from .options import (
    call_flags,
    force_option,
    hush,
    json_option,
    model_flags,
    progress,
    quiet_option,
    take_call,
    take_model,
    verbose_option,
)


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="MODEL|RUNS...")
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
@click.option("--max-runs", type=click.IntRange(min=1), help="Generations in all [default: 72 for 16 prompts].")
@click.option("--trials", type=click.IntRange(min=1), default=3000, show_default=True, help="Policies scored on the recordings.")
@click.option("--expert", metavar="NAME", help="One network of a model with two (transformer, transformer_2) [default: each].")
@click.option("--boundary", type=float, metavar="SHARE", help="With RUNS: where two experts change over, such as 0.875.")
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
    trials: int,
    expert: str | None,
    boundary: float | None,
    ray: str | None,
    output: Path,
    force: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Find the policy that meets a target for MODEL on prompts like yours, from recordings and a few real runs.

    Half of the prompts are recorded and fitted on, the others held out: on them the few best policies are run against full runs.
    Of recordings alone (files, directories, manifests) the policy is found by replay, and nothing is validated.
    """
    from ..report.calibration import render_calibration
    from ..study.calibrate import Effort
    from ..study.calibration import write_calibration

    target = _target(target_compute, target_speedup, target_psnr, pareto)
    effort = Effort(max_runs, trials, options["seed"], ray)
    place = _Place(output, force, quiet)
    if _are_recordings(sources):
        _refuse_model_options(sources, options, prompts, prompts_file, max_runs)
        found = _of_recordings(place, sources, target, effort, boundary, expert, options["probe"])
    else:
        if boundary is not None:
            raise click.UsageError("--boundary is for RUNS; a MODEL's pipeline says it itself.")
        if not verbose:
            hush()
        given = _prompts(prompts, prompts_file, prompt_column)
        found = _of_model(place, sources[0], options, given, target, effort, expert)
    files = [*write_calibration(found, output), *render_calibration(output)]
    click.echo(json.dumps(json.loads((output / "calibration.json").read_text()), indent=1) if as_json else str(found))
    if not as_json:
        for file in files:
            click.echo(f"Wrote {file}")
        if found.reached and not _are_recordings(sources):
            click.echo(f"Next: janoscope apply {sources[0]} -p PROMPT --policy {output / 'policy.toml'} --reference")
    sys.exit(0 if found.reached else 1)


class _Place:
    """Where a calibration lies, and how it tells of its stages."""

    def __init__(self, directory: Path, force: bool, quiet: bool):
        self.directory, self._force, self._quiet = directory, force, quiet

    def open(self, recipe: dict[str, Any]) -> None:
        from ..study.calibrate_directory import open_directory

        if open_directory(self.directory, recipe, self._force) and not self._quiet:
            click.echo(f"going on with what lies in {self.directory}", err=True)

    def progress(self, label: str) -> Any:
        return progress(label, self._quiet, unit="candidate" if label == "search" else "run")

    @contextmanager
    def kept_at_a_stop(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            click.echo(f"What was done lies in {self.directory}; the same command goes on with it.", err=True)
            raise


def _of_model(
    place: _Place, model: str, options: dict[str, Any], prompts: list[str], target: Any, effort: Any, expert: str | None
) -> Any:
    from ..study.calibrate import calibrate_model
    from ..study.calibrate_budget import Budget

    Budget.of(len(prompts), effort.max_runs)  # refused before a model is loaded or a directory made
    load = take_model({**options, "model": model})
    call = take_call({**options, "prompt": prompts[0]})
    place.open({"load": load, "call": vars(call) | {"prompt": None, "seed": None}})
    with place.kept_at_a_stop():
        return calibrate_model(
            place.directory, load, call, prompts, target, effort=effort, expert=expert, progress=place.progress
        )


def _of_recordings(
    place: _Place,
    sources: tuple[str, ...],
    target: Any,
    effort: Any,
    boundary: float | None,
    expert: str | None,
    probe: Path | None,
) -> Any:
    from ..study.calibrate import calibrate_recordings, refuse_unmeasured
    from ..study.shards import gather_shards

    refuse_unmeasured(target)
    shards = gather_shards([Path(source) for source in sources])
    place.open({"recordings": [str(path) for path in shards.paths], "boundary": boundary, "probe": probe})
    with place.kept_at_a_stop():
        told = {"boundary": boundary, "expert": expert, "probe": probe}
        return calibrate_recordings(place.directory, shards, target, effort=effort, progress=place.progress, **told)


def _target(compute: float | None, speedup: float | None, psnr: float | None, pareto: bool) -> Any:
    from ..study.calibrate_choice import Target

    given = [("compute", compute), ("speedup", speedup), ("psnr", psnr), ("pareto", 0.0 if pareto else None)]
    known = [(kind, value) for kind, value in given if value is not None]
    if len(known) != 1:
        raise click.UsageError("give one of --target-compute, --target-speedup, --target-psnr and --pareto.")
    return Target(*known[0])  # type: ignore[arg-type]


def _are_recordings(sources: tuple[str, ...]) -> bool:
    """Files, and directories without a model in them, are recordings; anything else is a model."""
    kinds = {_is_recording(Path(source)) for source in sources}
    if len(kinds) > 1 or (kinds == {False} and len(sources) > 1):
        raise click.UsageError(f"{' '.join(sources)}: give one MODEL, or recordings (files, directories, manifests), not both.")
    return kinds == {True}


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


def _prompts(given: tuple[str, ...], file: Path | None, column: str | None) -> list[str]:
    from ..errors import InputError
    from ..study.prompts import read_prompts

    if column is not None and file is None:
        raise InputError("--prompt-column has no effect without --prompts. Leave it out.")
    prompts = [*given, *(prompt.text for prompt in (read_prompts(file, column) if file else ()))]
    if not prompts:
        raise click.UsageError("give two prompts or more with -p PROMPT, or --prompts FILE.")
    return list(dict.fromkeys(prompts))
