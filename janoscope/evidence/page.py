"""The page of a report: Markdown made of tables, figures and words, the same bytes for the same results."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from ..report.drawing.svg import Drawing
from ..report.page import interval, number
from ..results.writing import made_whole, write_text
from .provenance import Provenance
from .recipe import Recipe, Subject

NOT_MEASURED = "–"
QUICK = "**A quick run: it shows that the machinery works, its figures mean nothing.**"
PNG_DPI = 160


@dataclass(frozen=True)
class SubjectResults:
    """Results of a subject, as they lie in a folder. subject: what the recipe says of it, None where it says nothing."""

    folder: Path
    provenance: Provenance
    subject: Subject | None

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Section:
    """What a report says of a subject.

    result: one sentence with the figures that matter, without the model's name; empty where there is none. blocks: Markdown.
    """

    result: str
    blocks: Sequence[str]


@dataclass
class Figures:
    """Saves a report's figures beside it and gives the Markdown that shows them."""

    report: Path
    written: list[Path] = field(default_factory=list)

    def svg(self, drawing: Drawing, name: str) -> str:
        path = self.path(f"{name}.svg")
        write_text(path, drawing.svg)
        return f"![{_one_line(drawing.alt)}](figures/{path.name})"

    def png(self, figure: Figure, name: str, alt: str) -> str:
        path = self.path(f"{name}.png")
        with made_whole(path) as making:
            figure.savefig(making, format="png", dpi=PNG_DPI, facecolor="white", bbox_inches="tight", metadata={"Software": None})
        return f"![{_one_line(alt)}](figures/{path.name})"

    def path(self, name: str) -> Path:
        """Where a figure of this name goes; it is counted among the written."""
        folder = self.report / "figures"
        folder.mkdir(exist_ok=True)
        self.written.append(folder / name)
        return folder / name


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns whose every cell looks like a number are set to the right."""
    numeric = [bool(rows) and all(_is_figure(row[at]) for row in rows) for at in range(len(heads))]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in (heads, rule, *rows))


def value(figure: object, form: str = ".2f") -> str:
    """A figure in words, a dash where it is null or not finite."""
    finite = number(figure)
    return NOT_MEASURED if finite is None else format(finite, form)


def share(compute: object, digits: int = 0) -> str:
    """`56 % of the FLOPs` of 0.56, a dash in the place of the figure where there is none."""
    return f"{value(compute, f'.{digits}%').replace('%', ' %')} of the FLOPs"


def estimate(figure: object, between: object, form: str = ".2f") -> str:
    """`34.1 [33.0, 35.2]`, without brackets where there is no interval."""
    ends = interval(between)
    return value(figure, form) + ("" if ends is None or number(figure) is None else f" [{ends[0]:{form}}, {ends[1]:{form}}]")


def how_made(recipe: Recipe, results: Sequence[SubjectResults]) -> list[str]:
    """The last section: models, settings, versions, recordings, and the commands that make it again."""
    blocks = ["## How it was made"]
    for one in results:
        blocks += _how_made(one)
    commands = [f"janoscope report reports/{recipe.slug}            # draw again from the results in this folder"]
    commands.append(f"janoscope report reports/{recipe.slug} --remake --force   # make the results again, then draw")
    return [*blocks, "```sh\n" + "\n".join(commands) + "\n```", *_with_weights(recipe)]


def _how_made(one: SubjectResults) -> list[str]:
    provenance = one.provenance
    if not provenance:
        return [f"**{one.name}**: made by its command; the results say how."]
    versions = ", ".join(f"{name} {provenance['versions'][name]}" for name in sorted(provenance.get("versions", {})))
    call = ", ".join(f"{key} {json.dumps(argument)}" for key, argument in provenance.get("call", {}).items())
    facts = [
        f"**{one.name}**: {provenance.get('model')} ({provenance.get('family')}), revision {provenance.get('revision')}, "
        f"on {provenance.get('device')}.",
        f"Call: {call}." if call else "",
        f"Prompts: {'; '.join(provenance.get('prompts', []))}. Seeds: {', '.join(map(str, provenance.get('seeds', [])))}.",
        f"Policy: {provenance['policy']}." if provenance.get("policy") else "",
        f"Versions: {versions}." if versions else "",
        QUICK if provenance.get("quick") else "",
    ]
    blocks = [" ".join(fact for fact in facts if fact)]
    if recordings := provenance.get("recordings"):
        rows = [[r["prompt"], str(r["seed"]), str(r["steps"]), str(r["bytes"]), f"`{r['sha256'][:16]}`"] for r in recordings]
        blocks.append("Recordings, not kept; sha256 shortened:")
        blocks.append(table(("prompt", "seed", "steps", "bytes", "sha256"), rows))
    return blocks


def _with_weights(recipe: Recipe) -> list[str]:
    """The subjects whose weights are not bundled, with the command for each."""
    others = [subject for subject in recipe.subjects if not subject.is_bundled]
    if not others:
        return []
    rows = []
    for subject in others:
        size = " ".join(f"{key} {setting}" for key, setting in subject.call.items())
        command = f"janoscope report reports/{recipe.slug} --remake --model {subject.model}"
        rows.append([subject.model, f"{len(subject.prompts)} x {len(subject.seeds)}", size, f"`{command}`"])
    words = "The same on published weights, which nobody has run here; results go to a folder beside this one:"
    return ["## On other weights", words, table(("model", "prompts x seeds", "call", "command"), rows)]


def _is_figure(cell: str) -> bool:
    return cell == NOT_MEASURED or cell[:1].isdigit() or (cell[:1] in "+-" and cell[1:2].isdigit())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _one_line(text: str) -> str:
    return " ".join(text.replace("[", "(").replace("]", ")").split())
