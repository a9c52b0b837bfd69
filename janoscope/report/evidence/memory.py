"""Predicted memory beside the published figures (supplementary, table 2), and what every cache strategy would take."""

import json
from collections.abc import Mapping
from typing import Any

from ...errors import InputError
from ...study.recipe import Recipe
from ..results import number
from .page import NOT_MEASURED, Figures, Section, table, value

GB, GIB = 1e9, 2**30


def draw(recipe: Recipe, figures: Figures) -> Section:
    """Ours and theirs in GB as the table has them, then a row a model and strategy."""
    path = recipe.directory / "memory.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}. Make the results again with --remake.") from error
    theirs = {str(row["model"]): row.get("theirs", {}) for row in recipe.settings.get("row", [])}
    notes = [f"- {row['model']}: {note}" for row in rows for note in row["notes"]]
    return Section(_found(rows), [_beside(rows, theirs), _strategies(rows), *(["\n".join(notes)] if notes else [])])


def _beside(rows: list[Mapping[str, Any]], theirs: Mapping[str, Mapping[str, float]]) -> str:
    cells = []
    for row in rows:
        published, kv = theirs.get(row["model"], {}), _strategy(row, "kv")
        cached = None if kv is None else kv["cache"]["device"]
        base, with_cache = published.get("base_gb"), published.get("cached_gb")
        ours = (_gb(row["plain"]), _gb(cached), _gb(None if kv is None else kv["total"]))
        other = (value(base), value(None if base is None or with_cache is None else with_cache - base), value(with_cache))
        cells.append([row["model"], _size(row["setting"]), *ours, *other])
    heads = ["model", "size", "ours: base (GB)", "cache (GB)", "with cache (GB)"]
    return table([*heads, "theirs: base (GB)", "cache (GB)", "with cache (GB)"], cells)


def _strategies(rows: list[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        for strategy in row["strategies"]:
            name = strategy["strategy"] + (", a branch on each of two devices" if strategy["guidance_parallel"] else "")
            fits = {True: "yes", False: "no"}.get(strategy["fits"], NOT_MEASURED)
            held = [strategy["cache"]["device"], strategy["cache"]["host"], strategy["total"]]
            cells.append([row["model"], f"`{name}`", *(value(None if b is None else b / GIB) for b in held), fits])
    return table(("model", "cache strategy", "device (GiB)", "host (GiB)", "total on the device (GiB)", "fits"), cells)


def _strategy(row: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((s for s in row["strategies"] if s["strategy"] == name and not s["guidance_parallel"]), None)


def _size(setting: Mapping[str, Any]) -> str:
    frames = f", {setting['frames']} frames" if setting["frames"] > 1 else ""
    return f"{setting['width']} x {setting['height']}{frames}, {setting['dtype']}"


def _gb(count: Any) -> str:
    known = number(count)
    return NOT_MEASURED if known is None else f"{known / GB:.2f}"


def _found(rows: list[Mapping[str, Any]]) -> str:
    told = [f"{row['model'].rsplit('/', 1)[-1]} {row['fits'] or 'nothing'}" for row in rows]
    return f"on one device of the recipe's size fits with {'; '.join(told)}." if told else ""
