"""`janoscope schedule`."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .command import command
from .options import PATH, force_option, grouped, json_option, output_option, quiet_option
from .progress import progress

if TYPE_CHECKING:
    from ..workflows.schedule.search import Proposal, RecordedSteps

_BLOCKS = "▁▂▃▄▅▆▇█"


@command("Find the steps worth computing, from recordings", "janoscope schedule runs/*.h5 --compute 0.28 -o fast.toml")
@click.argument("runs", type=PATH, nargs=-1, required=True, metavar="RUN...")
@grouped("Search", "--compute", type=float, required=True, metavar="SHARE", help="Share of steps to compute, such as 0.28.")
@grouped(
    "Search",
    "--skipped",
    type=click.Choice(["corrected", "forecast", "hold"]),
    default="corrected",
    show_default=True,
    help="What the sampler gets at skipped steps.",
)
@grouped(
    "Search",
    "--growth",
    type=float,
    default=1.0,
    show_default=True,
    help="How fast an error grows through the run; higher: more early steps.",
)
@grouped("Search", "--learn/--no-learn", default=True, show_default=True, help="Fit coefficients where recordings suffice.")
@output_option("schedule.toml", "The policy.")
@force_option
@json_option
@quiet_option
def schedule(
    runs: tuple[Path, ...],
    compute: float,
    skipped: str,
    growth: float,
    learn: bool,
    output: Path,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the steps worth computing, from recordings of full runs, and write them as a policy.

    Take eight recordings or more, of other prompts than those you will judge by, for a schedule that carries over.
    """
    from ..results.writing import refuse_existing
    from ..workflows.schedule.search import front, propose, reduce_recordings

    refuse_existing(output, force)
    with progress("read", quiet, unit="recording") as on_step:
        done: list[Path] = []

        def count(path: Path) -> None:
            done.append(path)
            if on_step is not None:
                on_step(len(done), len(runs))

        recorded = reduce_recordings(runs, count)
    proposal = propose(recorded, compute, output=skipped, growth=growth, learn=learn)
    rows = front(recorded, output=skipped, growth=growth)
    output.write_text(proposal.policy.to_toml(), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(_facts(recorded, proposal, rows), indent=1))
    else:
        click.echo(_words(recorded, proposal, rows))
    click.echo(f"Wrote {output}\nNext: janoscope apply {recorded.model} -p PROMPT --policy {output} --reference", err=as_json)


def _facts(recorded: "RecordedSteps", proposal: "Proposal", rows: list[dict[str, object]]) -> dict[str, object]:
    return {
        "policy": proposal.policy.to_json(),
        "error_db": _decibel(proposal.error),
        "learned": bool(proposal.policy.learned),
        "front": rows,
        "curvature": [None if math.isnan(value) else value for value in recorded.curvature().tolist()],
        "fidelity": [None if math.isnan(value) else value for value in recorded.fidelity().tolist()],
        "recordings": len(recorded.grams),
    }


def _words(recorded: "RecordedSteps", proposal: "Proposal", rows: list[dict[str, object]]) -> str:
    computed = set(proposal.path.computed)
    bends = recorded.curvature()
    finite = [value for value in bends if not math.isnan(value)]
    top = max(finite) or 1.0
    line = "".join(" " if math.isnan(v) else _BLOCKS[min(7, int(8 * v / top))] for v in bends)
    steps = "".join("C" if step in computed else "." for step in range(recorded.steps))
    several = len(recorded.grams)
    lines = [
        f"{several} recording{'s' if several > 1 else ''} of {recorded.model}, {recorded.scheduler}, {recorded.steps} steps",
        f"curvature  {line}",
        f"schedule   {steps}",
        f"computed   {', '.join(map(str, proposal.path.computed))}",
        "",
        "computed  share  predicted error of the final latent",
        *(f"{row['computed']:8d}  {row['share']:5.2f}  {row['error_db']:6.1f} dB" for row in rows),
        "",
        f"Computes {len(computed)} of {recorded.steps} steps, {len(computed) / recorded.steps:.0%} of the FLOPs; predicted error "
        f"{_decibel(proposal.error):.1f} dB{', with learned coefficients' if proposal.policy.learned else ''}.",
    ]
    if several < 8:
        lines.append(f"{several} recordings are few: take 8 or more, of prompts that you will not judge by.")
    return "\n".join(lines)


def _decibel(error: float) -> float:
    return 10 * math.log10(max(error, 1e-12))
