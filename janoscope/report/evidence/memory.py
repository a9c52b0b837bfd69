"""Memory: Table 2 beside our predictions, what fits a device, and predictions beside what bundled models measured."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import InputError
from ...study.recipe import Recipe
from .page import Figures, Section, table

RESULTS = "memory.json"
GIB, KIB = 2**30, 2**10


def draw(recipe: Recipe, figures: Figures) -> Section:
    """Tables from memory.json; raises InputError where it is not there."""
    path = recipe.directory / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. Make it with --remake.") from error
    lines = {line["model"]: line for line in recipe.settings["published"]}
    rows = [(row, lines[row["model"]]) for row in results["published"] if row["model"] in lines]
    predicted = [row for row, _ in rows]
    blocks = [
        "## Table 2",
        _table_2(rows),
        "GiB. *Before, as we read it*: "
        + "; ".join(f"{_short(row)}: {line['reading']}" for row, line in rows)
        + ". *Increment, as "
        "we read it*: keys and values of every image token in the dtype that their code keeps them in, and the share of it that "
        "theirs is: the share of tokens that they hold, static and moderate ones.",
        *(f"**{_short(row)}.** {line['why']}" for row, line in rows),
        "## By strategy",
        _strategies(predicted),
        "GiB: the full run's memory and the cache on the device; after the plus what lies in host memory. As if every token were "
        "skipped at some step. *of two*: on each of two devices with `--guidance-parallel 2`.",
        *_fits(predicted),
        "## Predicted and measured",
        _measured(results["measured"]),
        "KiB, float32 on the CPU; two thirds of the tokens are skipped at some step. **Nothing was measured on a GPU: none was "
        "at hand.** Peaks of Flux-1-sized and Wan-1.3B-sized models by strategy, and the latency of offload against resident "
        "caches, are still to be measured.",
    ]
    return Section(_found(results, rows), [block for block in blocks if block])


def _found(results: Mapping[str, Any], rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    told = []
    for row, line in rows:
        ours, theirs = f"{_gib(row['plain'])} -> {_gib(_total(row, 'kv'))} GiB", line["theirs"]
        told.append(f"{_short(row)} {ours} (theirs {theirs['before']} -> {theirs['after']})")
    worst = max((abs(_error(row)) for row in results["measured"]), default=None)
    checked = "" if worst is None else f" Predicted and measured cache bytes of bundled models differ by {worst:.2%} at most."
    return f"{'; '.join(told)}.{checked}"


def _table_2(rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    heads = ("model", "theirs", "ours", "theirs before, as we read it", "their increment", "as we read it", "share", "ours")
    lines = []
    for row, line in rows:
        theirs, read = line["theirs"], row["their_cache_bytes"] / GIB
        increment = theirs["after"] - theirs["before"]
        lines.append(
            [
                _short(row),
                f"{theirs['before']} -> {theirs['after']}",
                f"{_gib(row['plain'])} -> {_gib(_total(row, 'kv'))}",
                _gib(row["their_plain_bytes"]),
                f"{increment:.2f}",
                f"{read:.2f} {row['their_dtype']}",
                f"{increment / read:.2f}",
                _gib(_total(row, "kv") - row["plain"]),
            ]
        )
    return table(heads, lines)


def _strategies(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [one["strategy"] for one in rows[0]["strategies"] if not one["guidance_parallel"]] if rows else []
    heads, lines = ["model", "full run"], []
    heads += [head for name in names for head in (name, "of two")]
    for row in rows:
        cells = [_short(row), _gib(row["plain"])]
        for name in names:
            one = _strategy(row, name)
            host = f" + {_gib(one['cache']['host'])}" if one["cache"]["host"] else ""
            half = next((two for two in row["strategies"] if two["strategy"] == name and two["guidance_parallel"]), None)
            cells += [_gib(one["total"]) + host, "-" if half is None else _gib(half["total"])]
        lines.append(cells)
    return table(heads, lines)


def _fits(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"**{_short(row)} on one device of {row['memory_gib']:.0f} GiB**: "
        + (f"`{row['fits']}`." if row["fits"] else f"nothing fits, {_gib(row['shortfall'] or 0)} GiB are lacking.")
        for row in rows
    ]


def _measured(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [
        [
            row["model"],
            row["strategy"],
            f"{row['predicted_bytes'] / KIB:.1f}",
            f"{row['measured_bytes'] / KIB:.1f}",
            f"{_error(row):+.2%}",
            f"{row['predicted_weight_bytes']}",
            f"{row['measured_weight_bytes']}",
        ]
        for row in rows
    ]
    return table(
        ("model", "strategy", "cache predicted", "measured", "difference", "weights predicted, bytes", "loaded, bytes"), lines
    )


def _error(row: Mapping[str, Any]) -> float:
    return float(row["predicted_bytes"] / row["measured_bytes"] - 1)


def _strategy(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(one for one in row["strategies"] if one["strategy"] == name and not one["guidance_parallel"])
    return found


def _total(row: Mapping[str, Any], name: str) -> float:
    return float(_strategy(row, name)["total"])


def _short(row: Mapping[str, Any]) -> str:
    return str(row["model"]).rsplit("/", 1)[-1]


def _gib(count: float) -> str:
    return f"{count / GIB:.2f}"
