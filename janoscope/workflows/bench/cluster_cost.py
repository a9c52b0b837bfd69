"""Scaling: sizes, times and cost of calibrating a published model on many prompts, from assumptions and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...capture import Generation
from ...grid import TokenGrid
from ...pipeline.model_configs import find_published
from ...plan import ModelFacts, entry_tokens
from ...plan.cost import step_flops
from ..calibrate.target import Budget
from ..record.sink import expected_size

GB, TB, HOUR = 1e9, 1e12, 3600.0
CHANNELS = 16  # of Wan's latents
BRANCHES = ("guided", "cond", "uncond")


@dataclass(frozen=True)
class Assumptions:
    """What nobody measured here. Every figure has its reason in `SOURCES`."""

    model: str = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
    prompts: int = 1000
    gpu_tflops: float = 989.0
    utilisation: float = 0.4
    gpu_hour_usd: float = 2.5
    tb_month_usd: float = 20.0
    shared_gb_s: float = 2.0
    cores_a_gpu: int = 8
    candidates: int = 3000
    policy_compute: float = 0.5


SOURCES = {
    "model": "its published config, in the probe; 1280 x 720, 81 frames, 50 steps, two branches",
    "prompts": "two in five recorded and fitted on, the others held out, as `calibrate` parts them",
    "gpu_tflops": "dense bfloat16 of an H100 SXM, from its specification",
    "utilisation": "of that peak, common for large transformers; not measured here",
    "gpu_hour_usd": "a rented H100, late 2025; prices move",
    "tb_month_usd": "object storage",
    "shared_gb_s": "all nodes together, to and from one file system",
    "cores_a_gpu": "host cores that reducing may use",
    "candidates": "policies scored, the default of `calibrate --trials`",
    "policy_compute": "of the policies that are validated, against full runs",
}


@dataclass(frozen=True)
class Measured:
    """What `janoscope bench scale` measured; CPU seconds of one core, since times of a busy machine say nothing.

    merge: s for `manifests` manifests. write, read, reduce: s a GB of recording; reading converts to velocity and x0, reducing
    makes the Gram matrices and all `maps` of a calibration. sort: s to put one map of a million tokens in order, which the search
    does once for each; score: s for one candidate on one recording.
    """

    manifests: int
    merge_cpu_s: float
    write_cpu_s_a_gb: float
    read_cpu_s_a_gb: float
    reduce_cpu_s_a_gb: float
    sort_cpu_s_a_million_tokens: float
    score_cpu_s: float
    maps: int

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Measured":
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Stage:
    """One stage on a cluster. wall_s: of the whole cluster. gb: read or written. bound: what it waits for."""

    name: str
    wall_s: float
    gpu_s: float
    gb: float
    bound: str


@dataclass(frozen=True)
class Scale:
    """The whole calibration on `gpus`."""

    gpus: int
    stages: tuple[Stage, ...]
    usd: float

    @property
    def wall_s(self) -> float:
        return sum(stage.wall_s for stage in self.stages)

    @property
    def bottleneck(self) -> Stage:
        return max(self.stages, key=lambda stage: stage.wall_s)


def recording_bytes(model: str) -> int:
    """Of one recording of a published model at its own size: x_t in float32, predictions in the model's dtype."""
    entry = find_published(model).entry
    frames, rows, cols = entry_tokens(entry)
    patch = tuple(entry["patch"])
    cells = (frames * patch[0], rows * patch[1], cols * patch[2])
    branches = BRANCHES if entry["branches"] > 1 else BRANCHES[:1]
    told = {"transformer": {}, "scheduler": {}, "device": "cuda", "dtype": entry["dtype"], "text_tokens": entry["text_tokens"]}
    signals = {"sample": "float32", "model_output": entry["dtype"]}
    grid = TokenGrid(CHANNELS, cells, patch)
    generation = Generation(grid, "flow", branches, 1, entry["steps"], signals=signals, **told)
    return expected_size(generation, None, Path()).total


def generation_flops(model: str) -> float:
    """FLOPs of the transformer's blocks in one full run; embedding, text encoder and VAE are under a few per cent."""
    entry, tokens = find_published(model).entry, _tokens(model)
    return step_flops(ModelFacts.from_entry(entry), tokens, tokens) * entry["branches"] * entry["steps"]


def _tokens(model: str) -> int:
    frames, rows, cols = entry_tokens(find_published(model).entry)
    return frames * rows * cols


def scale_to(gpus: int, assumed: Assumptions, measured: Measured) -> Scale:
    """Every stage of `calibrate` on so many GPUs, one after the other."""
    budget = Budget.of(assumed.prompts, None)
    full_s = generation_flops(assumed.model) / (assumed.gpu_tflops * 1e12 * assumed.utilisation)
    recorded_gb = budget.fit * recording_bytes(assumed.model) / GB
    policy_runs = budget.held_out * budget.candidates + budget.fit_runs
    record = _generating("record", budget.fit * full_s, recorded_gb, measured.write_cpu_s_a_gb, gpus, assumed)
    merge = Stage("merge", measured.merge_cpu_s * assumed.prompts / measured.manifests, 0.0, 0.0, "one core")
    reduce = _reducing(recorded_gb, measured.reduce_cpu_s_a_gb, gpus, assumed)
    sorting = measured.maps * _tokens(assumed.model) / 1e6 * measured.sort_cpu_s_a_million_tokens
    search_s = budget.fit * (sorting + assumed.candidates * measured.score_cpu_s)
    search = Stage("search", search_s, 0.0, 0.0, "one core")
    validate = budget.held_out * full_s + policy_runs * full_s * assumed.policy_compute
    stages = (record, merge, reduce, search, _generating("validate", validate, 0.0, 0.0, gpus, assumed))
    gpu_hours = sum(stage.gpu_s for stage in stages) / HOUR
    return Scale(gpus, stages, gpu_hours * assumed.gpu_hour_usd)


def _generating(name: str, gpu_s: float, gb: float, cpu_s_a_gb: float, gpus: int, assumed: Assumptions) -> Stage:
    """GPUs share runs; their hosts write meanwhile, a core each, into one file system."""
    limits = {
        "GPUs": gpu_s / gpus,
        "writing": gb * cpu_s_a_gb / gpus,
        "the file system": gb / assumed.shared_gb_s,
    }
    bound = max(limits, key=lambda limit: limits[limit])
    return Stage(name, limits[bound], gpu_s, gb, bound)


def _reducing(gb: float, cpu_s_a_gb: float, gpus: int, assumed: Assumptions) -> Stage:
    """Every recording becomes what the search needs, a task a core; no GPU takes part."""
    limits = {"cores": gb * cpu_s_a_gb / (gpus * assumed.cores_a_gpu), "the file system": gb / assumed.shared_gb_s}
    bound = max(limits, key=lambda limit: limits[limit])
    return Stage("reduce", limits[bound], 0.0, gb, bound)


def describe_scaling(measured: Measured, assumed: Assumptions | None = None, gpus: Sequence[int] = (8, 64)) -> str:
    """The tables of docs/scaling.md, Markdown."""
    assumed = assumed or Assumptions()
    size, flops, budget = recording_bytes(assumed.model), generation_flops(assumed.model), Budget.of(assumed.prompts, None)
    minutes = flops / (assumed.gpu_tflops * 1e12 * assumed.utilisation) / 60
    terabytes = budget.fit * size / TB
    scales = [scale_to(count, assumed, measured) for count in gpus]
    return "\n\n".join(
        [
            f"One recording takes {size / GB:.2f} GB; the {budget.fit} that are fitted on take {terabytes:.2f} TB, "
            f"{terabytes * assumed.tb_month_usd:.0f} USD a month. A full run takes {flops / 1e15:.0f} PFLOP, "
            f"{minutes:.0f} minutes on one GPU. Runs: {budget.fit} recorded, {budget.held_out} full ones on held-out prompts "
            f"and {budget.candidates} policies on each of these, {budget.fit_runs} more to fit the surrogate.",
            _stages(scales),
            _sums(scales),
            "Measured by `janoscope bench scale`, seconds of one core:",
            _table(("figure", "value"), [(_words(name), f"{value:.4g}") for name, value in asdict(measured).items()]),
            "Assumed:",
            _table(
                ("figure", "value", "why"),
                [(_words(name), str(value), SOURCES[name]) for name, value in asdict(assumed).items()],
            ),
        ]
    )


def _stages(scales: Sequence[Scale]) -> str:
    heads = ["stage", "GB", "GPU hours"] + [f"{scale.gpus} GPUs" for scale in scales] + ["bound by"]
    rows = []
    for stages in zip(*(scale.stages for scale in scales), strict=True):
        bounds = ", then ".join(dict.fromkeys(stage.bound for stage in stages))
        walls = [_time(stage.wall_s) for stage in stages]
        rows.append([stages[0].name, f"{stages[0].gb:,.0f}", f"{stages[0].gpu_s / HOUR:,.1f}", *walls, bounds])
    return _table(heads, rows)


def _sums(scales: Sequence[Scale]) -> str:
    rows = []
    for scale in scales:
        worst = scale.bottleneck
        share = f"{worst.name}, {worst.wall_s / scale.wall_s:.0%} of the time, bound by {worst.bound}"
        rows.append([str(scale.gpus), _time(scale.wall_s), f"{scale.usd:,.0f}", share])
    return _table(("GPUs", "in all", "USD", "bottleneck"), rows)


def _time(seconds: float) -> str:
    for unit, length in (("h", HOUR), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2f} s"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
