"""Recipe: what a folder of reports/ says about how its results are made. Read without torch, since drawing needs none."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..decode import decode_toml, read_text
from ..errors import InputError

FILE = "recipe.toml"
Table = Mapping[str, Any]  # decoded TOML
BUNDLED = ("demo", "demo:video", "demo:latte")
CALL_KEYS = ("steps", "height", "width", "frames", "guidance", "negative_prompt")
QUICK_KEYS = ("prompts", "seeds", *CALL_KEYS[:4])
_TOP_KEYS = ("kind", "title", "claim", "about", "source", "subject")
_OF_SUBJECT = ("model", "name", "probe", "revision", "prompts", "seeds", "call", "quick", "device", "policy", "about")
_SUBJECT_KEYS = (*_OF_SUBJECT, "method", "methods")
_METHOD_KEYS = ("spec", "title", "theirs", "headline")


@dataclass(frozen=True)
class MethodLine:
    """One method of a comparison.

    spec: as `--method` takes it. title: for people. theirs: published figures of that row. is_headline: in the first lines.
    """

    spec: str
    title: str
    theirs: Mapping[str, float] = field(default_factory=dict)
    is_headline: bool = True


@dataclass(frozen=True)
class Subject:
    """One model that a claim is measured on.

    name: its folder. probe: the family, by which a model given with --model finds its subject. call: of CALL_KEYS, the rest is
    the model's default. quick: a smaller run that shows the same structure. policy: preset or TOML file, empty for the model's
    own. settings: what only this kind of report knows.
    """

    name: str
    model: str
    probe: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    revision: str = ""
    device: str = ""
    policy: str = ""
    about: str = ""
    call: Table = field(default_factory=dict)
    quick: Mapping[str, int] = field(default_factory=dict)
    methods: tuple[MethodLine, ...] = ()
    settings: Table = field(default_factory=dict)

    @property
    def is_bundled(self) -> bool:
        """Whether its weights come with janoscope."""
        return self.model in BUNDLED


@dataclass(frozen=True)
class Recipe:
    """recipe.toml of a report. kind says which code makes and draws it; subjects is empty where no model is run."""

    directory: Path
    kind: str
    title: str
    claim: str
    about: str = ""
    source: str = ""
    subjects: tuple[Subject, ...] = ()
    settings: Table = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return self.directory.resolve().name


def read_recipe(directory: Path) -> Recipe:
    """The recipe of a report's folder.

    Raises InputError where there is none, it is no TOML, or naming every fault in it.
    """
    path = directory / FILE
    if not path.exists():
        raise InputError(f"{directory} holds no {FILE}, so it is no report; name a folder of reports/.")
    advice = "Correct it, or take it from the repository again."
    table = decode_toml(read_text(path, "recipe", advice), str(path), advice)
    faults: list[str] = [f"{key} is missing" for key in ("kind", "title", "claim") if not isinstance(table.get(key), str)]
    subjects = [_subject(entry, directory, faults) for entry in _tables(table, "subject", faults)]
    names = [subject.name for subject in subjects]
    faults += [f"two subjects are named {name}" for name in sorted({name for name in names if names.count(name) > 1})]
    if faults:
        raise InputError(f"{path}: {'; '.join(faults)}. docs/reports.md lists every key.")
    texts = {key: str(table.get(key, "")).strip() for key in _TOP_KEYS[:5]}
    settings = {key: value for key, value in table.items() if key not in _TOP_KEYS}
    return Recipe(directory, subjects=tuple(subjects), settings=settings, **texts)


def slug_of(model: str) -> str:
    """A model's name as that of a folder: `black-forest-labs/FLUX.1-dev` -> `flux.1-dev`."""
    return re.sub(r"[^a-z0-9.]+", "-", model.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-.") or "model"


def _tables(table: Table, key: str, faults: list[str]) -> Sequence[Table]:
    entries = table.get(key, [])
    if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
        return entries
    faults.append(f"{key} has to be written as [[{key}]]")
    return []


def _subject(entry: Table, directory: Path, faults: list[str]) -> Subject:
    model = str(entry.get("model", ""))
    where = f"subject {model or '?'}"
    faults += [f"{where}: {key} is missing" for key in ("model", "probe", "prompts") if not entry.get(key)]
    call, quick = (_table(entry, key, where, faults) for key in ("call", "quick"))
    faults += [f"{where}: call has no {key}; legal: {', '.join(CALL_KEYS)}" for key in call if key not in CALL_KEYS]
    faults += [f"{where}: quick has no {key}; legal: {', '.join(QUICK_KEYS)}" for key in quick if key not in QUICK_KEYS]
    seeds = entry.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        faults.append(f"{where}: seeds is {seeds!r}, a list of whole numbers is needed")
        seeds = [0]
    return Subject(
        name=str(entry.get("name") or slug_of(model)),
        model=model,
        prompts=_lines(entry.get("prompts", []), directory, where, faults),
        seeds=tuple(seeds),
        call=call,
        quick=quick,
        methods=(
            *(_method(line, where, faults) for line in _tables(entry, "method", faults)),
            *(MethodLine(line, line, is_headline=False) for line in _lines(entry.get("methods", []), directory, where, faults)),
        ),
        settings={key: value for key, value in entry.items() if key not in _SUBJECT_KEYS},
        **{key: str(entry.get(key, "")).strip() for key in ("probe", "revision", "device", "policy", "about")},
    )


def _lines(lines: object, directory: Path, where: str, faults: list[str]) -> tuple[str, ...]:
    """A list of prompts or methods, or the name of a text file in the report's folder with one a line; # begins a remark."""
    if isinstance(lines, str):
        try:
            lines = read_text(directory / lines, "lines of", "").splitlines()
        except InputError as error:
            faults.append(f"{where}: {str(error).strip().rstrip('.')}")
            return ()
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        faults.append(f"{where}: prompts and methods are lists of texts or names of text files")
        return ()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _table(entry: Table, key: str, where: str, faults: list[str]) -> Table:
    table = entry.get(key, {})
    if isinstance(table, dict):
        return table
    faults.append(f"{where}: {key} is {table!r}, a table is needed")
    return {}


def _method(line: Table, where: str, faults: list[str]) -> MethodLine:
    faults += [f"{where}: a method has no {key}; legal: {', '.join(_METHOD_KEYS)}" for key in line if key not in _METHOD_KEYS]
    spec = str(line.get("spec", ""))
    if not spec:
        faults.append(f"{where}: a method lacks its spec")
    theirs = _table(line, "theirs", f"{where}: method {spec}", faults)
    faults += [
        f"{where}: method {spec}: theirs.{key} = {value!r}, a number is needed"
        for key, value in theirs.items()
        if isinstance(value, bool) or not isinstance(value, int | float)
    ]
    return MethodLine(spec, str(line.get("title", "")) or spec, theirs, bool(line.get("headline", True)))
