"""Analysis: what `analyze` found in one recording, and the files that hold it: analysis.json, analysis.npz, plan.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import Complexity, Convergence
from ..errors import InputError
from ..plan import Plan
from ..results.analysis import ID, SCHEMA, analysis_id, read_facts
from ..results.files import is_of_another_schema
from ..results.writing import remove, write_arrays, write_json, write_text
from .recording_identity import apply_arguments


@dataclass(frozen=True)
class Analysis:
    """What `analyze` found in one recording. `arrays` by the names of analysis.npz, `results` as in analysis.json."""

    plan: Plan
    complexity: Complexity
    convergence: Convergence
    results: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def apply_arguments(self) -> list[str]:
        """MODEL and options of the `apply` call that repeats this run.

        Empty where the recording does not say them, and where `apply` would refuse the plan.
        """
        return [] if self.results["apply_refused"] else apply_arguments(self.results["run"])

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
