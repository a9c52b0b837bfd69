"""Comparison: what `compare` found, as rows of runs, paired differences, a table and files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ..errors import InputError
from .analysis_files import write_json, write_whole
from .generate import save_frames
from .mosaic import mosaic
from .output_files import output_name
from .pairing import Key, equal_compute, estimate, front_name, paired, undominated

SCHEMA = "janoscope-comparison/1"
FULL = "full"
MEASURES = ("wall_s", "cpu_s", "compute", "speedup", "efficiency", "psnr", "ssim", "ms_ssim", "lpips")


@dataclass(frozen=True)
class Run:
    """One generation against the full run of the same prompt and seed.

    compute: fraction of its FLOPs. speedup: its wall time over ours. efficiency: speedup * compute, 1 where time follows FLOPs.
    psnr (dB), ssim, ms_ssim, lpips: None where they cannot be measured, psnr also where the pictures are identical. Bytes as in
    `Cost`. machine: where it ran, if the comparison was spread over several; its full run was made there too.
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
    machine: str | None = None

    @property
    def key(self) -> Key:
        return self.prompt, self.seed

    @property
    def efficiency(self) -> float | None:
        return None if self.compute is None else self.speedup * self.compute

    def to_json(self) -> dict[str, Any]:
        facts = asdict(self) | {"efficiency": self.efficiency}
        return facts if self.machine else {name: fact for name, fact in facts.items() if name != "machine"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Run":
        return cls(**{key: value for key, value in data.items() if key != "efficiency"})


@dataclass
class Row:
    """A method and its runs; note says what went wrong, or what must be known to read them."""

    label: str
    method: str
    options: Mapping[str, str]
    runs: list[Run] = field(default_factory=list)
    note: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Row":
        runs = [Run.from_json(run) for run in data["runs"]]
        return cls(data["label"], data["method"], data["options"], runs, data["note"])

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

    def mean_point(self) -> tuple[float, float] | None:
        """Mean (compute, psnr) of the runs that have both; None where none has."""
        points = np.array(list(self.points().values()))
        return (float(points[:, 0].mean()), float(points[:, 1].mean())) if points.size else None

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
    """What `compare` found. pictures: label -> (frame, row, col, RGB) uint8 of the first prompt and seed, `full` first.

    complete: every method was run on every call. call: the pipeline's arguments that all calls share.
    """

    model: str
    device: str
    dtype: str
    steps: int | None
    rows: tuple[Row, ...]
    missing: Mapping[str, str]
    pictures: Mapping[str, np.ndarray] = field(repr=False)
    complete: bool = True
    call: Mapping[str, Any] = field(default_factory=dict)

    def row(self, label: str) -> Row:
        """The row of that label. Raises InputError where there is none."""
        for row in self.rows:
            if row.label == label:
                return row
        raise InputError(f"the comparison has no row {label!r}; legal: {', '.join(repr(row.label) for row in self.rows)}.")

    def paired(self) -> list[dict[str, Any]]:
        """Differences in PSNR of every two methods, run by run."""
        rows = [row for row in self.rows if row.values("psnr")]
        pairs = [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
        found = [(a, b, paired(a.values("psnr"), b.values("psnr"))) for a, b in pairs]
        return [{"first": a.label, "second": b.label, "measure": "psnr", **e.to_json()} for a, b, e in found if e is not None]

    def fronts(self) -> dict[str, list[Row]]:
        """The rows of every method that no other row of it beats in mean PSNR at the same mean compute or less."""
        methods: dict[str, list[Row]] = {}
        for row in self.rows:
            methods.setdefault(row.front, []).append(row)
        kept = {name: undominated([row.mean_point() for row in rows]) for name, rows in methods.items()}
        fronts = {name: [row for row, on in zip(rows, kept[name], strict=True) if on] for name, rows in methods.items()}
        return {name: rows for name, rows in fronts.items() if rows}

    def at_equal_compute(self) -> list[dict[str, Any]]:
        """PSNR of every row less that of every other method at the row's compute, on that method's own front."""
        found = []
        for row, (name, members) in product(self.rows, self.fronts().items()):
            if name != row.front and len(members) > 1:
                difference = equal_compute(row.points(), [member.points() for member in members])
                if difference is not None:
                    found.append({"row": row.label, "against": name, "measure": "psnr", **difference.to_json()})
        return found

    def to_json(self) -> dict[str, Any]:
        on_front = {row.label for rows in self.fronts().values() for row in rows}
        return {
            "schema": SCHEMA,
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "steps": self.steps,
            "call": dict(self.call),
            "reference": FULL,
            "complete": self.complete,
            "missing": dict(self.missing),
            "rows": [row.to_json() | {"on_front": row.label in on_front} for row in self.rows],
            "paired": self.paired(),
            "equal_compute": self.at_equal_compute(),
        }

    def __str__(self) -> str:
        width = max(len(row.label) for row in self.rows)
        head = f"{'method':<{width}} {'compute':>8} {'speedup':>8} {'effic.':>7} {'PSNR':>7} {'SSIM':>7} {'cache MiB':>10}  note"
        cut_short = [] if self.complete else ["incomplete: the comparison stopped before its last call"]
        machines = sorted({run.machine for row in self.rows for run in row.runs if run.machine})
        spread = [f"times are of {' and '.join(machines)}; every speedup is within one of them"] if len(machines) > 1 else []
        return "\n".join([head, *(_line(row, width) for row in self.rows), *cut_short, *spread])


def _line(row: Row, width: int) -> str:
    def cell(measure: str, form: str, size: int) -> str:
        values = row.values(measure)
        return f"{estimate(values).value if values else '-':>{size}{form if values else ''}}"

    cache = [run.cache_bytes for run in row.runs if run.cache_bytes is not None]
    held = f"{max(cache) / 2**20:.1f}" if cache else "-"
    cells = [cell("compute", ".3f", 8), cell("speedup", ".2f", 8), cell("efficiency", ".2f", 7), cell("psnr", ".2f", 7)]
    return f"{row.label:<{width}} {' '.join(cells)} {cell('ssim', '.4f', 7)} {held:>10}  {row.note}".rstrip()


def load_comparison(directory: Path) -> Comparison:
    """What `save_comparison` wrote; raises InputError where there is nothing that can be gone on with."""
    path = directory / "comparison.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise ValueError(f"its schema is {data['schema']!r}, not {SCHEMA!r}")
        rows = tuple(Row.from_json(row) for row in data["rows"])
        pictures = {label: _read_frames(directory / "pictures" / Path(name).name) for label, name in data["pictures"].items()}
        told = {key: data[key] for key in ("model", "device", "dtype", "steps", "missing", "complete", "call")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be gone on with: {error}. Begin anew in another --output.") from error
    return Comparison(rows=rows, pictures=pictures, **told)


def _read_frames(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(opened)])


def save_comparison(comparison: Comparison, directory: Path) -> list[Path]:
    """comparison.json, comparison.txt and pictures/ in a directory. The full run's picture is `00-full`."""
    pictures = directory / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    names = {}
    for index, (label, frames) in enumerate(comparison.pictures.items()):
        safe = "".join(c if c.isalnum() or c in "-.=" else "_" for c in label)
        names[label] = save_frames(frames, pictures / f"{index:02d}-{safe}.png").relative_to(directory).as_posix()
    files = side_by_side(comparison, directory)
    result, table = directory / "comparison.json", directory / "comparison.txt"
    write_whole(table, (str(comparison) + "\n").encode())
    write_json(result, comparison.to_json() | {"pictures": names})
    return [result, table, pictures, *files]


def side_by_side(comparison: Comparison, directory: Path) -> list[Path]:
    """All clips in one, each under its name, in the order of the rows, as mp4 or animated PNG; nothing for pictures."""
    clips = comparison.pictures
    if not clips or len(next(iter(clips.values()))) == 1:
        return []
    whole = mosaic(clips)
    return [save_frames(whole, output_name(directory / "side-by-side", whole))]
