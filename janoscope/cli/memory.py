"""`janoscope memory`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .options import hush, json_option, verbose_option

if TYPE_CHECKING:
    from ..workflows.memory.predict import Memory

_GIB = 2**30


@click.command()
@click.argument("model", metavar="MODEL|CONFIG")
@click.option("--height", type=click.IntRange(min=1), help="Pixels.")
@click.option("--width", type=click.IntRange(min=1), help="Pixels.")
@click.option("--frames", type=click.IntRange(min=1), help="Frames of a clip.")
@click.option("--guidance", type=float, help="Guidance scale; above 1 most models keep a cache for each of two branches.")
@click.option("--text-tokens", type=click.IntRange(min=0), help="Text tokens [default: the model's].")
@click.option("--dtype", help="float32, float16 or bfloat16 [default: as stored].")
@click.option("--policy", help="A preset or policy file: its cache strategy is tried first, its quantiles tell the levels.")
@click.option("--static", type=click.FloatRange(0, 1), help="Fraction of static tokens.")
@click.option("--moderate", type=click.FloatRange(0, 1), help="Fraction of moderate tokens.")
@click.option("--memory-gib", type=click.FloatRange(min=0, min_open=True), help="Of the device [default: the first GPU's].")
@click.option("--probe", type=click.Path(path_type=Path), help="A probe of your own (docs/probes.md).")
@json_option
@verbose_option
def memory(
    model: str,
    policy: str | None,
    static: float | None,
    moderate: float | None,
    memory_gib: float | None,
    probe: Path | None,
    as_json: bool,
    verbose: bool,
    **asked: Any,
) -> None:
    """Predict the memory of a generation by cache strategy, from configs alone.

    MODEL|CONFIG is a hub id that a probe lists, a model's directory, a transformer's config.json, or demo, demo:video,
    demo:latte. No weight is read and nothing is downloaded. Exit code 1 where a memory is given and nothing fits.
    """
    from ..pipeline.model_configs import find_published
    from ..pipeline.model_directory import named_policy
    from ..workflows.memory.predict import Levels, device_memory, predict_memory, usable
    from ..workflows.memory.workload import Asked, setting_of

    if not verbose:
        hush()
    published = find_published(model, probe)
    rules = named_policy(published.probe, policy) if policy else None
    levels = None if static is None and moderate is None else Levels(static or 0.0, moderate or 0.0)
    if memory_gib is not None and usable(memory_gib) <= 0:
        raise InputError(f"--memory-gib {memory_gib} leaves nothing beside what the device keeps for itself; give more.")
    budget = device_memory() if memory_gib is None else usable(memory_gib)
    told = predict_memory(published, setting_of(published, Asked(**asked)), budget=budget, policy=rules, levels=levels)
    click.echo(json.dumps(told.to_json(), indent=1) if as_json else describe(told))
    sys.exit(1 if told.shortfall else 0)


def describe(told: "Memory") -> str:
    """Tables for people."""
    setting, sizes = told.setting, Sizes.suited_to(told)
    frames, rows, cols = setting.tokens
    size = f"{setting.width} x {setting.height} pixels" + (f", {setting.frames} frames" if setting.frames > 1 else "")
    lines = [
        f"{told.model}: {size}; {frames} x {rows} x {cols} = {setting.token_count} tokens, {setting.text_tokens} of text, "
        f"{setting.branches} branch{'es' * (setting.branches > 1)}, {setting.dtype}",
        "",
        f"{'weights':<18}{sizes.unit:>9}",
    ]
    for part in told.weights:
        dtypes = ", ".join(f"{sizes(count)} {dtype}" for dtype, count in part.bytes.items())
        lines.append(f"  {part.name:<16}{sizes(part.total):>9}  {part.parameters:,} parameters: {dtypes}")
    if told.activations is not None:
        lines.append(
            f"{'activations':<18}{sizes(told.activations):>9}  one forward of every token, attention without stored scores"
        )
    if told.plain is not None:
        lines.append(f"{'full run':<18}{sizes(told.plain):>9}")
    if told.strategies:
        lines += ["", *_table(told, sizes)]
    lines += ["", *(f"note: {note}" for note in told.notes)] if told.notes else []
    return "\n".join([*lines, *_verdict(told)])


@dataclass(frozen=True)
class Sizes:
    """Bytes in one unit for a whole page."""

    unit: str
    bytes: int

    @classmethod
    def suited_to(cls, told: "Memory") -> "Sizes":
        return cls("GiB", _GIB) if told.weight_bytes >= _GIB else cls("MiB", 2**20)

    def __call__(self, count: float | None) -> str:
        return "?" if count is None else f"{count / self.bytes:.2f}"


def _table(told: "Memory", sizes: Sizes) -> list[str]:
    """A row a strategy; what a branch on each of two devices takes stands beside it."""
    halves = {row.strategy: row for row in told.strategies if row.guidance_parallel}
    levels = list(told.strategies[0].levels or ())
    heads = ["device", "host", "layer", *levels, "total", *(["of two"] * bool(halves))]
    lines = [f"{f'cache, {sizes.unit}':<18}" + "".join(f"{head:>9}" for head in heads)]
    for row in told.strategies:
        if row.guidance_parallel:
            continue
        values = [row.cache.device, row.cache.host, row.layer, *(row.levels or {}).values(), row.total]
        values += [halves[row.strategy].total] if halves else []
        fits = "" if row.fits is None else "  fits" if row.fits else ""
        lines.append(f"{row.strategy:<18}" + "".join(f"{sizes(value):>9}" for value in values) + fits)
    legend = "layer: of one branch, all tokens. total: the full run's and the cache on the device."
    return [*lines, legend + (" of two: the same on each of two devices with --guidance-parallel 2." if halves else "")]


def _verdict(told: "Memory") -> list[str]:
    if told.budget is None:
        return ["say --memory-gib for the strategy that fits."] if told.strategies else []
    from ..workflows.memory.predict import PRICE, RESERVE_GIB

    budget = f"{told.budget / _GIB:.1f} GiB ({RESERVE_GIB} are the device's own)"
    if told.fits is not None:
        price = PRICE[told.fits.strategy]
        return [f"fits {budget}: {told.fits.words}{f'; {price}' if price else ''}."]
    if told.shortfall is None:
        return []
    if told.shortfall == 0:
        return [f"the full run fits {budget}."]
    return [f"nothing fits {budget}: {told.shortfall / _GIB:.2f} GiB are lacking. {_way_out(told)}"]


def _way_out(told: "Memory") -> str:
    """What helps most among what needs no other model."""
    parallel = next((row for row in told.strategies if row.guidance_parallel and row.fits), None)
    if parallel is not None:
        return f"Two such devices do: {parallel.words}."
    encoders = sum(part.total for part in told.weights if part.name.startswith("text_encoder"))
    if encoders > (told.shortfall or 0):
        return f"The text encoders take {encoders / _GIB:.2f} GiB that denoising does not need: pipe.enable_model_cpu_offload()."
    return "Take a smaller size, fewer frames, or quantised weights."
