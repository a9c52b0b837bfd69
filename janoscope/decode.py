"""Text that anybody may have written, decoded: whatever a decoder raises becomes one InputError.

Beside what the decoders refuse, data are bounded here, once: no nesting deeper than `DEEPEST`, no integer beyond 64 bits. What is
decoded can then be compared, printed and turned into floats without a RecursionError or OverflowError anywhere later.
"""

import json
import math
import os
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from .errors import InputError

DEEPEST = 64
LARGEST_INTEGER = 2**64
Data = TypeVar("Data")
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_SHOWN = 160  # characters of a decoder's own message


def read_bytes(path: Path, what: str, advice: str) -> bytes:
    """The content of a file; InputError where it cannot be read. A named pipe that nobody writes to reads as empty."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without it, opening a pipe waits for a writer for ever
        with os.fdopen(descriptor, "rb") as file:
            os.set_blocking(file.fileno(), True)
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        shown = str(path).replace("\0", "\\0")
        raise InputError(f"{what} {shown} cannot be read: {reason(error)}. {advice}") from error


def read_text(path: Path, what: str, advice: str, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a file; InputError where it cannot be read or is not UTF-8."""
    try:
        return read_bytes(path, what, advice).decode(encoding, errors=errors)
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path} cannot be read: it is not UTF-8 ({reason(error)}). {advice}") from error


def decode_json(text: str, origin: str, advice: str, finite: bool = True, whole: bool = True) -> Any:
    """JSON data, bounded as this module says. finite: refuse NaN and infinity, which JSON does not have.
    whole: refuse half characters (lone surrogates), which JSON can spell; else they become U+FFFD.

    Raises InputError naming `origin`, the fault and `advice`, a sentence.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin} is not JSON: {reason(error)}. {advice}") from error
    if "\\u" in text:
        data = _without_half_characters(data, origin, advice, refuse=whole)
    return _bounded(data, origin, advice, finite)


def decode_toml(text: str, origin: str, advice: str) -> dict[str, Any]:
    """A TOML table, bounded as this module says; TOML has nan and inf. Raises as `decode_json`."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin} is not TOML: {reason(error)}. {advice}") from error
    _bounded(data, origin, advice, finite=False)
    return data


def reason(error: BaseException) -> str:
    """What a decoder says, in one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _without_half_characters(data: object, origin: str, advice: str, refuse: bool) -> object:
    """No file or terminal takes half of a surrogate pair; bytes that were no UTF-8 (surrogateescape) may stand."""
    try:
        text = json.dumps(data, ensure_ascii=False)
    except RecursionError:
        return data  # `_bounded` refuses it
    found = _HALF.search(text)
    if found is None:
        return data
    if refuse:
        character = f"\\u{ord(found.group()):04x}"
        raise InputError(f"{origin} cannot be read: it holds {character}, half a character. {advice}")
    return json.loads(_HALF.sub("\ufffd", text))


def _bounded(data: Data, origin: str, advice: str, finite: bool) -> Data:
    """The data, after a walk over all of them that takes no recursion."""
    waiting: list[tuple[object, int]] = [(data, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise InputError(f"{origin} cannot be read: it is nested more than {DEEPEST} deep. {advice}")
        if isinstance(value, dict):
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            waiting += [(inner, depth + 1) for inner in value]
        elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise InputError(f"{origin} cannot be read: it holds an integer of more than 64 bits. {advice}")
        elif finite and isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{origin} cannot be read: it holds {value}, which is no number. {advice}")
    return data
