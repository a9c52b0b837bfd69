"""Memory reports: published models predicted beside published figures, and bundled models measured beside predictions."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...plan import STRATEGIES, Cache, Intervals, ModelFacts, Split, cache_bytes
from ...plan.facts import ITEMSIZE
from ...results.writing import write_json
from ..apply import apply_model
from ..call import CallOptions, make_call
from ..memory import Levels, Memory, predict_memory, usable
from ..model import load_model
from ..model_directory import bundled_directory
from ..published import Published, find_published
from ..recipe import Recipe
from ..record import installed_versions
from ..setting import Asked, setting_of
from .task import OnStep

RESULTS = "memory.json"
SCHEMA = "janoscope-report-memory/1"
PROMPT = "a large red apple on grass, blue sky"
# two thirds of the tokens are skipped at some step, and every kind of step comes within a few
MEASURED_RULES: Mapping[str, Any] = {"warmup": 2, "cooldown": 1, "quantiles": Split(0.3, 0.6), "intervals": Intervals(4, 2, 1)}


def files(recipe: Recipe) -> list[str]:
    """What `make_whole` will write."""
    return [RESULTS]


def make_whole(recipe: Recipe, folder: Path, quick: bool, on_step: OnStep) -> None:
    """memory.json: `published`, a row a model of the recipe; `measured`, a row a bundled model and strategy."""
    published, measured = _tables(recipe, "published"), _tables(recipe, "measured")
    chosen = [line for line in measured if _is_installed(str(line["model"]))][: 1 if quick else None]
    done, rows = 0, []
    total = len(published) + len(chosen)
    for line in published:
        rows.append(predicted_row(line, float(recipe.settings.get("memory_gib", 80))))
        on_step(done := done + 1, total)
    found = []
    for line in chosen:
        found += list(measured_rows(str(line["model"]), 6 if quick else int(line.get("steps", 12))))
        on_step(done := done + 1, total)
    write_json(
        folder / RESULTS,
        {"schema": SCHEMA, "published": rows, "measured": found, "versions": installed_versions()},
    )


def predicted_row(line: Mapping[str, Any], memory_gib: float) -> dict[str, Any]:
    """A published model at its own size: `janoscope memory --json`, and how we read the published figures, bytes.

    line: of the recipe; `their_dtype` of weights and cache, `their_encoders` whether they were on the device.
    """
    published, dtype = find_published(str(line["model"])), str(line["their_dtype"])
    told = predict_memory(published, setting_of(published, Asked()), budget=usable(memory_gib))
    resident = told.weights if line["their_encoders"] else [part for part in told.weights if not _is_encoder(part.name)]
    networks = {part.name for part in published.networks}
    wide = sum(part.parameters * ITEMSIZE[dtype] if part.name in networks else part.total for part in resident)
    return told.to_json() | {
        "memory_gib": memory_gib,
        "their_dtype": dtype,
        "their_plain_bytes": wide + (told.activations or 0),
        "their_cache_bytes": _all_kv(published, told, dtype),
    }


def _is_encoder(name: str) -> bool:
    return name.startswith(("text_encoder", "vae"))


def _all_kv(published: Published, told: Memory, dtype: str) -> int:
    """Keys and values of every image token in a dtype; theirs holds no text."""
    facts = ModelFacts.from_entry({**published.entry, "dtype": dtype})
    return cache_bytes(replace(facts, text="none"), told.setting.token_count, Cache("kv")).device


def measured_rows(name: str, steps: int) -> Iterator[dict[str, Any]]:
    """What an accelerated run of a bundled model holds in each strategy, in float32 on the CPU, beside its prediction."""
    model = load_model(name, device="cpu", dtype="float32")
    published = find_published(name)
    setting = setting_of(published, Asked(dtype="float32"))
    weights = sum(_bytes(part) for part in model.pipe.components.values() if hasattr(part, "parameters"))
    for strategy in STRATEGIES:
        policy = replace(model.policy(None), thresholds=None, cache=Cache(strategy), **MEASURED_RULES)
        account = apply_model(model, make_call(model, CallOptions(PROMPT, steps=steps)), policy=policy).account
        total = sum(account.token_levels.values())
        levels = Levels(*(account.token_levels.get(level, 0) / total for level in ("static", "moderate")))
        told = predict_memory(published, setting, levels=levels)
        row = next(row for row in told.strategies if row.strategy == strategy and not row.guidance_parallel)
        yield {
            "model": name,
            "strategy": strategy,
            "predicted_bytes": sum(row.cache),
            "measured_bytes": account.cache_bytes,
            "predicted_weight_bytes": told.weight_bytes,
            "measured_weight_bytes": weights,
        }


def _bytes(module: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def _is_installed(name: str) -> bool:
    directory = bundled_directory(name)
    if directory is None:
        raise InputError(f"{name} is no bundled model; [[measured]] of a memory report takes those alone.")
    return (directory / "model_index.json").is_file()


def _tables(recipe: Recipe, key: str) -> list[Mapping[str, Any]]:
    found = recipe.settings.get(key, [])
    if not isinstance(found, list) or not all(isinstance(line, dict) and "model" in line for line in found):
        raise InputError(f"{recipe.slug}: {key} has to be written as [[{key}]] with a model each.")
    return found
