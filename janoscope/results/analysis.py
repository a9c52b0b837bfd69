"""What `analyze` leaves: analysis.json, analysis.npz and plan.json, which carry one id, and aggregate.json over several."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from ..analysis import Complexity, Convergence
from ..decode import read_text
from ..errors import InputError
from ..grid import GridTable, Triple
from ..plan import Plan, TokenLevel
from .earlier import rename_arrays, rename_facts
from .files import is_of_another_schema, read_arrays, read_json
from .writing import finite, remove, write_arrays, write_json, write_text

SCHEMA = "janoscope-analysis/2"
AGGREGATE_SCHEMA = "janoscope-aggregate/2"
EARLIER = {"janoscope-analysis/1": rename_facts}
EARLIER_AGGREGATES = {"janoscope-aggregate/1": rename_facts}
AGAIN = "Run `janoscope analyze` again."
AGAIN_WORDS = "run `janoscope analyze` again"
ID = "id"  # key of analysis.json and plan.json, array of analysis.npz

# array -> axes; `tile` stands for three axes, `step-1` for the gaps between steps
ARRAYS: Mapping[str, tuple[str, ...]] = {
    "complexity_temporal": ("tile",),
    "complexity_spatial": ("tile",),
    "complexity_combined": ("tile",),
    "complexity_enhanced": ("tile",),
    "convergence_step": ("token",),
    "reuse_error": ("token",),
    "flow_velocity_change": ("step-1", "token"),
    "x0_distance": ("step", "token"),
    "raw_change": ("step-1", "token"),
    "point_raw": ("point", "step"),
    "point_velocity": ("point", "step"),
    "timestep": ("step",),
    "sigma": ("step",),
    "alpha": ("step",),
}
# what later versions added: drawn where it is there. `curve`: groups x quantiles of `curves`, as docs/concepts.md lists them
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "ras_importance": ("token",),  # none of a latent of one channel
    "ras_steps": ("ras",),
    "ras_importance_steps": ("ras", "token"),
    "masked_tokens": ("token",),
    "curve_x0_distance_quantiles": ("curve", "step"),
    "curve_velocity_change_quantiles": ("curve", "step-1"),
    "curve_raw_change_quantiles": ("curve", "step-1"),
}


Interval = list[float | None] | None
Versions = dict[str, object]


class Run(TypedDict, total=False):
    """The recorded run; a recording may not say everything."""

    model: str
    argument: str
    revision: str | None
    prompt: str | list[str] | None
    seed: object
    steps: int
    planned_steps: int | None
    complete: bool
    scheduler: str
    options: dict[str, object]


class Conversion(TypedDict, total=False):
    """How predictions became velocities."""

    prediction_type: str
    method: str
    time_unit: str
    noise_path: str


class ComplexityFacts(TypedDict):
    """The map and the policy that it was made by."""

    tile: tuple[int, int, int]
    policy: NotRequired[str]
    warmup: NotRequired[int]
    nonfinite: NotRequired[int]


class Level(TypedDict, total=False):
    """Medians of a level's tokens."""

    tokens: int
    convergence_step_median: float | None
    velocity_convergence_step_median: float | None
    reuse_error_median: float | None
    reuse_error_steps_median: list[float | None]


class ConvergenceFacts(TypedDict, total=False):
    """How tokens settle, by level and over all."""

    tolerance: float
    by_level: dict[str, Level]
    whole_run: Level
    masked_tokens: int


class Predicts(TypedDict, total=False):
    """One map against one target; of `ras_predicts` with a step in the place of map and warm-up."""

    map: str
    warmup: int
    step: int
    target: str
    spearman: float | None
    interval: Interval
    agreement: float | None
    agreement_interval: Interval


class Separation(TypedDict, total=False):
    """Active against static tokens by one signal."""

    auroc: float | None
    interval: Interval


class Point(TypedDict):
    """A place of interest."""

    name: str
    frame: int
    row: int
    col: int
    level: str


class VerdictFacts(TypedDict, total=False):
    """Whether the map separates the tokens that need compute."""

    level: str
    sentence: str


class Curves(TypedDict, total=False):
    """What the axes of stored curves stand for."""

    groups: list[str]
    quantiles: list[float]


class AnalysisFacts(TypedDict):
    """analysis.json."""

    schema: str
    run: Run
    grid: GridTable
    conversion: Conversion
    complexity: ComplexityFacts
    convergence: ConvergenceFacts
    map_predicts: list[Predicts]
    separation: dict[str, Separation | None]
    points: list[Point]
    versions: Versions
    id: NotRequired[str]
    asked: NotRequired[str]
    recording: NotRequired[str]
    notes: NotRequired[list[str]]
    ras_predicts: NotRequired[list[Predicts]]
    curves: NotRequired[Curves | None]
    predicted: NotRequired[dict[str, float | None]]
    shown_frames: NotRequired[list[int] | None]
    reduction: NotRequired[str]
    nonfinite: NotRequired[dict[str, int]]
    verdict: NotRequired[VerdictFacts | None]
    item: NotRequired[int]
    items: NotRequired[int]
    apply_refused: NotRequired[str | None]


def read_facts(directory: Path) -> AnalysisFacts:
    """analysis.json, of the declared shape. Raises InputError where it is missing, damaged or of another version."""
    path = directory / "analysis.json"
    if not path.exists():
        raise InputError(f"{directory} holds no {path.name}, so it is no finished analysis. {AGAIN}")
    # not `finite`: pages draw NaN as a dash
    facts = read_json(path, AnalysisFacts, "analysis", AGAIN, schema=SCHEMA, earlier=EARLIER, finite=False)
    return facts


def read_analysis_arrays(directory: Path, facts: Mapping[str, object]) -> dict[str, np.ndarray]:
    """analysis.npz without its id, which is that of analysis.json; InputError where it is of another analysis."""
    path = directory / "analysis.npz"
    if not path.exists():
        raise InputError(f"{directory} holds no {path.name}, so it is no finished analysis. {AGAIN}")
    arrays = rename_arrays(read_arrays(path, "analysis", AGAIN))
    stored = arrays.pop(ID, None)
    refuse_mixed(directory, path.name, None if stored is None else str(stored), facts)
    if texts := [name for name, array in arrays.items() if array.dtype.kind == "U"]:
        raise InputError(f"{path} is damaged: {texts[0]} holds text, numbers are needed. {AGAIN}")
    return arrays


def refuse_mixed(
    directory: Path, name: str, stored: str | None, facts: Mapping[str, object], result: str = "analysis.json"
) -> None:
    """Raise InputError where a file beside a result is of another one. Files of version 0.1.0 carry no id."""
    if stored != facts.get(ID):
        raise InputError(f"{directory} holds files of two analyses: {name} has id {stored}, {result} {facts.get(ID)}. {AGAIN}")


def analysis_id(facts: Mapping[str, object], plan: str, arrays: Mapping[str, np.ndarray]) -> str:
    """The same for the same analysis, so that a repeated one gives equal files; other for any other."""
    digest = hashlib.sha256(plan.encode(errors="replace"))
    digest.update(json.dumps(finite(facts), sort_keys=True, default=str).encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


@dataclass(frozen=True, repr=False)
class AnalysisResult:
    """One analysis: what analysis.json, analysis.npz and plan.json hold.

    facts: analysis.json. arrays: analysis.npz by name, docs/concepts.md lists them with their shapes. plan: plan.json.

    Example:
        analysis = AnalysisResult.read("run")
        analysis.arrays["reuse_error"]  # (token,)
    """

    plan: Plan
    facts: AnalysisFacts
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def read(cls, directory: Path | str) -> "AnalysisResult":
        """Read and check an analysis directory.

        Raises:
            InputError: a file is missing, damaged, of another version or of another analysis than the others.
        """
        directory = Path(directory)
        facts = read_facts(directory)
        plan = _read_plan(directory / "plan.json")
        refuse_mixed(directory, "plan.json", plan.id, facts)
        arrays = _read_arrays(directory, facts)
        _check_facts(facts, plan, directory / "analysis.json")
        _check_shapes(arrays, facts, plan)
        return AnalysisResult(plan, facts, arrays)

    def save(self, directory: Path | str, replaces: bool = True) -> None:
        """plan.json, analysis.npz and last analysis.json, each whole or absent, with one id.

        An earlier page and analysis.json go first: a death midway leaves a directory without them, never old ones beside a new
        plan.

        Args:
            replaces: whether an earlier analysis may be replaced. The same one is kept as it is, so that its page can be drawn.

        Raises:
            InputError: another one is there and may not be replaced.
        """
        directory = Path(directory)
        plan, arrays = replace(self.plan, id=None).to_text(), {name: np.asarray(array) for name, array in self.arrays.items()}
        own = analysis_id({name: value for name, value in self.facts.items() if name != ID}, plan, arrays)
        directory.mkdir(parents=True, exist_ok=True)
        if not replaces and (directory / "analysis.json").exists():
            if read_facts(directory).get("id") == own:
                return
            raise _holds_another(directory)
        for name in ("report.html", "analysis.json"):
            remove(directory / name)
        write_text(directory / "plan.json", replace(self.plan, id=own).to_text())
        write_arrays(directory / "analysis.npz", {**arrays, ID: np.array(own)})
        write_json(directory / "analysis.json", {**self.facts, ID: own})

    @property
    def results(self) -> AnalysisFacts:
        """The name of `facts` in version 0.1.0."""
        return self.facts

    @property
    def verdict(self) -> str:
        """Whether the map separates the tokens that need compute, in one sentence; empty in analyses of version 0.1.0."""
        verdict = self.facts.get("verdict")
        return verdict.get("sentence", "") if verdict else ""

    @property
    def notes(self) -> list[str]:
        """What a reader has to know of this analysis: a run cut short, masked values, more than one batch element."""
        return list(self.facts.get("notes", []))

    def __repr__(self) -> str:
        return f"<Analysis of {self.facts.get('recording', 'an unknown recording')}\n{self.plan.describe()}>"


@dataclass(frozen=True, repr=False)
class Analysis(AnalysisResult):
    """What `analyze` gives: the result, and the map and the convergence that it was made from.

    apply_arguments: MODEL and options of the `apply` call that repeats this run; empty where the recording does not say them, and
    where `apply` would refuse the plan.
    """

    complexity: Complexity
    convergence: Convergence
    apply_arguments: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Analysis of {self.facts['recording']}\n{self.complexity!r}\n{self.convergence!r}\n{self.plan.describe()}>"


def analysis_directory(recording: Path, output: Path | None, force: bool) -> Path:
    """Where the analysis goes: `output`, else the recording's name without .h5.

    Raises InputError where a finished analysis stands there, unless `force`, or files of another command, whatever is said.
    """
    directory = output or recording.with_suffix("")
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file, the analysis needs a directory; choose one with -o.")
    page, result = directory / "report.html", directory / "analysis.json"
    if result.exists() and page.exists() and not force:
        raise _holds_another(directory)
    # what `analyze` removes first is never there alone, so a page without its result is somebody else's
    foreign = page if page.exists() and not result.exists() else result if is_of_another_schema(result, SCHEMA) else None
    if foreign is not None:
        raise InputError(f"{foreign} is of no analysis and would be replaced; move it away, or choose another directory with -o.")
    return directory


def analysis_directories(recordings: Sequence[Path], output: Path | None, force: bool) -> list[Path]:
    """As `analysis_directory` for each; of several recordings each gets a directory of its own name in `output`.

    Raises InputError where two would share a directory, and before anything is written.
    """
    if len(recordings) == 1:
        return [analysis_directory(recordings[0], output, force)]
    wanted = [output / recording.stem if output else recording.with_suffix("") for recording in recordings]
    for at, directory in enumerate(wanted):
        if directory in wanted[:at]:
            first = recordings[wanted.index(directory)]
            raise InputError(f"{first} and {recordings[at]} would both be analysed into {directory}; leave one out or rename it.")
    return [analysis_directory(recording, directory, force) for recording, directory in zip(recordings, wanted, strict=True)]


def _holds_another(directory: Path) -> InputError:
    return InputError(f"{directory} holds an analysis already; choose another directory with -o, or pass --force to replace it.")


def _read_plan(path: Path) -> Plan:
    if not path.exists():
        raise InputError(f"{path.parent} holds no {path.name}, so it is no finished analysis; {AGAIN_WORDS}.")
    return Plan.from_text(read_text(path, "plan", AGAIN, errors="surrogateescape"), str(path))


def _read_arrays(directory: Path, facts: AnalysisFacts) -> dict[str, np.ndarray]:
    stored = read_analysis_arrays(directory, facts)
    if missing := [name for name in ARRAYS if name not in stored]:
        raise InputError(f"{directory / 'analysis.npz'} lacks {', '.join(missing)}; {AGAIN_WORDS}.")
    return stored


def _check_facts(facts: AnalysisFacts, plan: Plan, path: Path) -> None:
    """Grid, tile and points must fit the plan, since every figure is placed by them."""
    grid = plan.fingerprint.grid
    if facts["grid"] != grid.to_json():
        raise InputError(f"{path} has grid {facts['grid']}, plan.json beside it {grid.to_json()}; {AGAIN_WORDS}.")
    try:
        tiles = grid.tiles(_tile(facts))
        for point in facts["points"]:
            grid.token_at(*(int(point[axis]) for axis in ("frame", "row", "col")))
            TokenLevel(point["level"])
        for frame in facts.get("shown_frames") or ():
            grid.token_at(int(frame), 0, 0)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{path} has a malformed tile or point ({type(error).__name__}: {error}); {AGAIN_WORDS}.") from error
    if min(tiles) < 1:
        raise InputError(f"{path} has tile {facts['complexity']['tile']}; sizes are at least 1. {AGAIN}")


def _check_shapes(arrays: Mapping[str, np.ndarray], facts: AnalysisFacts, plan: Plan) -> None:
    grid, planned, steps = plan.fingerprint.grid, plan.fingerprint.steps, arrays["timestep"].size
    if not 2 <= steps <= planned:  # fewer than planned where a recording that stopped was analysed
        raise InputError(f"analysis.npz has {steps} steps, the plan {planned}; {AGAIN_WORDS}.")
    sizes: dict[str, tuple[int, ...]] = {
        "tile": grid.tiles(_tile(facts)),
        "token": (grid.count,),
        "step": (steps,),
        "step-1": (steps - 1,),
        "point": (len(facts["points"]),),
        "ras": (arrays["ras_steps"].size if "ras_steps" in arrays else 0,),
        "curve": curve_axes(facts),
    }
    for name, axes in (*ARRAYS.items(), *OPTIONAL.items()):
        if name in OPTIONAL and name not in arrays:
            continue
        expected = tuple(size for axis in axes for size in sizes[axis])
        if arrays[name].shape != expected:
            shape = arrays[name].shape
            raise InputError(f"analysis.npz: {name} has shape {shape}, plan and grid ask for {expected}; {AGAIN_WORDS}.")


def curve_axes(facts: AnalysisFacts) -> tuple[int, int]:
    """Groups and quantiles of the stored curves."""
    curves = facts.get("curves") or {}
    return len(curves.get("groups") or ()), len(curves.get("quantiles") or ())


def _tile(facts: AnalysisFacts) -> Triple:
    frames, rows, cols = facts["complexity"]["tile"]
    return frames, rows, cols
