"""`janoscope demo`."""

from functools import partial
from pathlib import Path

import click

from .command import command
from .options import announce, force_option, grouped, hush, output_option, quiet_option, verbose_option
from .progress import emphasised, progress


@command("Record, analyze, apply and report on a bundled model", "janoscope demo -o janoscope-demo")
@grouped("Model", "--model", default="demo", show_default=True, help="demo, or a directory of your own with a janoscope.toml.")
@output_option("janoscope-demo", "Directory.")
@force_option
@quiet_option
@verbose_option
def demo(output: Path, model: str, force: bool, quiet: bool, verbose: bool) -> None:
    """Show every stage on the bundled image model: record, analyze, apply, report. Takes about a minute."""
    announce(model, quiet)
    from ..pipeline.inputs import check_model, inputs_first
    from ..report import render_analysis
    from ..workflows.demo import demonstrate
    from ..workflows.record.session import refuse_existing

    if not verbose:
        hush()
    with inputs_first(lambda: check_model(model)):
        refuse_existing(output / "run.h5", force)
    shown = demonstrate(output, partial(progress, quiet=quiet), model=model, force=force)
    click.echo(shown.analysis.plan.describe())
    click.echo(str(shown.applied.account))
    applied = shown.applied
    report = render_analysis(output, recording=shown.recorded.path)
    click.echo(f"Wrote {report}")
    click.echo(
        f"Saved {1 - applied.account.compute:.0%} of the FLOPs ({applied.speedup:.2f}x in wall time here, one pair of runs) "
        f"at PSNR {applied.psnr:.1f} dB, SSIM {applied.ssim:.4f} against the full run. Open {report}"
    )
    click.echo(emphasised(shown.analysis.verdict))
