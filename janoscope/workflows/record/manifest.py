"""The manifest of a set of recordings: a journal of what became of every prompt."""

import hashlib
import socket
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ...errors import InputError
from ...results.files import append_line, read_journal

MANIFEST = "manifest.jsonl"
ADVICE = "Remove that line, or take another directory."
COMPLETE, FAILED, INTERRUPTED = "complete", "failed", "interrupted"


@dataclass(frozen=True)
class Entry:
    """One line of the manifest; the last of a file counts. sha256 and bytes are of the complete recording."""

    file: str
    index: int
    prompt: str
    seed: int
    status: str
    recipe: str
    sha256: str | None = None
    bytes: int | None = None
    steps: int | None = None
    error: str | None = None
    host: str = field(default_factory=socket.gethostname)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def read_entries(path: Path) -> dict[str, Entry]:
    """The last entry of every file that a manifest names; see `read_journal` for lines that are none."""
    entries = {}
    for entry in read_journal(path, Entry, "manifest", ADVICE):
        if entry.file != Path(entry.file).name or "\0" in entry.file:
            raise InputError(f"{path} names the file {entry.file!r}, which is no name of a file beside it. {ADVICE}")
        entries[entry.file] = entry
    return entries


class Manifest:
    """`manifest.jsonl` in the directory of a set; lines are only ever added, by any number of processes."""

    def __init__(self, directory: Path):
        self.path = directory / MANIFEST

    def read(self) -> dict[str, Entry]:
        """The last entry of every file; none where there is no manifest yet. Raises as `read_entries` does."""
        return read_entries(self.path)

    def append(self, entry: Entry) -> None:
        """On the disk when this returns; see `append_line`."""
        append_line(self.path, asdict(entry))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
