"""Analysis: what `analyze` found in one recording, and the files that hold it: analysis.json, analysis.npz, plan.json."""

import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import Complexity, Convergence
from ..errors import InputError
from ..plan import Plan
from .recording_identity import apply_arguments

SCHEMA = "janoscope-analysis/1"
AGAIN = "run `janoscope analyze` again"


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
    """Where the analysis goes: `output`, else the recording's name without .h5. Refused when an analysis stands there."""
    directory = output or recording.with_suffix("")
    if (directory / "analysis.json").exists() and not force:
        raise InputError(
            f"{directory} holds an analysis already; choose another directory with -o, or pass --force to replace it."
        )
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file, the analysis needs a directory; choose one with -o.")
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


def write_analysis(analysis: Analysis, directory: Path) -> None:
    """analysis.npz, plan.json and last analysis.json, each complete or absent.

    An earlier analysis.json goes first: a death midway leaves a directory without one, never an old one beside a new plan.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "analysis.json").unlink(missing_ok=True)
    write_whole(directory / "plan.json", analysis.plan.to_text().encode(errors="surrogateescape"))
    write_arrays(directory / "analysis.npz", analysis.arrays)
    write_json(directory / "analysis.json", analysis.results)


def write_json(path: Path, data: Any) -> None:
    """JSON for people and machines alike; numbers that do not exist are null."""
    text = json.dumps(_finite(data), indent=1, ensure_ascii=False, default=str, allow_nan=False) + "\n"
    write_whole(path, text.encode(errors="surrogateescape"))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A NumPy archive, not compressed: the mantissas of measured values hardly shrink, and zlib would take half the analysis."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(arrays))  # type: ignore[arg-type]  # its stub takes every keyword for a flag
    temporary.replace(path)


def write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def read_facts(directory: Path) -> dict[str, Any]:
    """The content of a directory's analysis.json. Raises InputError where there is none, or one of another kind."""
    path = directory / "analysis.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; {AGAIN}.") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise InputError(f"{path} is no analysis of schema {SCHEMA!r}; {AGAIN}.")
    return facts


def read_arrays(directory: Path) -> dict[str, np.ndarray]:
    """The content of a directory's analysis.npz."""
    path = directory / "analysis.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}; {AGAIN}.") from error


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
