"""Compare: many methods on the same prompts and seeds, measured with one code, side by side."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..capture.identity import dtype_name
from ..errors import ExecutionError, InputError
from ..metrics import Lpips, quality
from .apply import write_json
from .baselines import BASELINES
from .call import CallOptions, PipelineCall, make_call
from .generate import Generated, save_frames
from .methods import OUR_METHODS, Cost, Method, device_of, parse_spec
from .model import Model
from .pairing import Key, equal_compute, estimate, front_name, paired

SCHEMA = "janoscope-comparison/1"
FULL = "full"
FAILED = "failed"
METHODS = {**OUR_METHODS, **BASELINES}
DEFAULT_METHODS = ("jano", "random", "uniform:k=2", "uniform:k=2,output=forecast", "fewer-steps:compute=0.6", "ras:end=N")
MEASURES = ("wall_s", "cpu_s", "compute", "speedup", "efficiency", "psnr", "ssim", "ms_ssim", "lpips")
OnRun = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Run:
    """One generation against the full run of the same prompt and seed.

    compute: fraction of its FLOPs. speedup: its wall time over ours. efficiency: speedup * compute, 1 where time follows FLOPs.
    psnr (dB), ssim, ms_ssim, lpips: None where they cannot be measured, psnr also where the pictures are identical. Bytes as in
    `Cost`.
    """

    prompt: str
    seed: int
    wall_s: float
    cpu_s: float
    compute: float | None
    speedup: float
    psnr: float | None
    ssim: float | None
    ms_ssim: float | None
    lpips: float | None
    cache_bytes: int | None
    peak_bytes: int | None
    identical: bool = False

    @property
    def key(self) -> Key:
        return self.prompt, self.seed

    @property
    def efficiency(self) -> float | None:
        return None if self.compute is None else self.speedup * self.compute

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"efficiency": self.efficiency}


@dataclass
class Row:
    """A method and its runs; note says what went wrong, or what must be known to read them."""

    label: str
    method: str
    options: Mapping[str, str]
    runs: list[Run] = field(default_factory=list)
    note: str = ""

    @property
    def front(self) -> str:
        return front_name(self.method, self.options)

    def values(self, measure: str) -> dict[Key, float]:
        """The measure of every run that has one."""
        return {run.key: value for run in self.runs if (value := getattr(run, measure)) is not None}

    def points(self) -> dict[Key, tuple[float, float]]:
        """(compute, psnr) of every run that has both."""
        compute, psnr = self.values("compute"), self.values("psnr")
        return {key: (compute[key], psnr[key]) for key in compute if key in psnr}

    def to_json(self) -> dict[str, Any]:
        estimates = {m: estimate(values) for m in MEASURES if (values := self.values(m))}
        return {
            "label": self.label,
            "method": self.method,
            "options": dict(self.options),
            "front": self.front,
            "runs": [run.to_json() for run in self.runs],
            "mean": {m: estimates[m].value if m in estimates else None for m in MEASURES},
            "interval": {m: [estimates[m].low, estimates[m].high] if m in estimates else None for m in MEASURES},
            "note": self.note,
        }


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. pictures: label -> (frame, row, col, RGB) uint8 of the first prompt and seed, `full` first."""

    model: str
    device: str
    dtype: str
    steps: int | None
    rows: tuple[Row, ...]
    missing: Mapping[str, str]
    pictures: Mapping[str, np.ndarray] = field(repr=False)

    def row(self, label: str) -> Row:
        return next(row for row in self.rows if row.label == label)

    def paired(self) -> list[dict[str, Any]]:
        """Differences in PSNR of every two methods, run by run."""
        rows = [row for row in self.rows if row.values("psnr")]
        pairs = [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
        found = [(a, b, paired(a.values("psnr"), b.values("psnr"))) for a, b in pairs]
        return [{"first": a.label, "second": b.label, "measure": "psnr", **e.to_json()} for a, b, e in found if e is not None]

    def at_equal_compute(self) -> list[dict[str, Any]]:
        """PSNR of every row less that of every other method at the row's compute, on that method's own front."""
        fronts: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.points():
                fronts.setdefault(row.front, []).append(row)
        found = []
        for row, (name, members) in product(self.rows, fronts.items()):
            if name != row.front and len(members) > 1:
                difference = equal_compute(row.points(), [member.points() for member in members])
                if difference is not None:
                    found.append({"row": row.label, "against": name, "measure": "psnr", **difference.to_json()})
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "steps": self.steps,
            "reference": FULL,
            "missing": dict(self.missing),
            "rows": [row.to_json() for row in self.rows],
            "paired": self.paired(),
            "equal_compute": self.at_equal_compute(),
        }

    def __str__(self) -> str:
        width = max(len(row.label) for row in self.rows)
        head = f"{'method':<{width}} {'compute':>8} {'speedup':>8} {'effic.':>7} {'PSNR':>7} {'SSIM':>7} {'cache MiB':>10}  note"
        return "\n".join([head, *(_line(row, width) for row in self.rows)])


def _line(row: Row, width: int) -> str:
    def cell(measure: str, form: str, size: int) -> str:
        values = row.values(measure)
        return f"{estimate(values).value if values else '-':>{size}{form if values else ''}}"

    cache = [run.cache_bytes for run in row.runs if run.cache_bytes is not None]
    held = f"{max(cache) / 2**20:.1f}" if cache else "-"
    cells = [cell("compute", ".3f", 8), cell("speedup", ".2f", 8), cell("efficiency", ".2f", 7), cell("psnr", ".2f", 7)]
    return f"{row.label:<{width}} {' '.join(cells)} {cell('ssim', '.4f', 7)} {held:>10}  {row.note}".rstrip()


def calls_of(model: Model, options: CallOptions, prompts: Sequence[str], seeds: Sequence[int]) -> list[PipelineCall]:
    """A call for every prompt and seed, alike in everything else."""
    return [make_call(model, replace(options, prompt=prompt, seed=seed)) for prompt, seed in product(prompts, seeds)]


def make_method(text: str) -> Method:
    """The method a user wrote; raises InputError for an unknown name or option."""
    spec = parse_spec(text)
    if spec.name not in METHODS:
        raise InputError(f"--method {text}: no method {spec.name!r}; legal: {', '.join(METHODS)}.")
    return METHODS[spec.name](spec)


def compare(
    model: Model,
    calls: Sequence[PipelineCall],
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    lpips: Lpips | None = None,
    on_run: OnRun | None = None,
) -> Comparison:
    """Run every method on every call and measure it against the full run of that call.

    The full run is always the first row. Every method is warmed up once on the first call, uncounted in any time; then, call by
    call, the full run and each method take turns, so that a machine that slows down slows all of them. One metric code measures
    all. A method that fails becomes a row whose note says why.

    Raises:
        InputError: no call, a method that is not one, or a pipeline that returns latents.
        ExecutionError: a method left the pipeline changed, so that the full run no longer repeats itself.
    """
    if not calls:
        raise InputError("nothing to compare on; give at least one prompt and one seed.")
    made = [make_method(text) for text in dict.fromkeys((FULL, *methods))]
    return _Contest(model, calls, made, lpips, on_run).run()


class _Contest:
    """The state of one comparison."""

    def __init__(
        self, model: Model, calls: Sequence[PipelineCall], methods: Sequence[Method], lpips: Lpips | None, on_run: OnRun | None
    ):
        self._model, self._calls, self._lpips = model, calls, lpips
        self._full, *self._methods = methods
        self._rows = {m.spec.text: Row(m.spec.text, m.spec.name, m.spec.options) for m in methods}
        self._counted: dict[str, dict[Key, Cost]] = {m.spec.text: {} for m in methods}
        self._missing: dict[str, str] = {}
        self._pictures: dict[str, np.ndarray] = {}
        self._on_run, self._done = on_run or (lambda done, total, label: None), 0

    def run(self) -> Comparison:
        first = self._calls[0]
        before = _frames(self._generate(self._full, first, count=True)[0])
        for method in self._methods:
            self._guarded(method, self._count, first)
        for call in self._calls:
            reference, cost = self._generate(self._full, call, count=False)
            if call is first and not np.array_equal(_frames(reference), before):
                raise ExecutionError("the full run does not repeat its first picture: a method left the pipeline changed.")
            self._take(self._full, call, reference, cost, None, cost)
            for method in self._methods:
                self._guarded(method, self._measure, call, reference, cost)
        network = getattr(self._model.pipe, self._model.sheet.tap.components[0])
        return Comparison(
            self._model.name,
            device_name(device_of(self._model)),
            dtype_name(network),
            first.steps,
            tuple(self._rows.values()),
            self._missing,
            self._pictures,
        )

    def _guarded(self, method: Method, work: Callable[..., None], *arguments: Any) -> None:
        """Do the work; a method that fails is out of the contest, and its row says why."""
        row = self._rows[method.spec.text]
        if row.note.startswith(FAILED):
            return
        try:
            work(method, *arguments)
        except Exception as error:  # whatever another library raises is a result of this comparison
            reason = " ".join(str(error).split())[:300]
            row.note = f"{FAILED}: {type(error).__name__}: {reason}"

    def _generate(self, method: Method, call: PipelineCall, count: bool) -> tuple[Generated, Cost]:
        made = method.generate(self._model, call, count)
        self._done += 1
        self._on_run(self._done, self._total, method.spec.text)
        return made

    @property
    def _total(self) -> int:
        again = sum(method.counts_apart for method in self._methods) * (len(self._calls) - 1)
        return (len(self._methods) + 1) * (len(self._calls) + 1) + again

    def _count(self, method: Method, call: PipelineCall) -> None:
        _, self._counted[method.spec.text][call.prompt, call.seed] = self._generate(method, call, count=True)

    def _measure(self, method: Method, call: PipelineCall, reference: Generated, full: Cost) -> None:
        if method.counts_apart and (call.prompt, call.seed) not in self._counted[method.spec.text]:
            self._count(method, call)
        generated, cost = self._generate(method, call, count=False)
        self._take(method, call, generated, cost, reference, full)

    def _take(
        self, method: Method, call: PipelineCall, made: Generated, cost: Cost, reference: Generated | None, full: Cost
    ) -> None:
        """Add a run to the method's row; without a reference it is the reference."""
        text, key = method.spec.text, (call.prompt, call.seed)
        counted = self._counted[text]
        cost = _completed(cost, counted.get(key) or next(iter(counted.values()), cost))
        frames = _frames(made)
        self._pictures.setdefault(text, frames)
        row = self._rows[text]
        row.note = row.note or cost.note or ("the reference" if reference is None else "")
        compute = None if cost.flops is None or not full.flops else cost.flops / full.flops
        figures: dict[str, Any] = {"compute": compute, "speedup": full.wall_s / cost.wall_s}
        figures |= {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "cache_bytes": cost.cache_bytes, "peak_bytes": cost.peak_bytes}
        row.runs.append(Run(prompt=call.prompt, seed=call.seed, **figures, **self._quality(reference, frames)))

    def _quality(self, reference: Generated | None, frames: np.ndarray) -> dict[str, Any]:
        if reference is None:
            return dict.fromkeys(("psnr", "ssim", "ms_ssim", "lpips"))
        measured = quality(_frames(reference), frames, self._lpips)
        self._missing |= dict(measured.missing)
        told = {"ssim": measured.ssim, "ms_ssim": measured.ms_ssim, "lpips": measured.lpips}
        return told | {"psnr": measured.psnr if math.isfinite(measured.psnr) else None, "identical": math.isinf(measured.psnr)}


def _completed(cost: Cost, counted: Cost) -> Cost:
    """What a timed generation did not count, from one that did."""
    flops = counted.flops if cost.flops is None else cost.flops
    return replace(cost, flops=flops, cache_bytes=counted.cache_bytes if cost.cache_bytes is None else cost.cache_bytes)


def _frames(generated: Generated) -> np.ndarray:
    if generated.frames is None:
        raise InputError("the pipeline returned latents, which no picture metric can measure; leave output_type out.")
    return generated.frames


def device_name(device: torch.device) -> str:
    """`cuda: NVIDIA H100`, or `cpu` with its thread count, since wall times depend on it."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type} ({torch.get_num_threads()} threads)"


def save_comparison(comparison: Comparison, directory: Path) -> list[Path]:
    """comparison.json, comparison.txt and pictures/ in a directory. The full run's picture is `00-full`."""
    pictures = directory / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    names = {}
    for index, (label, frames) in enumerate(comparison.pictures.items()):
        safe = "".join(c if c.isalnum() or c in "-.=" else "_" for c in label)
        names[label] = save_frames(frames, pictures / f"{index:02d}-{safe}.png").relative_to(directory).as_posix()
    result, table = directory / "comparison.json", directory / "comparison.txt"
    write_json(comparison.to_json() | {"pictures": names}, result)
    table.write_text(str(comparison) + "\n", encoding="utf-8")
    return [result, table, pictures]
