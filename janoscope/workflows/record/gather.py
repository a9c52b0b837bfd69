"""Shards: recordings of one model and setting, gathered from any number of files, directories and manifests."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ...errors import InputError, RecordingError
from ...pipeline.provenance import fingerprint_of_recording
from ...plan import Fingerprint
from ...plan.fingerprint import PROMPT_FIELDS
from ...recording import open_recording
from .manifest import COMPLETE, MANIFEST, Entry, read_entries

NAMED = 3  # files that a sentence names before it counts


@dataclass(frozen=True)
class Shard:
    """One complete recording. index: its place in the prompt list, where a manifest tells; sha256 likewise."""

    path: Path
    prompt: str
    seed: int | None
    index: int | None = None
    sha256: str | None = None

    @property
    def order(self) -> tuple[float, str, int, str, str]:
        """The same whatever the places are called and in whatever order they were given, as far as that can be."""
        index = float("inf") if self.index is None else self.index
        return index, self.prompt, -1 if self.seed is None else self.seed, self.path.name, str(self.path)


@dataclass(frozen=True)
class Shards:
    """Recordings that may be taken together, in a stable order, and a sentence for everything that was left out.

    made_with: what they have in common; its prompt and seed are the first recording's.
    """

    recordings: tuple[Shard, ...]
    made_with: Fingerprint
    left_out: tuple[str, ...] = ()

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        return tuple(shard.path for shard in self.recordings)

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Every prompt once, in order: several seeds of one prompt are one case of calibration."""
        return tuple(dict.fromkeys(shard.prompt for shard in self.recordings))


def gather_shards(places: Sequence[Path | str], *, strict: bool = False, accelerated: bool = False) -> Shards:
    """The complete recordings of `places`, once each, in an order that does not depend on the order of `places`.

    places: recordings, directories (searched with all below them), and manifests of `janoscope record --prompts`, in any mix.
    A manifest's lines are believed where the file is there with the size they noted: one recording of every recipe is opened,
    not all. Kept are those made with the same model, grid, steps, scheduler and guidance; of several kinds the most frequent.
    The same prompt and seed twice counts once. accelerated: keep recordings of runs that skipped tokens, too.

    Raises InputError for a place that does not exist, and where no recording is left; with `strict` where one is left out.

    >>> gather_shards(["gpu0", "gpu1/manifest.jsonl", "more/run.h5"]).paths  # doctest: +SKIP
    (PosixPath('gpu0/0000-a-cat.h5'), PosixPath('gpu1/0001-a-dog.h5'), PosixPath('more/run.h5'))
    """
    found = _Found(accelerated)
    for place in map(Path, places):
        if not place.exists():
            raise InputError(f"{place} does not exist; name a recording, a directory or a manifest.")
        found.look_at(place)
    if not found.shards:
        raise InputError(f"no complete recording in {', '.join(map(str, places)) or 'no place at all'}: {found.reasons()}")
    kept = _most_frequent(found)
    if strict and found.left_out:
        raise InputError(found.left_out[0])
    return Shards(tuple(_once(kept, found)), found.made[kept[0].path].fingerprint, tuple(found.left_out))


class _Made(NamedTuple):
    """What a recording was made with. kind: all of it but prompt and seed, as text; equal kinds may be taken together."""

    fingerprint: Fingerprint
    kind: str


class _Found:
    """What a walk over the places has seen so far."""

    def __init__(self, accelerated: bool):
        self.accelerated = accelerated
        self.shards: dict[Path, Shard] = {}
        self.made: dict[Path, _Made] = {}
        self.left_out: list[str] = []
        self._seen: set[Path] = set()
        self._manifests: dict[Path, dict[str, Entry]] = {}
        self._recipes: dict[str, _Made | str] = {}

    def look_at(self, place: Path) -> None:
        if place.is_dir():
            for file in [*sorted(place.rglob(MANIFEST)), *sorted(place.rglob("*.h5"))]:
                self.look_at(file)
        elif place.suffix == ".jsonl":
            for name in self._entries(place):
                self._file(place.parent / name, place)
        else:
            self._file(place, place.with_name(MANIFEST))

    def reasons(self) -> str:
        return " ".join(self.left_out) or "nothing there. Record some with `janoscope record --prompts`."

    def _entries(self, manifest: Path) -> dict[str, Entry]:
        place = manifest.resolve()
        if place not in self._manifests:
            self._manifests[place] = read_entries(manifest)
        return self._manifests[place]

    def _file(self, path: Path, manifest: Path) -> None:
        """A recording, by its manifest where that knows it: then it need not be opened, and has its place in the list."""
        if (place := path.resolve()) in self._seen:
            return
        self._seen.add(place)
        entry = self._entries(manifest).get(path.name)
        if entry is not None:
            reason = _not_there(entry, path)
            made = reason or self._of_recipe(entry, path)
            self._keep(Shard(path, entry.prompt, entry.seed, entry.index, entry.sha256), made)
        elif isinstance(opened := self._open(path), str):
            self._keep(Shard(path, "", None), opened)
        else:
            self._keep(Shard(path, opened.fingerprint.prompt, opened.fingerprint.seed), opened)

    def _keep(self, shard: Shard, made: _Made | str) -> None:
        if isinstance(made, str):
            self.left_out.append(f"{shard.path} is left out: {made.rstrip('.')}.")
            return
        self.shards[shard.path], self.made[shard.path] = shard, made

    def _of_recipe(self, entry: Entry, file: Path) -> _Made | str:
        """Recordings of one recipe differ in their prompt alone, so the first that can be opened speaks for all."""
        if not isinstance(self._recipes.get(entry.recipe), _Made):
            self._recipes[entry.recipe] = self._open(file)
        return self._recipes[entry.recipe]

    def _open(self, path: Path) -> _Made | str:
        """What the recording was made with, or why it cannot be taken."""
        try:
            with open_recording(path) as recording:
                if not self.accelerated and recording.skipped is not None:
                    return "it is of an accelerated run, whose skipped tokens say nothing"
                fingerprint = fingerprint_of_recording(recording)
        except RecordingError as error:
            return str(error)
        facts = {key: value for key, value in fingerprint.to_json().items() if key not in PROMPT_FIELDS}
        return _Made(fingerprint, json.dumps(facts, sort_keys=True))


def _not_there(entry: Entry, file: Path) -> str | None:
    if entry.status != COMPLETE:
        return f"its manifest says {entry.status}" + (f" ({entry.error})" if entry.error else "")
    if not file.exists():
        return "its manifest names it, but it is not there"
    if (size := file.stat().st_size) != entry.bytes:
        return f"it has {size} bytes and its manifest noted {entry.bytes}; copy it again"
    return None


def _most_frequent(found: _Found) -> list[Shard]:
    """The shards of the most frequent kind, in order; the others are told by what differs."""
    kinds: dict[str, list[Shard]] = {}
    for shard in sorted(found.shards.values(), key=lambda shard: shard.order):
        kinds.setdefault(found.made[shard.path].kind, []).append(shard)
    kept = max(kinds.values(), key=len)  # of equal counts the first in order
    reference = found.made[kept[0].path].fingerprint
    for shards in kinds.values():
        if shards is not kept:
            differs = found.made[shards[0].path].fingerprint.difference(reference, any_prompt=True)
            told = "; ".join(f"{d.field} {_short(d.mine)} where the others have {_short(d.theirs)}" for d in differs)
            found.left_out.append(f"{_names(shards)} left out: {told}.")
    return kept


def _once(shards: Iterable[Shard], found: _Found) -> Iterator[Shard]:
    """Prompt and seed make a recording: a second one, recorded again after a worker was lost, adds nothing."""
    first: dict[tuple[str, int | None], Shard] = {}
    for shard in shards:
        same = first.setdefault((shard.prompt, shard.seed), shard)
        if same is shard or shard.seed is None:
            yield shard
        else:
            found.left_out.append(f"{shard.path} is left out: {same.path} is of the same prompt and seed.")


def _names(shards: Sequence[Shard]) -> str:
    named = ", ".join(str(shard.path) for shard in shards[:NAMED])
    more = len(shards) - NAMED
    return f"{named}{f' and {more} more are' if more > 0 else ' are' if len(shards) > 1 else ' is'}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
