"""Readers of what commands leave on disk. Every fault of a file is one InputError that names it and says what to do."""

import fcntl
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from ..decode import decode_json, read_bytes, read_text, reason
from ..errors import InputError
from ..shape import checked

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Shape = TypeVar("Shape")
Line = TypeVar("Line", bound="DataclassInstance")


def read_json(
    path: Path,
    shape: type[Shape],
    what: str,
    advice: str,
    *,
    schema: str | None = None,
    earlier: Mapping[str, Callable[[dict[str, object]], dict[str, object]]] | None = None,
    finite: bool = True,
) -> Shape:
    """The data of a JSON file of ours, which have the declared shape (janoscope/shape.py).

    schema: what its key `schema` must say. earlier: schemas that are read too, each with the function that gives the data as
    `schema` has them. advice: a sentence, how to get a good file.

    Raises InputError where the file is missing, unreadable, of another schema or of another shape.
    """
    if not path.exists():
        raise InputError(f"{path.parent} holds no {path.name}. {advice}")
    # undecodable bytes of a command line (surrogateescape) may stand in prompts
    data = decode_json(read_text(path, what, advice, errors="surrogateescape"), str(path), advice, finite, whole=False)
    if earlier and isinstance(data, dict) and isinstance(data.get("schema"), str) and data["schema"] in earlier:
        data = earlier[data["schema"]](data) | {"schema": schema}
    if schema is not None and (not isinstance(data, dict) or data.get("schema") != schema):
        stored = str(data.get("schema"))[:60] if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{path} is no {what} of this version: its schema is {stored!r}, not {schema!r}. {advice}")
    whole: Shape = checked(data, shape, str(path), advice)
    return whole


def is_of_another_schema(path: Path, schema: str) -> bool:
    """Whether a file is whole JSON of something else than a result of ours, in any version. False where it is not there."""
    try:
        data = decode_json(read_text(path, "", ""), str(path), "")
    except InputError:
        return False
    return not isinstance(data, dict) or not str(data.get("schema")).startswith(schema.rpartition("/")[0] + "/")


def read_arrays(path: Path, what: str, advice: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name, all of numbers or text.

    No array is larger than its part of the file, so a small file cannot fill the memory. Raises InputError.
    """
    if not path.is_file():
        raise InputError(f"{what} {path} cannot be read: there is no such file. {advice}")
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [part.filename for part in archive.infolist() if part.compress_type != zipfile.ZIP_STORED]
            claimed = sum(part.file_size for part in archive.infolist())
        if packed or claimed > path.stat().st_size:
            raise ValueError(f"it claims {claimed} bytes of arrays, or holds compressed ones, which janoscope does not write")
        with np.load(path, allow_pickle=False) as stored:
            return {name: _array(stored, name) for name in stored.files}
    except Exception as error:  # whatever zipfile and NumPy raise on bytes that are no archive of arrays
        raise InputError(f"{what} {path} cannot be read: {reason(error)}. {advice}") from error


def _array(stored: Mapping[str, object], name: str) -> np.ndarray:
    array = stored[name]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiubU":
        raise ValueError(f"{name} is no array of numbers")
    return array


def read_journal(path: Path, line: type[Line], what: str, advice: str) -> list[Line]:
    """The lines of a journal, a JSON table each, as objects of the dataclass `line`; none where there is no file yet.

    A line that a crash tore is dropped, with a warning. A line of another shape is refused with its number: dropped in silence
    it would be work that is done again.
    """
    if not path.exists():
        return []
    content = read_bytes(path, what, advice)
    lines, torn = [], []
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if not raw.strip():
            continue
        if _is_torn(raw):
            torn.append(number)
            continue
        lines.append(_entry(raw, line, f"{path} line {number}", advice))
    if torn:
        numbers = ", ".join(map(str, torn))
        warnings.warn(f"{path}: line {numbers} was torn by a crash and counts as not written.", RuntimeWarning, stacklevel=2)
    return lines


def _is_torn(raw: bytes) -> bool:
    """Whether a line is the beginning of a table, cut off. Ours are one table each, so whole ones end with a brace."""
    if not raw.startswith(b"{"):
        return False
    if not raw.rstrip().endswith(b"}"):
        return True
    try:
        json.loads(raw)
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip())  # it ends after an inner table
    except (ValueError, RecursionError):
        return False
    return False


def _entry(raw: bytes, line: type[Line], origin: str, advice: str) -> Line:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{origin} is not UTF-8 ({reason(error)}). {advice}") from error
    return as_dataclass(decode_json(text, origin, advice, finite=False), line, origin, advice)


def as_dataclass(data: object, kind: type[Line], origin: str, advice: str) -> Line:
    """A dataclass of a JSON table: lists become tuples where it has tuples, tables dataclasses where it has those.

    Args:
        origin: of the data, such as a path. advice: a sentence, how to get good ones; both for the error.

    Raises:
        InputError: the table has other keys or types than the dataclass.
    """
    return _built(checked(data, kind, origin, advice), kind)


def _built(data: Mapping[str, object], kind: type[Line]) -> Line:
    hints = get_type_hints(kind)
    return kind(**{field.name: _as(data[field.name], hints[field.name]) for field in fields(kind) if field.name in data})


def _as(value: object, hint: object) -> object:
    if isinstance(value, list) and get_origin(hint) is tuple:
        return tuple(_as(entry, get_args(hint)[0]) for entry in value)
    return _built(value, hint) if isinstance(value, dict) and isinstance(hint, type) and is_dataclass(hint) else value


def append_line(path: Path, data: Mapping[str, object]) -> None:
    """Add a line to a journal, in one write under a lock, so that lines of several processes do not mix.

    What a crash left of a last line is ended first. The line is on the disk when this returns.
    """
    line = _one_line(data)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _one_line(data: Mapping[str, object]) -> bytes:
    """Readable where it can be; half characters of a prompt (lone surrogates) are spelt out."""
    try:
        return json.dumps(data, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(data).encode() + b"\n"


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of those that hold something; parted at line feeds alone, as U+2028 may stand within a text."""
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
