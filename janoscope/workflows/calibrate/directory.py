"""The directory of a calibration: what was asked, so that a rerun goes on and another calibration is not mixed in.

recipe.json also lists every file that the calibration wrote. `--force` removes what stands in that list and nothing else.
"""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from ...errors import InputError
from ...results.calibration import RESULT, read_facts
from ...results.files import read_json
from ...results.writing import holds_nothing, remove, write_json
from .target import Target

RECIPE = "recipe.json"
SCHEMA = "janoscope-calibration-recipe/1"
PAGE, RUNS, STUDY = "report.html", "runs.jsonl", "study.journal"
FIGURES = tuple(f"figures/{name}.svg" for name in ("front", "spread", "agreement", "cliff"))
# what every calibration writes, whatever it finds
ALWAYS = (RESULT, PAGE, RUNS, STUDY, f"{STUDY}.lock", *FIGURES)
_POLICY = re.compile(r"policy(-high|-low)?(-\d+\.\d\d)?\.toml")
# of a calibration by version 0.1.0, whose recipe.json kept no list
_EARLIER_RECIPES = ({"load", "call"}, {"recordings", "boundary", "probe"})
_EARLIER_FILES = ("recordings/????????????????.h5", "references/????????????????.npz", "tracks/?????-*.npz")
_AWAY = "move it away, or choose another directory with -o."


class Recipe(TypedDict):
    """recipe.json. asked: what every run depends on. files: written by the calibration, relative to the directory."""

    schema: str
    asked: dict[str, object]
    files: list[str]


def open_directory(directory: Path, recipe: Mapping[str, object], force: bool) -> bool:
    """Make the directory ready; gives whether an earlier, unfinished calibration is taken up.

    recipe: what every run depends on (model, options of its calls, recordings). Target, prompts and effort may differ: runs
    are known by prompt, seed and policy.

    Raises InputError for a finished calibration, for one of another recipe, and for a directory of other things, unless `force`:
    then results are replaced, and with another recipe all files that recipe.json lists. A file that is not listed is never
    replaced: it is named, whatever was said.
    """
    asked = json.loads(json.dumps(dict(recipe), sort_keys=True, default=str))
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file, a calibration needs a directory; choose one with -o.")
    before = _recipe(directory, asked)
    if before is not None and (directory / RESULT).exists() and not force:
        raise InputError(f"{directory} holds a finished calibration; choose another with -o, or pass --force to replace it.")
    if before is not None and before["asked"] != asked and not force:
        differs = sorted(key for key in before["asked"].keys() | asked.keys() if before["asked"].get(key) != asked.get(key))
        raise InputError(
            f"{directory} holds a calibration with other {', '.join(differs)}; choose another directory, or pass --force to "
            "throw its runs away."
        )
    if before is None and not force and not holds_nothing(directory):
        raise InputError(f"{directory} is not empty and holds no calibration; choose another directory, or pass --force.")
    listed = [] if before is None else before["files"]
    _refuse_foreign(directory, listed)
    goes_on = before is not None and before["asked"] == asked
    results = [PAGE, RESULT, *(name for name in listed if _POLICY.fullmatch(name))]
    _remove(directory, results if goes_on else [PAGE, RESULT, *listed], listed)
    directory.mkdir(parents=True, exist_ok=True)
    kept = [name for name in listed if name not in results] if goes_on else []
    _write(directory, asked, [*ALWAYS, *kept])
    return goes_on


def claim(directory: Path, names: Iterable[str]) -> None:
    """List files, by their names relative to the directory, before they are written. Nothing where no calibration was opened."""
    path = directory / RECIPE
    if not path.exists():
        return
    recipe: Recipe = read_json(path, Recipe, "recipe of a calibration", f"To go on, {_AWAY}", schema=SCHEMA)
    if more := [name for name in names if name not in recipe["files"]]:
        _write(directory, recipe["asked"], [*recipe["files"], *more])


def lacks_its_page(directory: Path, target: Target) -> bool:
    """Whether a finished calibration for this target lies there without its page: stopped between the two."""
    if not (directory / RESULT).exists() or (directory / PAGE).exists() or not (directory / RECIPE).exists():
        return False
    earlier = read_facts(directory)["target"]
    return (earlier["kind"], earlier["value"]) == (target.kind, target.value)


def _recipe(directory: Path, asked: Mapping[str, object]) -> Recipe | None:
    """recipe.json; one of version 0.1.0 for the same calibration is given the list that it lacks."""
    path = directory / RECIPE
    if not path.exists():
        return None
    content: dict[str, object] = read_json(path, dict[str, object], "recipe of a calibration", f"To go on, {_AWAY}", finite=False)
    if content.get("schema") == SCHEMA:
        recipe: Recipe = read_json(path, Recipe, "recipe of a calibration", f"To go on, {_AWAY}", finite=False)
        if outside := [name for name in recipe["files"] if not _is_inside(name)]:
            raise InputError(f"{path} lists {outside[0]!r}, which lies outside of its directory; {_AWAY}")
        return recipe
    if set(content) not in _EARLIER_RECIPES:
        raise InputError(f"{path} is of no calibration and would be replaced; {_AWAY}")
    if content != asked:
        raise InputError(
            f"{directory} holds another calibration by an earlier version, which kept no list of its files; "
            "choose another directory with -o, or empty this one."
        )
    there = [path.relative_to(directory).as_posix() for pattern in _EARLIER_FILES for path in directory.glob(pattern)]
    policies = [path.name for path in directory.glob("policy*.toml") if _POLICY.fullmatch(path.name)]
    return {"schema": SCHEMA, "asked": content, "files": [*ALWAYS, *policies, *there]}


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name and path.parts != ()


def _refuse_foreign(directory: Path, listed: Iterable[str]) -> None:
    """Raise InputError where a file that a calibration would replace is not one that it wrote."""
    known = set(listed)
    policies = sorted(path.name for path in directory.glob("policy*.toml") if _POLICY.fullmatch(path.name))
    for name in (*ALWAYS, *policies):
        if name not in known and (directory / name).exists():
            raise InputError(f"{directory / name} is of no calibration here and would be replaced; {_AWAY}")


def _remove(directory: Path, names: Iterable[str], listed: Iterable[str]) -> None:
    """Remove files that are listed, and folders that they leave empty."""
    known = set(listed)
    for name in names:
        if name in known and not (directory / name).is_dir():
            remove(directory / name)
    for folder in {(directory / name).parent for name in known} - {directory}:
        with suppress(OSError):  # something else is in it
            folder.rmdir()


def _write(directory: Path, asked: Mapping[str, object], files: Iterable[str]) -> None:
    write_json(directory / RECIPE, {"schema": SCHEMA, "asked": dict(asked), "files": list(dict.fromkeys(files))})
