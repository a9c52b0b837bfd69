"""Provenance: made.json, how the results in a folder came to be; written by `remake`, shown on the page."""

from pathlib import Path
from typing import TypedDict

from ..results.files import read_json

FILE = "made.json"
SCHEMA = "janoscope-report/1"
AGAIN = "Make the results again with --remake."


class RecordingFacts(TypedDict):
    """A recording that was used and deleted. bytes: of its file."""

    prompt: str
    seed: int
    steps: int
    bytes: int
    sha256: str


class Extra(TypedDict, total=False):
    """What a kind of report adds. kept: folders of whole analyses beside it."""

    policy: str
    dtype: str
    kept: list[str]
    recordings: list[RecordingFacts]
    new_prompts: list[str]
    new_seeds: list[int]


class Provenance(Extra, total=False):
    """made.json. Empty where a command filled the folder, whose own file says how. files: all that a remake wrote, itself too."""

    schema: str
    subject: str
    model: str
    revision: str
    family: str
    device: str
    quick: bool
    call: dict[str, str | int | float | bool | None]
    prompts: list[str]
    seeds: list[int]
    versions: dict[str, str]
    files: list[str]


def read_provenance(folder: Path) -> Provenance:
    """made.json of a folder, empty where there is none. Raises InputError where it is damaged."""
    if not (folder / FILE).exists():
        return {}
    provenance: Provenance = read_json(folder / FILE, Provenance, "provenance of results", AGAIN)
    return provenance
