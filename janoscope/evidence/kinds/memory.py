"""Memory reports: published models predicted beside published figures, and bundled models measured beside predictions."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from ...errors import InputError
from ...pipeline.call import CallOptions, make_call
from ...pipeline.model import load_model
from ...pipeline.model_configs import Published, find_published
from ...pipeline.model_directory import bundled_directory
from ...pipeline.model_options import ModelOptions
from ...pipeline.provenance import installed_versions
from ...plan import STRATEGIES, Cache, Intervals, ModelFacts, Split, cache_bytes
from ...plan.facts import ITEMSIZE
from ...results.files import read_json
from ...results.writing import write_json
from ...workflows.apply.session import apply_model
from ...workflows.memory.meta_network import loaded_bytes
from ...workflows.memory.predict import Levels, Memory, predict_memory, usable
from ...workflows.memory.workload import WorkloadOptions, workload_of
from ..page import Figures, Section, table
from ..provenance import AGAIN
from ..recipe import Recipe, Table
from ..task import OnStep

GIB, KIB = 2**30, 2**10
RESULTS = "memory.json"
SCHEMA = "janoscope-report-memory/1"
PROMPT = "a large red apple on grass, blue sky"
# two thirds of the tokens are skipped at some step, and every kind of step comes within a few
QUANTILES, INTERVALS, WARMUP, COOLDOWN = Split(0.3, 0.6), Intervals(4, 2, 1), 2, 1


class CacheFacts(TypedDict):
    """Bytes."""

    device: int
    host: int


class StrategyFacts(TypedDict):
    """A strategy as `janoscope memory` predicts it."""

    strategy: str
    cache: CacheFacts
    total: float
    guidance_parallel: bool


class Predicted(TypedDict):
    """A published model at its own size, bytes; `their_` as we read the published figures."""

    model: str
    plain: float
    strategies: list[StrategyFacts]
    fits: str | None
    shortfall: float | None
    memory_gib: float
    their_dtype: str
    their_plain_bytes: float
    their_cache_bytes: float


class Measured(TypedDict):
    """An accelerated run of a bundled model beside its prediction, bytes."""

    model: str
    strategy: str
    predicted_bytes: float
    measured_bytes: float
    predicted_weight_bytes: int
    measured_weight_bytes: int


class MemoryFacts(TypedDict):
    """memory.json."""

    schema: str
    published: list[Predicted]
    measured: list[Measured]


def files(recipe: Recipe) -> list[str]:
    """What `make` will write."""
    return [RESULTS]


def make(recipe: Recipe, folder: Path, quick: bool, on_step: OnStep) -> None:
    """memory.json: `published`, a row a model of the recipe; `measured`, a row a bundled model and strategy."""
    published, measured = _tables(recipe, "published"), _tables(recipe, "measured")
    chosen = [line for line in measured if _is_installed(str(line["model"]))][: 1 if quick else None]
    done, rows = 0, []
    total = len(published) + len(chosen)
    for line in published:
        rows.append(predicted_row(line, float(recipe.settings.get("memory_gib", 80))))
        on_step(done := done + 1, total)
    measured_lines = []
    for line in chosen:
        measured_lines += list(measured_rows(str(line["model"]), 6 if quick else int(line.get("steps", 12))))
        on_step(done := done + 1, total)
    write_json(
        folder / RESULTS,
        {"schema": SCHEMA, "published": rows, "measured": measured_lines, "versions": installed_versions()},
    )


def predicted_row(line: Table, memory_gib: float) -> dict[str, object]:
    """A published model at its own size: `janoscope memory --json`, and how we read the published figures, bytes.

    line: of the recipe; `their_dtype` of weights and cache, `their_encoders` whether they were on the device.
    """
    published, dtype = find_published(str(line["model"])), str(line["their_dtype"])
    prediction = predict_memory(published, workload_of(published, WorkloadOptions()), budget=usable(memory_gib))
    weights = prediction.weights
    resident = weights if line["their_encoders"] else [part for part in weights if not _is_encoder(part.name)]
    networks = {part.name for part in published.networks}
    wide = sum(part.parameters * ITEMSIZE[dtype] if part.name in networks else part.total for part in resident)
    return prediction.to_json() | {
        "memory_gib": memory_gib,
        "their_dtype": dtype,
        "their_plain_bytes": wide + (prediction.activations or 0),
        "their_cache_bytes": _all_kv(published, prediction, dtype),
    }


def _is_encoder(name: str) -> bool:
    return name.startswith(("text_encoder", "vae"))


def _all_kv(published: Published, prediction: Memory, dtype: str) -> int:
    """Keys and values of every image token in a dtype; theirs holds no text."""
    facts = ModelFacts.from_entry({**published.entry, "dtype": dtype})
    return cache_bytes(replace(facts, text="none"), prediction.workload.token_count, Cache("kv")).device


def measured_rows(name: str, steps: int) -> Iterator[Measured]:
    """What an accelerated run of a bundled model stores in each strategy, in float32 on the CPU, beside its prediction."""
    model = load_model(name, ModelOptions(device="cpu", dtype="float32"))
    published = find_published(name)
    workload = workload_of(published, WorkloadOptions(dtype="float32"))
    weights = loaded_bytes(model.components)
    for strategy in STRATEGIES:
        rules = replace(model.policy(None), thresholds=None, quantiles=QUANTILES, intervals=INTERVALS)
        policy = replace(rules, warmup=WARMUP, cooldown=COOLDOWN, cache=Cache(strategy))
        summary = apply_model(model, make_call(model, CallOptions(PROMPT, steps=steps)), policy=policy).account
        total = sum(summary.token_levels.values())
        levels = Levels(*(summary.token_levels.get(level, 0) / total for level in ("static", "moderate")))
        prediction = predict_memory(published, workload, levels=levels)
        row = next(row for row in prediction.strategies if row.strategy == strategy and not row.guidance_parallel)
        yield {
            "model": name,
            "strategy": strategy,
            "predicted_bytes": sum(row.cache),
            "measured_bytes": summary.cache_bytes,
            "predicted_weight_bytes": prediction.weight_bytes,
            "measured_weight_bytes": weights,
        }


def _is_installed(name: str) -> bool:
    directory = bundled_directory(name)
    if directory is None:
        raise InputError(f"{name} is no bundled model; [[measured]] of a memory report takes those alone.")
    return (directory / "model_index.json").is_file()


def _tables(recipe: Recipe, key: str) -> list[Table]:
    lines = recipe.settings.get(key, [])
    if not isinstance(lines, list) or not all(isinstance(line, dict) and "model" in line for line in lines):
        raise InputError(f"{recipe.slug}: {key} has to be written as [[{key}]] with a model each.")
    return lines


def draw(recipe: Recipe, figures: Figures) -> Section:
    """Tables from memory.json; raises InputError where it is not there."""
    results: MemoryFacts = read_json(recipe.directory / RESULTS, MemoryFacts, "memory report", AGAIN, schema=SCHEMA)
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
        "theirs is: the share of tokens that they cache, static and moderate ones.",
        *(f"**{_short(row)}.** {line['why']}" for row, line in rows),
        "## By strategy",
        _strategies(predicted),
        "GiB: the full run's memory and the cache on the device; after the plus what lies in host memory. As if every token were "
        "skipped at some step. *per device, on two*: with `--guidance-parallel 2`.",
        *_fits(predicted),
        "## Predicted and measured",
        _measured(results["measured"]),
        "KiB, float32 on the CPU; two thirds of the tokens are skipped at some step. **Nothing was measured on a GPU: none was "
        "at hand.** Peaks of Flux-1-sized and Wan-1.3B-sized models by strategy, and the latency of offload against resident "
        "caches, are still to be measured.",
    ]
    return Section(_result(results, rows), [block for block in blocks if block])


def _result(results: MemoryFacts, rows: Sequence[tuple[Predicted, Table]]) -> str:
    sentences = []
    for row, line in rows:
        ours, theirs = f"{_gib(row['plain'])} -> {_gib(_total(row, 'kv'))} GiB", line["theirs"]
        sentences.append(f"{_short(row)} {ours} (theirs {theirs['before']} -> {theirs['after']})")
    worst = max((abs(_error(row)) for row in results["measured"]), default=None)
    checked = "" if worst is None else f" Predicted and measured cache bytes of bundled models differ by {worst:.2%} at most."
    return f"{'; '.join(sentences)}.{checked}"


def _table_2(rows: Sequence[tuple[Predicted, Table]]) -> str:
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


def _strategies(rows: Sequence[Predicted]) -> str:
    names = [one["strategy"] for one in rows[0]["strategies"] if not one["guidance_parallel"]] if rows else []
    heads, lines = ["model", "full run"], []
    heads += [head for name in names for head in (name, "per device, on two")]
    for row in rows:
        cells = [_short(row), _gib(row["plain"])]
        for name in names:
            one = _strategy(row, name)
            host = f" + {_gib(one['cache']['host'])}" if one["cache"]["host"] else ""
            half = next((two for two in row["strategies"] if two["strategy"] == name and two["guidance_parallel"]), None)
            cells += [_gib(one["total"]) + host, "-" if half is None else _gib(half["total"])]
        lines.append(cells)
    return table(heads, lines)


def _fits(rows: Sequence[Predicted]) -> list[str]:
    return [
        f"**{_short(row)} on one device of {row['memory_gib']:.0f} GiB**: "
        + (f"`{row['fits']}`." if row["fits"] else f"nothing fits, {_gib(row['shortfall'] or 0)} GiB are lacking.")
        for row in rows
    ]


def _measured(rows: Sequence[Measured]) -> str:
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


def _error(row: Measured) -> float:
    return float(row["predicted_bytes"] / row["measured_bytes"] - 1)


def _strategy(row: Predicted, name: str) -> StrategyFacts:
    return next(one for one in row["strategies"] if one["strategy"] == name and not one["guidance_parallel"])


def _total(row: Predicted, name: str) -> float:
    return float(_strategy(row, name)["total"])


def _short(row: Predicted) -> str:
    return str(row["model"]).rsplit("/", 1)[-1]


def _gib(count: float) -> str:
    return f"{count / GIB:.2f}"
