"""The directory of a calibration: what was asked, so that a rerun goes on and another calibration is not mixed in."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..results.writing import write_json
from .calibration import RESULT

RECIPE = "recipe.json"
# everything that `calibrate` writes; nothing else in a directory is touched
OURS = ("recordings", "references", "tracks", "figures", "runs.jsonl", "report.html", RESULT, RECIPE)
PATTERNS = ("policy*.toml", "study.journal*")


def open_directory(directory: Path, recipe: Mapping[str, Any], force: bool) -> bool:
    """Make the directory ready; gives whether an earlier, unfinished calibration is taken up.

    recipe: what every run depends on (model, options of its calls, recordings). Target, prompts and effort may differ: runs
    are known by prompt, seed and policy.

    Raises InputError for a finished calibration, for one of another recipe, and for a directory of other things, unless `force`:
    then results are replaced, and with another recipe all that `calibrate` wrote there.
    """
    told = json.loads(json.dumps(dict(recipe), sort_keys=True, default=str))
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file, a calibration needs a directory; choose one with -o.")
    if (directory / RESULT).exists() and not force:
        raise InputError(f"{directory} holds a finished calibration; choose another with -o, or pass --force to replace it.")
    before = _recipe(directory)
    if before is not None and before != told:
        if not force:
            differs = sorted(key for key in before.keys() | told.keys() if before.get(key) != told.get(key))
            raise InputError(
                f"{directory} holds a calibration with other {', '.join(differs)}; choose another directory, or pass --force to "
                "throw its runs away."
            )
        _clear(directory)
    elif before is None and directory.exists() and any(directory.iterdir()) and not force:
        raise InputError(f"{directory} is not empty and holds no calibration; choose another directory, or pass --force.")
    for name in (RESULT, "report.html"):
        (directory / name).unlink(missing_ok=True)
    for path in directory.glob("policy*.toml"):
        path.unlink()
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / RECIPE, told)
    return before == told


def _recipe(directory: Path) -> dict[str, Any] | None:
    try:
        recipe = json.loads((directory / RECIPE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{directory / RECIPE} cannot be read: {error}. Take another directory.") from error
    return recipe if isinstance(recipe, dict) else {}


def _clear(directory: Path) -> None:
    for path in [*(directory / name for name in OURS), *(p for pattern in PATTERNS for p in directory.glob(pattern))]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
