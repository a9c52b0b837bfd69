"""What `compare` leaves: comparison.json, as its reader checks it."""

import html
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from ..errors import InputError
from .files import as_dataclass, read_json
from .images import mosaic, output_name, read_frames, save_frames
from .statistics import Estimate, Key, equal_compute, estimate, front_name, paired, undominated
from .writing import holds_nothing, remove, write_json, write_text

FULL = "full"
IMAGES = "pictures"
FIGURES = ("figures/pareto.svg", "figures/grid.png")
PER_SECOND = ("speedup", "efficiency")  # measures that are a quotient of wall times, or one times a share
TOO_NOISY = "times too noisy"
MEASURES = ("wall_s", "cpu_s", "compute", "speedup", "efficiency", "psnr", "ssim", "ms_ssim", "lpips")


SCHEMA = "janoscope-comparison/1"
AGAIN = "Run `janoscope compare` again, into another --output."


class RunFacts(TypedDict):
    """One generation against the full run of the same prompt and seed."""

    prompt: str
    seed: int
    wall_s: float
    cpu_s: NotRequired[float]
    compute: float | None
    speedup: float | None
    psnr: float | None
    ssim: float | None
    ms_ssim: float | None
    lpips: float | None
    cache_bytes: int | None
    peak_bytes: int | None
    identical: NotRequired[bool]
    machine: NotRequired[str | None]
    efficiency: NotRequired[float | None]


class Means(TypedDict):
    """Of a row's runs."""

    compute: float | None
    psnr: float | None
    wall_s: NotRequired[float | None]
    cpu_s: NotRequired[float | None]
    speedup: NotRequired[float | None]
    efficiency: NotRequired[float | None]
    ssim: NotRequired[float | None]
    ms_ssim: NotRequired[float | None]
    lpips: NotRequired[float | None]


class Intervals(TypedDict):
    """Of a row's means; (low, high), null where there are too few runs."""

    psnr: list[float | None] | None
    compute: NotRequired[list[float | None] | None]
    wall_s: NotRequired[list[float | None] | None]
    cpu_s: NotRequired[list[float | None] | None]
    speedup: NotRequired[list[float | None] | None]
    efficiency: NotRequired[list[float | None] | None]
    ssim: NotRequired[list[float | None] | None]
    ms_ssim: NotRequired[list[float | None] | None]
    lpips: NotRequired[list[float | None] | None]


class RowFacts(TypedDict):
    """A method and its runs."""

    label: str
    method: str
    options: dict[str, str]
    runs: list[RunFacts]
    note: str
    mean: Means
    interval: Intervals
    front: str
    on_front: NotRequired[bool]
    times: NotRequired[str | None]


class Difference(TypedDict):
    """Of two methods, a mean and its interval."""

    value: float | None
    low: float | None
    high: float | None
    runs: int


class Paired(Difference):
    """Run by run."""

    first: str
    second: str
    measure: NotRequired[str]


class AtEqualCompute(Difference):
    """A row against another method's front."""

    row: str
    against: str
    measure: NotRequired[str]


class ComparisonFacts(TypedDict):
    """comparison.json. pictures: label -> path, of which only the name counts."""

    schema: str
    model: str
    device: str
    dtype: str
    steps: int | None
    complete: bool
    missing: dict[str, str]
    rows: list[RowFacts]
    pictures: dict[str, str]
    paired: list[Paired]
    equal_compute: list[AtEqualCompute]
    call: NotRequired[dict[str, str | int | float | bool | None]]
    reference: NotRequired[str]


def read_facts(directory: Path) -> ComparisonFacts:
    """comparison.json. Raises InputError where it is missing, damaged or of another version."""
    return read_json(directory / "comparison.json", ComparisonFacts, "comparison", AGAIN, schema=SCHEMA)


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

    def to_json(self) -> dict[str, object]:
        facts = asdict(self) | {"efficiency": self.efficiency}
        return facts if self.machine else {name: fact for name, fact in facts.items() if name != "machine"}

    @classmethod
    def from_json(cls, data: Mapping[str, object], origin: str, advice: str) -> "Run":
        """Raises InputError where the data are no run."""
        stored = {key: value for key, value in data.items() if key != "efficiency"}
        return as_dataclass(stored, cls, f"{origin}: a run", advice)


@dataclass
class Row:
    """A method and its runs; note says what went wrong, or what must be known to read them."""

    label: str
    method: str
    options: Mapping[str, str]
    runs: list[Run] = field(default_factory=list)
    note: str = ""
    _estimated: tuple[int, Mapping[str, Estimate]] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def from_json(cls, data: RowFacts, origin: str, advice: str) -> "Row":
        runs = [Run.from_json(run, origin, advice) for run in data["runs"]]
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

    def estimates(self) -> Mapping[str, Estimate]:
        """Means of every measure that a run has, with intervals; reckoned once for the runs there are.

        Of a speedup it is the sum of the full runs' wall times over the sum of ours; a mean of quotients contradicts the wall
        times beside it and favours whatever is noisy. Efficiency is weighed alike.
        """
        if self._estimated is None or self._estimated[0] != len(self.runs):
            weights = {m: self.values("wall_s") if m in PER_SECOND else None for m in MEASURES}
            estimates = {m: estimate(values, weights=weights[m]) for m in MEASURES if (values := self.values(m))}
            self._estimated = len(self.runs), estimates
        return self._estimated[1]

    @property
    def times(self) -> str | None:
        """Whether the method is `faster` or `slower` than the full run, or the times are too noisy to say; None where too few
        runs were made, and of the full run itself."""
        speedup = self.estimates().get("speedup")
        if self.method == FULL or speedup is None or speedup.low is None or speedup.high is None:
            return None
        if speedup.low <= 1 <= speedup.high:
            return TOO_NOISY
        return "faster" if speedup.low > 1 else "slower"

    def to_json(self) -> dict[str, object]:
        estimates = self.estimates()
        return {
            "label": self.label,
            "method": self.method,
            "options": dict(self.options),
            "front": self.front,
            "runs": [run.to_json() for run in self.runs],
            "mean": {m: estimates[m].value if m in estimates else None for m in MEASURES},
            "interval": {m: [estimates[m].low, estimates[m].high] if m in estimates else None for m in MEASURES},
            "times": self.times,
            "note": self.note,
        }


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`. pictures: label -> (frame, row, col, RGB) uint8 of the first prompt and seed, `full` first.

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
    call: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    def row(self, label: str) -> Row:
        """The row of that label. Raises InputError where there is none."""
        for row in self.rows:
            if row.label == label:
                return row
        raise InputError(f"the comparison has no row {label!r}; legal: {', '.join(repr(row.label) for row in self.rows)}.")

    def paired(self) -> list[dict[str, object]]:
        """Differences in PSNR of every two methods, run by run."""
        rows = [row for row in self.rows if row.values("psnr")]
        pairs = [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
        estimates = [(a, b, paired(a.values("psnr"), b.values("psnr"))) for a, b in pairs]
        return [{"first": a.label, "second": b.label, "measure": "psnr", **e.to_json()} for a, b, e in estimates if e is not None]

    def fronts(self) -> dict[str, list[Row]]:
        """The rows of every method that no other row of it beats in mean PSNR at the same mean compute or less."""
        methods: dict[str, list[Row]] = {}
        for row in self.rows:
            methods.setdefault(row.front, []).append(row)
        best = {name: undominated([row.mean_point() for row in rows]) for name, rows in methods.items()}
        fronts = {name: [row for row, on in zip(rows, best[name], strict=True) if on] for name, rows in methods.items()}
        return {name: rows for name, rows in fronts.items() if rows}

    def at_equal_compute(self) -> list[dict[str, object]]:
        """PSNR of every row minus that of every other method at the row's compute, on that method's own Pareto front."""
        differences: list[dict[str, object]] = []
        for row, (name, members) in product(self.rows, self.fronts().items()):
            if name != row.front and len(members) > 1:
                difference = equal_compute(row.points(), [member.points() for member in members])
                if difference is not None:
                    differences.append({"row": row.label, "against": name, "measure": "psnr", **difference.to_json()})
        return differences

    def to_json(self) -> dict[str, object]:
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

    def __repr__(self) -> str:
        calls = len(self.rows[0].runs) if self.rows else 0
        rest = "" if self.complete else ", incomplete"
        return f"<Comparison of {self.model}: full and {len(self.rows) - 1} methods on {calls} calls{rest}>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def save(self, directory: str | Path) -> list[Path]:
        """Write comparison.json, comparison.txt and the images; gives their paths. See `ComparisonFiles`."""
        return ComparisonFiles(Path(directory)).save(self)

    def __str__(self) -> str:
        width = max(len(row.label) for row in self.rows)
        head = f"{'method':<{width}} {'compute':>8} {'speedup':>8} {'effic.':>7} {'PSNR':>7} {'SSIM':>7} {'cache MiB':>10}  note"
        cut_short = [] if self.complete else ["incomplete: the comparison stopped before its last call"]
        machines = sorted({run.machine for row in self.rows for run in row.runs if run.machine})
        spread = [f"times are of {' and '.join(machines)}; every speedup is within one of them"] if len(machines) > 1 else []
        return "\n".join([head, *(_line(row, width) for row in self.rows), *cut_short, *spread])


def _line(row: Row, width: int) -> str:
    def cell(measure: str, form: str, size: int) -> str:
        mean = row.estimates().get(measure)
        return f"{mean.value if mean else '-':>{size}{form if mean else ''}}"

    cache = [run.cache_bytes for run in row.runs if run.cache_bytes is not None]
    cache_mib = f"{max(cache) / 2**20:.1f}" if cache else "-"
    notes = [note for note in (TOO_NOISY if row.times == TOO_NOISY else "", row.note) if note]
    cells = [cell("compute", ".3f", 8), cell("speedup", ".2f", 8), cell("efficiency", ".2f", 7), cell("psnr", ".2f", 7)]
    return f"{row.label:<{width}} {' '.join(cells)} {cell('ssim', '.4f', 7)} {cache_mib:>10}  {'; '.join(notes)}".rstrip()


def load_comparison(directory: Path) -> Comparison:
    """What `ComparisonFiles` wrote. An image that cannot be read is left out, with a warning: it is made again.

    Raises InputError where there is nothing that can be gone on with.
    """
    path = directory / "comparison.json"
    facts = read_facts(directory)
    advice = "Begin anew in another --output."
    rows = tuple(Row.from_json(row, str(path), advice) for row in facts["rows"])
    if [row.label for row in rows][:1] != [FULL]:
        raise InputError(f"{path} cannot be gone on with: its first row is not {FULL!r}. {advice}")
    return Comparison(
        model=facts["model"],
        device=facts["device"],
        dtype=facts["dtype"],
        steps=facts["steps"],
        rows=rows,
        missing=facts["missing"],
        pictures=_readable(directory, facts["pictures"]),
        complete=facts["complete"],
        call=facts.get("call", {}),
    )


def _readable(directory: Path, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    images = {}
    for label, name in names.items():
        path = directory / IMAGES / Path(name).name  # the name only: a path in a file that someone sent could point anywhere
        try:
            images[label] = read_frames(path, "It is made again.")
        except InputError as error:
            warnings.warn(str(error), RuntimeWarning, stacklevel=3)
    return images


class ComparisonFiles:
    """The directory of one comparison: comparison.json, comparison.txt, pictures/, and of videos one that shows all side by side.

    Each image is written once. `earlier`: a comparison of this directory that is gone on with, whose images are there already.
    """

    def __init__(self, directory: Path, earlier: Comparison | None = None):
        self.directory = directory
        self._there: dict[str, str] = {}
        if earlier is not None:
            names = read_facts(directory)["pictures"]
            self._there = {label: f"{IMAGES}/{Path(names[label]).name}" for label in earlier.pictures}
        self._side_by_side: tuple[str, ...] = ()
        self._began = earlier is not None

    def clear(self) -> None:
        """Remove what an earlier comparison listed as its own here, its page and result first; nothing else."""
        names = ("report.html", "comparison.json", "comparison.txt", "side-by-side.mp4", "side-by-side.png", *FIGURES)
        try:
            listed = list(read_facts(self.directory)["pictures"].values())
        except InputError:  # damaged: what else is its own cannot be said
            listed = []
        images = [f"{IMAGES}/{Path(name).name}" for name in listed]
        for name in (*names, *images):
            remove(self.directory / name)

    def save(self, comparison: Comparison) -> list[Path]:
        """Write what was measured so far; gives the paths. The result goes first: an image that is lost can be made again."""
        if not self._began and (self.directory / "comparison.json").exists():
            self.clear()
        self._began = True
        (self.directory / IMAGES).mkdir(parents=True, exist_ok=True)
        names = {label: self._there.get(label) or _image_name(label, at) for at, label in enumerate(comparison.pictures)}
        result, table = self.directory / "comparison.json", self.directory / "comparison.txt"
        remove(self.directory / "report.html")
        write_json(result, comparison.to_json() | {"pictures": names})
        write_text(table, str(comparison) + "\n")
        for label, name in names.items():
            if label not in self._there:
                save_frames(comparison.pictures[label], self.directory / name)
        self._there |= names
        return [result, table, self.directory / IMAGES, *self._save_side_by_side(comparison)]

    def _save_side_by_side(self, comparison: Comparison) -> list[Path]:
        """All videos in one, each under its name, in the order of the rows, as mp4 or animated PNG; nothing for images."""
        videos = comparison.pictures
        if not videos or len(next(iter(videos.values()))) == 1:
            return []
        path = output_name(self.directory / "side-by-side", next(iter(videos.values())))
        if self._side_by_side != tuple(videos) or not path.exists():
            save_frames(mosaic(videos), path)
            self._side_by_side = tuple(videos)
        return [path]


def _image_name(label: str, at: int) -> str:
    safe = "".join(c if c.isalnum() or c in "-.=" else "_" for c in label)
    return f"{IMAGES}/{at:02d}-{safe[:100]}.png"


def save_comparison(comparison: Comparison, directory: Path) -> list[Path]:
    """All files of a comparison at once; see `ComparisonFiles`."""
    return ComparisonFiles(directory).save(comparison)


def ready_directory(directory: Path, *, resume: bool, force: bool) -> Comparison | None:
    """Make the directory of a comparison ready; gives the earlier comparison to go on with.

    A directory in which no call was finished is as good as none. Raises InputError for one with other files in it, and, unless
    `resume` or `force`, for one with a comparison. The first `ComparisonFiles.save` then removes the files that it listed.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file, a comparison needs a directory; choose another --output.")
    there = (directory / "comparison.json").exists()
    if there and not (resume or force):
        raise InputError(
            f"{directory} exists; choose another --output, or pass --resume to go on with it or --force to replace it."
        )
    if there and resume:
        return load_comparison(directory)
    if there:
        return None
    if taken := [name for name in ("report.html", "comparison.txt", *FIGURES) if (directory / name).exists()]:
        raise InputError(
            f"{directory / taken[0]} is of no comparison and would be replaced; move it away, or choose another --output."
        )
    if not (force or holds_nothing(directory)):
        raise InputError(f"{directory} exists and holds no comparison; choose another --output, or pass --force to use it.")
    return None
