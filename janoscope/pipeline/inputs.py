"""What a command reads is looked at before what it writes: a misspelt model is told, not the file that would be in its way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from ..errors import InputError, JanoscopeError
from ..probe import load_probe, probe_paths
from ..recording import open_recording
from .model_directory import DEFAULTS_FILE, bundled_directory, model_defaults, named_policy, refuse_missing_model
from .provenance import policy_of_recording, probe_of_recording


@contextmanager
def inputs_first(check: Callable[[], object]) -> Iterator[None]:
    """Around the look at outputs: where it refuses, `check` is asked first, and what it says of the inputs is raised instead."""
    try:
        yield
    except JanoscopeError:
        check()
        raise


def check_model(name: str, *, revision: str | None = None, probe: Path | None = None, policy: str | None = None) -> None:
    """Raise InputError where MODEL, a probe or a policy is none, without loading any weights.

    A preset is looked for in the probe, else in all bundled ones: the model's own family is known when it is loaded.
    """
    refuse_missing_model(name, revision)
    sheet = None if probe is None else load_probe(probe)
    own = model_defaults(bundled_directory(name) or (Path(name) if (Path(name) / DEFAULTS_FILE).is_file() else None))[1]
    if policy is None or policy == own.get("name"):
        return
    sheets = [load_probe(path) for path in probe_paths()] if sheet is None else [sheet]
    if policy.endswith(".toml") or Path(policy).is_file():
        named_policy(sheets[0], policy)
        return
    known = [preset for one in sheets for preset in one.policies]
    if policy not in known:
        near = get_close_matches(policy, known)
        meant = f"did you mean {' or '.join(near)}? Else pass" if near else "pass"
        raise InputError(f"no preset policy {policy!r} in any probe; {meant} the path of a policy file (docs/policy.md).")


def check_recordings(runs: Sequence[Path], *, policy: str | None, probe: Path | None, partial: bool) -> None:
    """Raise where none of these recordings can be analysed, with the first reason; one of several is reported and skipped."""
    faults: list[JanoscopeError] = []
    for run in runs:
        try:
            with open_recording(run, partial=partial) as recording:
                policy_of_recording(recording, probe_of_recording(recording, probe), policy)
        except JanoscopeError as error:
            faults.append(error)
    if len(faults) == len(runs):
        raise faults[0]
