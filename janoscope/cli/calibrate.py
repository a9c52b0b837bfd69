"""`janoscope calibrate`."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .command import collected, command
from .options import (
    COUNT,
    CallFlags,
    ModelFlags,
    PromptFlags,
    Reporting,
    announce,
    as_argument,
    call_options,
    force_option,
    grouped,
    hush,
    model_flags,
    output_option,
    prompt_options,
    reporting_options,
)
from .progress import progress

if TYPE_CHECKING:
    from ..workflows.calibrate.result import Calibration
    from ..workflows.calibrate.stages import Effort
    from ..workflows.calibrate.target import Target


@dataclass(frozen=True)
class TargetFlags:
    """What the policy shall reach; exactly one is given."""

    target_compute: float | None
    target_speedup: float | None
    target_psnr: float | None
    pareto: bool

    @property
    def is_empty(self) -> bool:
        return not any(value not in (None, False) for value in vars(self).values())

    def target(self) -> "Target":
        """The one target."""
        from ..workflows.calibrate.target import Target

        by_kind = {"compute": self.target_compute, "speedup": self.target_speedup, "psnr": self.target_psnr}
        by_kind["pareto"] = 0.0 if self.pareto else None
        chosen = [(kind, value) for kind, value in by_kind.items() if value is not None]
        if len(chosen) != 1:
            raise click.UsageError("give one of --target-compute, --target-speedup, --target-psnr and --pareto.")
        return Target(*chosen[0])  # type: ignore[arg-type]


@dataclass(frozen=True)
class SearchFlags:
    """How much work the search may take, and of which network."""

    max_runs: int | None
    candidates: int
    trials: int
    expert: str | None
    boundary: float | None

    def effort(self, seed: int, ray: str | None) -> "Effort":
        from ..workflows.calibrate.stages import Effort

        return Effort(self.max_runs, self.candidates, self.trials, seed, ray)


@command(
    "Find the policy that meets a target for your model",
    """janoscope calibrate demo --target-compute 0.5 --prompts prompts.txt -o half
janoscope calibrate runs --target-compute 0.5 -o half""",
)
@click.argument("sources", nargs=-1, required=True, metavar="[MODEL] [RUNS...]")
@collected(
    "targets",
    TargetFlags,
    (
        grouped("Target", "--target-compute", type=float, metavar="C", help="FLOPs as a share of the full run, such as 0.5."),
        grouped(
            "Target", "--target-speedup", type=float, metavar="S", help="Wall time of the full run over that of the policy here."
        ),
        grouped("Target", "--target-psnr", type=float, metavar="P", help="The least compute with this mean PSNR (dB)."),
        grouped("Target", "--pareto", is_flag=True, help="The whole Pareto front, a policy for each of its points."),
    ),
)
@prompt_options
@collected(
    "searching",
    SearchFlags,
    (
        grouped("Search", "--max-runs", type=COUNT, help="Generations in all [default: 80 for 16 prompts]."),
        grouped(
            "Search", "--candidates", type=COUNT, default=4, show_default=True, help="Policies run on every held-out prompt."
        ),
        grouped("Search", "--trials", type=COUNT, default=3000, show_default=True, help="Policies scored on the recordings."),
        grouped(
            "Search",
            "--expert",
            metavar="NAME",
            help="One network of a model with two (transformer, transformer_2) [default: each].",
        ),
        grouped(
            "Search",
            "--boundary",
            type=float,
            metavar="SHARE",
            help="With RUNS: where two experts change over, such as 0.875.",
        ),
    ),
)
@grouped(
    "Search",
    "--export",
    "tools",
    multiple=True,
    type=click.Choice(["teacache", "magcache"]),
    help="From RUNS made with `record --for`: calibrate another tool's cache instead of a policy.",
)
@model_flags
@call_options
@output_option("calibration", "A directory.")
@force_option
@reporting_options
def calibrate(
    sources: tuple[str, ...],
    targets: TargetFlags,
    prompting: PromptFlags,
    searching: SearchFlags,
    tools: tuple[str, ...],
    loading: ModelFlags,
    calling: CallFlags,
    output: Path,
    force: bool,
    reporting: Reporting,
) -> None:
    """Find the policy that meets a target for MODEL on prompts like yours, from recordings and a few real runs.

    Two in five prompts are recorded and fitted on, the others held out: on them the few best policies are run against full runs.
    Recordings (files, directories, manifests) given beside MODEL are searched on as well. With recordings alone the policy is
    found by replay, and nothing is validated.
    """
    model, recordings = _parted(sources)
    job = Job(model, recordings, prompting, searching, loading, calling)
    if tools:
        _refuse_policy_options(model, targets)
        job.refuse_model_options()
        _export(sources, tools, output, loading.probe, searching.boundary, force, reporting.as_json)
        return
    target = targets.target()
    if model is None:
        job.refuse_model_options()
    else:
        if searching.boundary is not None:
            raise click.UsageError("--boundary is for RUNS; a MODEL's pipeline says it itself.")
        announce(model, reporting.quiet)
        if not reporting.verbose:
            hush()
    from ..report.calibration import render_calibration
    from ..workflows.calibrate.directory import lacks_its_page

    job.check_inputs()
    if not force and lacks_its_page(output, target):
        _draw_missing_page(output)
    with _kept_at_a_stop(output):
        result = job.run(output, target, force, reporting.quiet)
    render_calibration(output)
    if reporting.as_json:
        click.echo((output / "calibration.json").read_text(encoding="utf-8").rstrip())
    else:
        _say(result, output, model)
    sys.exit(0 if result.reached else 1)


@dataclass(frozen=True)
class Job:
    """What is calibrated from what: a model, recordings, or both."""

    model: str | None
    recordings: list[str]
    prompting: PromptFlags
    searching: SearchFlags
    loading: ModelFlags
    calling: CallFlags

    def texts(self) -> list[str]:
        return self.prompting.texts("two prompts or more with -p PROMPT")

    def check_inputs(self) -> None:
        """Refuse a model, probe or prompts that do not exist, before anything is written."""
        from ..pipeline.inputs import check_model

        if self.model is not None:
            self.texts()
            check_model(self.model, revision=self.loading.revision, probe=self.loading.probe)

    def run(self, output: Path, target: "Target", force: bool, quiet: bool) -> "Calibration":
        from ..workflows.calibrate.stages import calibrate as run_calibration
        from ..workflows.calibrate.stages import calibrate_recordings

        searching = self.searching
        effort = searching.effort(self.calling.seed, self.prompting.ray)
        on_stage = lambda label: progress(label, quiet, unit="candidate" if label == "search" else "run")
        on_resume = lambda: click.echo(f"continuing with what lies in {output}", err=True)
        if self.model is None:
            return calibrate_recordings(
                self.recordings,
                target,
                directory=output,
                effort=effort,
                boundary=searching.boundary,
                expert=searching.expert,
                probe=self.loading.probe,
                force=force,
                progress=on_stage,
                on_resume=on_resume,
            )
        prompts = self.texts()
        return run_calibration(
            self.model,
            prompts,
            target,
            directory=output,
            recordings=self.recordings,
            options=self.loading.options(),
            call=self.calling.options(prompts[0]),
            effort=effort,
            expert=searching.expert,
            force=force,
            progress=on_stage,
            on_resume=on_resume,
        )

    def refuse_model_options(self) -> None:
        """An option that has no effect is refused, not ignored."""
        options = {**vars(self.loading), **vars(self.calling), "max_runs": self.searching.max_runs}
        options |= {"prompt": self.prompting.prompts, "prompts": self.prompting.prompts_file}
        idle = [name for name, value in options.items() if value not in (None, ()) and name not in ("seed", "probe")]
        if idle:
            flags = ", ".join("--call" if name == "extra" else f"--{name.replace('_', '-')}" for name in idle)
            raise click.UsageError(f"{flags} has no effect on recordings ({self.recordings[0]}); name a MODEL, or leave it out.")


def _say(result: "Calibration", output: Path, model: str | None) -> None:
    from ..results.few_prompts import few_prompts_words

    click.echo(str(result))
    if few := few_prompts_words(result.main.held_out, "held-out prompts"):
        click.echo(few)
    click.echo(f"Wrote {output}, open {output / 'report.html'}")
    if result.reached and model is not None and (output / "policy.toml").is_file():
        policy = as_argument(output / "policy.toml")
        click.echo(f"Next: janoscope apply {shlex.quote(model)} -p PROMPT --policy {policy} --reference")


def _draw_missing_page(output: Path) -> None:
    """Of a calibration that was stopped between its result and its page; ends the command."""
    from ..report.calibration import read_calibration, render_calibration

    click.echo(f"{output} holds a finished calibration without its page, which is drawn now; --force calibrates again.", err=True)
    render_calibration(output)
    click.echo(f"Wrote {output / 'report.html'}")
    sys.exit(0 if read_calibration(output)["reached"] else 1)


@contextmanager
def _kept_at_a_stop(output: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if output.exists():
            click.echo(f"What was done lies in {output}; the same command continues with it.", err=True)
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
    """Coefficients of other tools' caches, from recordings."""
    from ..workflows.calibrate.step_caches import write_exports

    written = write_exports([Path(source) for source in sources], tools, output, probe=probe, boundary=boundary, force=force)
    for sentence in written[0].left_out:
        click.echo(sentence, err=True)
    for one in written:
        click.echo(one.path.read_text(encoding="utf-8").rstrip() if as_json else one.text)
        click.echo(f"Wrote {one.path}", err=as_json)


def _refuse_policy_options(model: str | None, targets: TargetFlags) -> None:
    """An export has no target, and a model is not run for it."""
    if not targets.is_empty:
        raise click.UsageError(
            "--export finds no policy; leave --target-compute, --target-speedup, --target-psnr and --pareto out."
        )
    if model is not None:
        raise click.UsageError(f"--export reads recordings, and {model} is none; make them with `janoscope record --for TOOL`.")


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
