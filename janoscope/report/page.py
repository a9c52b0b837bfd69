"""What every page is made with: templates, the files they include, and writing them whole."""

import json
import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..errors import InputError
from .drawable import drawable

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


def read_facts(directory: Path, kind: str, again: str) -> dict[str, Any]:
    """The content of a result, `{kind}.json`. again: how to make it anew, where it is missing, damaged or of another version."""
    path, schema = directory / f"{kind}.json", f"janoscope-{kind}/1"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{directory} holds no {path.name}; {again}.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}; {again}.") from error
    if not isinstance(facts, dict) or facts.get("schema") != schema:
        raise InputError(f"{path} is no {kind} of this version, which reads {schema!r}; {again}.")
    return cast(dict[str, Any], drawable(facts))


def write_whole(path: Path, text: str) -> Path:
    """Whole or not at all, so that an interrupted run leaves the old report readable."""
    making = path.with_name(f".{path.name}.making")
    making.write_text(text, encoding="utf-8", errors="replace")  # a prompt may hold lone surrogates
    os.replace(making, path)
    return path


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
