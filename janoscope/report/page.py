"""What every page is made with: templates, the files they include, and writing them whole."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..results.writing import write_text

NOT_DEFINED = "–"


OURS = "janoscope"  # stands in the description of every SVG that we draw


def environment() -> Environment:
    """Templates that escape their values; the filter `inline` puts a drawing into the page."""
    templates = Environment(
        loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["inline"] = lambda drawing: Markup(drawing.inline)  # our own SVG, whose text matplotlib has escaped
    return templates


def text_asset(name: str) -> Markup:
    """A style sheet or script of ours, to stand in a page as it is."""
    return Markup((files(__package__) / "templates" / name).read_text(encoding="utf-8"))


def write_whole(path: Path, text: str) -> Path:
    """Whole or not at all, so that an interrupted run leaves the old report readable."""
    return write_text(path, text.encode(errors="replace").decode())  # a prompt may hold lone surrogates


def remove_stale(folder: Path, names: Iterable[str]) -> None:
    """Remove SVGs that an earlier rendering left and that this one did not draw; files that are not ours stay."""
    drawn = set(names)
    for path in folder.glob("*.svg"):
        if path.stem not in drawn and OURS in _description(path):
            path.unlink()


def _description(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    return text.partition("<dc:description>")[2].partition("</dc:description>")[0]


def sentence(note: object) -> str:
    """A note as it begins in a page."""
    text = str(note)
    return text[:1].upper() + text[1:]


def number(value: object) -> float | None:
    """A finite float, or None for everything that means `not defined` (null, NaN, infinity)."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def interval(value: object) -> tuple[float, float] | None:
    """A finite (low, high) pair, or None."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def estimate_words(estimate: Mapping[str, object], name: str, form: str = ".2f") -> str:
    """`0.42 [0.30, 0.51]` of {name: value, "interval": [low, high]}; a dash where it is not defined."""
    value, between = number(estimate.get(name)), interval(estimate.get("interval"))
    if value is None:
        return "–"
    return f"{value:{form}}" + ("" if between is None else f" [{between[0]:{form}}, {between[1]:{form}}]")


@dataclass(frozen=True)
class Cell:
    """text: as shown, note: in small under it. sort: number to sort by, None to sort by the text. colour: of a swatch before."""

    text: str
    sort: float | None = None
    colour: str | None = None
    is_number: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """name: for links and tests. heads: one a column. rows: as many cells as heads each."""

    name: str
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def without_empty_columns(self) -> "Table":
        """The same table less the columns in which nothing was measured; the first column names the rows and stays."""
        filled = [at for at in range(len(self.heads)) if at == 0 or any(row[at].text != NOT_DEFINED for row in self.rows)]
        return replace(self, heads=[self.heads[at] for at in filled], rows=[[row[at] for at in filled] for row in self.rows])

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, and are set to the right."""
        return [any(row[at].is_number for row in self.rows) for at in range(len(self.heads))]


def figure(value: object, form: str = ".3g") -> Cell:
    """A number, or a dash that sorts last where it is not defined."""
    finite = number(value)
    if finite is None:
        return Cell(NOT_DEFINED, float("-inf"), is_number=True)
    return Cell(format(finite, form), finite, is_number=True)


def span(value: object, form: str = ".2f") -> Cell:
    """A pair as `low to high`, sorted by its lower end, or a dash."""
    ends = interval(value)
    if ends is None:
        return Cell(NOT_DEFINED, float("-inf"), is_number=True)
    return Cell(f"{ends[0]:{form}} to {ends[1]:{form}}", ends[0], is_number=True)


def count(value: int) -> Cell:
    return Cell(f"{value:,}".replace(",", " "), value, is_number=True)
