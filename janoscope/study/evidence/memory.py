"""Memory reports: what `janoscope memory` predicts for every model of the recipe, from configs alone."""

from pathlib import Path

from ...errors import InputError
from ..analysis_files import write_json
from ..memory import predict_memory, usable
from ..published import find_published
from ..recipe import Recipe
from ..setting import Asked, setting_of
from .task import OnStep

SCHEMA = "janoscope-memory-report/1"
FILE = "memory.json"


def files(recipe: Recipe) -> list[str]:
    """What `make_whole` will write."""
    return [FILE]


def make_whole(recipe: Recipe, folder: Path, quick: bool, on_step: OnStep) -> None:
    """memory.json: a prediction for every [[row]] of the recipe, on a device of its `memory_gib`."""
    rows = recipe.settings.get("row", [])
    if not rows:
        raise InputError(f"{recipe.slug}: the recipe lists no [[row]] with a model.")
    budget, found = usable(float(recipe.settings.get("memory_gib", 80))), []
    for done, row in enumerate(rows, start=1):
        published = find_published(str(row["model"]))
        found.append(predict_memory(published, setting_of(published, Asked(**row.get("call", {}))), budget=budget).to_json())
        on_step(done, len(rows))
    write_json(folder / FILE, {"schema": SCHEMA, "rows": found})
