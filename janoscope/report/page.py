"""What every page is made with: templates, the files they include, and writing them whole."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..results.writing import write_text

OURS = "janoscope"  # stands in the description of every SVG that we draw


def environment() -> Environment:
    """Templates that escape what they are given; the filter `inline` puts a drawing into the page."""
    made = Environment(
        loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["inline"] = lambda drawing: Markup(drawing.inline)  # our own SVG, whose text matplotlib has escaped
    return made


def text_asset(name: str) -> Markup:
    """A style sheet or script of ours, to stand in a page as it is."""
    return Markup((files(__package__) / "templates" / name).read_text(encoding="utf-8"))


def write_whole(path: Path, text: str) -> Path:
    """Whole or not at all, so that an interrupted run leaves the old report readable."""
    return write_text(path, text.encode(errors="replace").decode())  # a prompt may hold lone surrogates


def remove_stale(folder: Path, names: Iterable[str]) -> None:
    """Remove SVGs that an earlier rendering left and that this one did not draw; files that are not ours stay."""
    kept = set(names)
    for path in folder.glob("*.svg"):
        if path.stem not in kept and OURS in _description(path):
            path.unlink()


def _description(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    return text.partition("<dc:description>")[2].partition("</dc:description>")[0]


def sentence(note: Any) -> str:
    """A note as it begins in a page."""
    text = str(note)
    return text[:1].upper() + text[1:]
