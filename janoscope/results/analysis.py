"""What `analyze` leaves: analysis.json, analysis.npz and plan.json, which carry one id, and aggregate.json over several."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from ..analysis import Complexity, Convergence
from ..errors import InputError
from ..grid import GridTable
from ..plan import Plan
from .earlier import rename_arrays, rename_facts
from .files import is_of_another_schema, read_arrays, read_json
from .writing import finite, remove, write_arrays, write_json, write_text

SCHEMA = "janoscope-analysis/2"
AGGREGATE_SCHEMA = "janoscope-aggregate/2"
EARLIER = {"janoscope-analysis/1": rename_facts}
EARLIER_AGGREGATES = {"janoscope-aggregate/1": rename_facts}
AGAIN = "Run `janoscope analyze` again."
ID = "id"  # key of analysis.json and plan.json, array of analysis.npz

Interval = list[float | None] | None
Versions = dict[str, Any]


class Run(TypedDict, total=False):
    """The recorded run; a recording may not say everything."""

    model: str
    argument: str
    revision: str | None
    prompt: str | list[str] | None
    seed: Any
    steps: int
    planned_steps: int | None
    complete: bool
    scheduler: str
    options: dict[str, Any]


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


class Curves(TypedDict, total=False):
    """What the axes of stored curves stand for."""

    groups: list[str]
    quantiles: list[float]


class Facts(TypedDict):
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
    verdict: NotRequired[dict[str, Any] | None]


def read_facts(directory: Path) -> Facts:
    """analysis.json, of the declared shape. Raises InputError where it is missing, damaged or of another version."""
    path = directory / "analysis.json"
    if not path.exists():
        raise InputError(f"{directory} holds no {path.name}, so it is no finished analysis. {AGAIN}")
    # not `finite`: pages draw NaN as a dash
    facts: Facts = read_json(path, Facts, "analysis", AGAIN, schema=SCHEMA, earlier=EARLIER, finite=False)
    return facts


def read_analysis_arrays(directory: Path, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
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


def refuse_mixed(directory: Path, name: str, stored: str | None, facts: Mapping[str, Any], result: str = "analysis.json") -> None:
    """Raise InputError where a file beside a result is of another one. Files of version 0.1.0 carry no id."""
    if stored != facts.get(ID):
        raise InputError(f"{directory} holds files of two analyses: {name} has id {stored}, {result} {facts.get(ID)}. {AGAIN}")


def analysis_id(results: Mapping[str, Any], plan: str, arrays: Mapping[str, np.ndarray]) -> str:
    """The same for the same analysis, so that a repeated one gives equal files; other for any other."""
    made = hashlib.sha256(plan.encode(errors="replace"))
    made.update(json.dumps(finite(results), sort_keys=True, default=str).encode())
    for name, array in arrays.items():
        made.update(f"{name} {array.dtype} {array.shape}".encode())
        made.update(np.ascontiguousarray(array).data)
    return made.hexdigest()[:32]


@dataclass(frozen=True)
class Analysis:
    """What `analyze` found in one recording. `arrays` by the names of analysis.npz, `results` as in analysis.json.

    apply_arguments: MODEL and options of the `apply` call that repeats this run; empty where the recording does not say them, and
    where `apply` would refuse the plan.
    """

    plan: Plan
    complexity: Complexity
    convergence: Convergence
    results: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    apply_arguments: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Whether the map separates the tokens that need compute, in one sentence."""
        return str(self.results["verdict"]["sentence"])

    @property
    def notes(self) -> list[str]:
        """What a reader has to know of this analysis: a run cut short, masked values, more than one item."""
        return list(self.results["notes"])

    def __repr__(self) -> str:
        return f"<Analysis of {self.results['recording']}\n{self.complexity!r}\n{self.convergence!r}\n{self.plan.describe()}>"


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
    theirs = page if page.exists() and not result.exists() else result if is_of_another_schema(result, SCHEMA) else None
    if theirs is not None:
        raise InputError(f"{theirs} is of no analysis and would be replaced; move it away, or choose another directory with -o.")
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


def write_analysis(analysis: Analysis, directory: Path, replaces: bool = True) -> None:
    """plan.json, analysis.npz and last analysis.json, each whole or absent, with one id.

    An earlier page and analysis.json go first: a death midway leaves a directory without them, never old ones beside a new plan.
    replaces: whether an earlier analysis may be replaced. The same one is kept as it is, so that its page can be drawn.

    Raises InputError where another one is there and may not be replaced.
    """
    plan, arrays = analysis.plan.to_text(), {name: np.asarray(array) for name, array in analysis.arrays.items()}
    made = analysis_id(analysis.results, plan, arrays)
    directory.mkdir(parents=True, exist_ok=True)
    if not replaces and (directory / "analysis.json").exists():
        if read_facts(directory).get("id") == made:
            return
        raise _holds_another(directory)
    for name in ("report.html", "analysis.json"):
        remove(directory / name)
    write_text(directory / "plan.json", replace(analysis.plan, id=made).to_text())
    write_arrays(directory / "analysis.npz", {**arrays, ID: np.array(made)})
    write_json(directory / "analysis.json", {**analysis.results, ID: made})


def _holds_another(directory: Path) -> InputError:
    return InputError(f"{directory} holds an analysis already; choose another directory with -o, or pass --force to replace it.")
