"""`janoscope memory`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InputError
from .command import collected, command
from .options import COUNT, PATH, grouped, hush, json_option, verbose_option
from .progress import emphasised

if TYPE_CHECKING:
    from ..workflows.memory.predict import Memory

_GIB = 2**30


@dataclass(frozen=True)
class WorkloadFlags:
    """The generation whose memory is predicted; None leaves the model's default."""

    height: int | None
    width: int | None
    frames: int | None
    guidance: float | None
    text_tokens: int | None
    dtype: str | None


@command(
    "Predict the memory of a generation, from configs alone",
    "janoscope memory Wan-AI/Wan2.1-T2V-14B-Diffusers --memory-gib 80",
)
@click.argument("model", metavar="MODEL|CONFIG")
@collected(
    "workload",
    WorkloadFlags,
    (
        grouped("Generation", "--height", type=COUNT, help="Pixels."),
        grouped("Generation", "--width", type=COUNT, help="Pixels."),
        grouped("Generation", "--frames", type=COUNT, help="Frames of a video."),
        grouped(
            "Generation",
            "--guidance",
            type=float,
            help="Guidance scale; above 1 most models keep a cache for each of two branches.",
        ),
        grouped("Generation", "--text-tokens", type=click.IntRange(min=0), help="Text tokens [default: the model's]."),
        grouped("Generation", "--dtype", help="float32, float16 or bfloat16 [default: as stored]."),
    ),
)
@grouped("Cache", "--policy", help="A preset or policy file: its cache strategy is tried first, its quantiles set the levels.")
@grouped("Cache", "--static", type=click.FloatRange(0, 1), help="Fraction of static tokens.")
@grouped("Cache", "--moderate", type=click.FloatRange(0, 1), help="Fraction of moderate tokens.")
@grouped("Device", "--memory-gib", type=click.FloatRange(min=0, min_open=True), help="Of the device [default: the first GPU's].")
@grouped("Model", "--probe", type=PATH, help="A probe of your own (docs/probes.md).")
@json_option
@verbose_option
def memory(
    model: str,
    workload: WorkloadFlags,
    policy: str | None,
    static: float | None,
    moderate: float | None,
    memory_gib: float | None,
    probe: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Predict the memory of a generation by cache strategy, from configs alone.

    MODEL|CONFIG is a hub id that a probe lists, a model's directory, a transformer's config.json, or demo, demo:video,
    demo:latte. No weight is read and nothing is downloaded. Exit code 1 where a memory is given and nothing fits.
    """
    click.echo(f"Loading the configs of {model} ...", err=True)
    from ..pipeline.model_configs import find_published
    from ..pipeline.model_directory import named_policy
    from ..workflows.memory.predict import Levels, device_memory, predict_memory, usable
    from ..workflows.memory.workload import WorkloadOptions, workload_of

    if not verbose:
        hush()
    published = find_published(model, probe)
    rules = named_policy(published.probe, policy) if policy else None
    levels = None if static is None and moderate is None else Levels(static or 0.0, moderate or 0.0)
    if memory_gib is not None and usable(memory_gib) <= 0:
        raise InputError(f"--memory-gib {memory_gib} leaves nothing beside what the device keeps for itself; give more.")
    budget = device_memory() if memory_gib is None else usable(memory_gib)
    options = WorkloadOptions(
        height=workload.height,
        width=workload.width,
        frames=workload.frames,
        guidance=workload.guidance,
        text_tokens=workload.text_tokens,
        dtype=workload.dtype,
    )
    prediction = predict_memory(published, workload_of(published, options), budget=budget, policy=rules, levels=levels)
    click.echo(json.dumps(prediction.to_json(), indent=1) if as_json else describe(prediction))
    sys.exit(1 if prediction.shortfall else 0)


def describe(prediction: "Memory") -> str:
    """Tables for people."""
    workload, sizes = prediction.workload, Sizes.suited_to(prediction)
    frames, rows, cols = workload.tokens
    size = f"{workload.width} x {workload.height} pixels" + (f", {workload.frames} frames" if workload.frames > 1 else "")
    lines = [
        f"{prediction.model}: {size}; {frames} x {rows} x {cols} = {workload.token_count} tokens, "
        f"{workload.text_tokens} of text, "
        f"{workload.branches} branch{'es' * (workload.branches > 1)}, {workload.dtype}",
        "",
        f"{'weights':<18}{sizes.unit:>9}",
    ]
    for part in prediction.weights:
        dtypes = ", ".join(f"{sizes(count)} {dtype}" for dtype, count in part.bytes.items())
        lines.append(f"  {part.name:<16}{sizes(part.total):>9}  {part.parameters:,} parameters: {dtypes}")
    if prediction.activations is not None:
        lines.append(
            f"{'activations':<18}{sizes(prediction.activations):>9}  one forward of every token, attention without stored scores"
        )
    if prediction.plain is not None:
        lines.append(f"{'full run':<18}{sizes(prediction.plain):>9}")
    if prediction.strategies:
        lines += ["", *_table(prediction, sizes)]
    lines += ["", *(f"note: {note}" for note in prediction.notes)] if prediction.notes else []
    return "\n".join([*lines, *map(emphasised, _verdict(prediction))])


@dataclass(frozen=True)
class Sizes:
    """Bytes in one unit for a whole page."""

    unit: str
    bytes: int

    @classmethod
    def suited_to(cls, prediction: "Memory") -> "Sizes":
        return cls("GiB", _GIB) if prediction.weight_bytes >= _GIB else cls("MiB", 2**20)

    def __call__(self, count: float | None) -> str:
        return "?" if count is None else f"{count / self.bytes:.2f}"


def _table(prediction: "Memory", sizes: Sizes) -> list[str]:
    """A row a strategy; what each of two devices takes, with a branch each, stands beside it."""
    halves = {row.strategy: row for row in prediction.strategies if row.guidance_parallel}
    levels = list(prediction.strategies[0].levels or ())
    heads = ["device", "host", "layer", *levels, "total", *(["per device"] * bool(halves))]
    lines = [f"{f'cache, {sizes.unit}':<18}" + "".join(f"{head:>9}" for head in heads)]
    for row in prediction.strategies:
        if row.guidance_parallel:
            continue
        values = [row.cache.device, row.cache.host, row.layer, *(row.levels or {}).values(), row.total]
        values += [halves[row.strategy].total] if halves else []
        fits = "" if row.fits is None else "  fits" if row.fits else ""
        lines.append(f"{row.strategy:<18}" + "".join(f"{sizes(value):>9}" for value in values) + fits)
    legend = "layer: of one branch, all tokens. total: the full run's and the cache on the device."
    return [*lines, legend + (" per device: the total on each of two devices with --guidance-parallel 2." if halves else "")]


def _verdict(prediction: "Memory") -> list[str]:
    if prediction.budget is None:
        return ["give --memory-gib to see which strategy fits."] if prediction.strategies else []
    from ..workflows.memory.predict import PRICE, RESERVE_GIB

    budget = f"{prediction.budget / _GIB:.1f} GiB ({RESERVE_GIB} GiB reserved by the driver)"
    if prediction.fits is not None:
        price = PRICE[prediction.fits.strategy]
        return [f"fits {budget}: {prediction.fits.words}{f'; {price}' if price else ''}."]
    if prediction.shortfall is None:
        return []
    if prediction.shortfall == 0:
        return [f"the full run fits {budget}."]
    return [f"nothing fits {budget}: {prediction.shortfall / _GIB:.2f} GiB more are needed. {_way_out(prediction)}"]


def _way_out(prediction: "Memory") -> str:
    """What helps most among what needs no other model."""
    parallel = next((row for row in prediction.strategies if row.guidance_parallel and row.fits), None)
    if parallel is not None:
        return f"Two such devices do: {parallel.words}."
    encoders = sum(part.total for part in prediction.weights if part.name.startswith("text_encoder"))
    if encoders > (prediction.shortfall or 0):
        return f"The text encoders take {encoders / _GIB:.2f} GiB that denoising does not need: pipe.enable_model_cpu_offload()."
    return "Take a smaller size, fewer frames, or quantised weights."
