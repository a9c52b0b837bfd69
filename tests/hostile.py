"""Files as nobody should write them: mutants of good ones, from a fixed seed, and what reading each of them gives."""

import io
import json
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from janoscope.errors import JanoscopeError

DEEP = "[" * 5000
HUGE = "9" * 5000
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 2**63, 10**400, 1e308, 0.5, "", "x", "\0", "\ud800", "\udcff", "../x", "<b>", [], {}, [[]]),
    *({"a": 1}, [None], [1, "a"], ["x"] * 3, [1, 1, 1], {"": {}}),
)
TOML_VALUES = (
    *("true", "-1", "0", "3", "nan", "inf", "1e400", "9" * 400, HUGE, '""', '"x"', '"\\u0000"', "[]", "{}", "[[]]", "[1, 2]"),
    *('["a"]', "{a = 1}", "1979-05-27", "07:32:00", DEEP, "{" + "a = {" * 200),
)
WHOLE = (b"", b"\0", b"\xff\xfe", DEEP.encode(), HUGE.encode(), b'{"a":' * 5000, b"null", b"[]", b"{}", b"1e999", b'"\\ud800"')


def read_all(mutants: Iterator[bytes], path: Path, read: Callable[[Path], object]) -> tuple[int, int]:
    """(how many were read, how many refused in one line); any other exception names its mutant and goes on."""
    taken = refused = 0
    for at, content in enumerate(mutants):
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
            taken += 1
        except JanoscopeError as error:
            if "\n" in str(error):
                raise AssertionError(f"mutant {at} of {path.name} is refused in several lines: {error}") from error
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutant {at} of {path.name}: {type(error).__name__}: {error}; it is kept as {path}") from error
    return taken, refused


def of_json(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Values of the tree replaced, removed and doubled; bytes changed; and what is no JSON at all."""
    drawn, data = random.Random(seed), json.loads(content.decode(errors="surrogateescape"))
    yield from WHOLE
    for at in range(count - len(WHOLE)):
        yield _changed_bytes(content, drawn) if at % 4 == 3 else json.dumps(_changed_tree(data, drawn)).encode()


def of_lines(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Of a journal: one of its lines as in `of_json`, or the bytes of the whole."""
    drawn, lines = random.Random(seed), content.splitlines()
    yield from WHOLE
    for at in range(count - len(WHOLE)):
        if at % 4 == 3:
            yield _changed_bytes(content, drawn)
            continue
        which = drawn.randrange(len(lines))
        other = json.dumps(_changed_tree(json.loads(lines[which]), drawn)).encode()
        yield b"\n".join([*lines[:which], other, *lines[which + 1 :]]) + b"\n"


def of_toml(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Values after `=` replaced, keys renamed, lines removed and doubled; bytes changed."""
    drawn, lines = random.Random(seed), content.decode().split("\n")
    yield from WHOLE
    for at in range(count - len(WHOLE)):
        if at % 4 == 3:
            yield _changed_bytes(content, drawn)
            continue
        which = drawn.choice([i for i, line in enumerate(lines) if line.strip()])
        key, equals, _ = lines[which].partition("=")
        value = drawn.choice(TOML_VALUES)
        others = [f"{key}= {value}" if equals else value, "", f"{lines[which]}\n{lines[which]}", f"x{lines[which]}"]
        other = drawn.choices(others, [6, 1, 1, 1])[0]
        yield "\n".join([*lines[:which], other, *lines[which + 1 :]]).encode()


def of_bytes(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Bytes changed, cut and doubled."""
    drawn = random.Random(seed)
    yield from WHOLE
    for _ in range(count - len(WHOLE)):
        yield _changed_bytes(content, drawn)


def of_arrays(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Of an .npz: one array dropped, of another type or shape, or with values that are none; or bytes of the whole."""
    drawn = random.Random(seed)
    with np.load(io.BytesIO(content)) as stored:
        arrays = dict(stored)
    yield from WHOLE
    for at in range(count - len(WHOLE)):
        if at % 4 == 3:
            yield _changed_bytes(content, drawn)
            continue
        name, packed = drawn.choice(list(arrays)), io.BytesIO()
        np.savez(packed, **_changed_arrays(arrays, name, drawn))
        yield packed.getvalue()


def _changed_arrays(arrays: dict[str, np.ndarray], name: str, drawn: random.Random) -> dict[str, np.ndarray]:
    array = arrays[name]
    others = [
        *(None, array.astype("U8"), array.astype(np.complex64), array[..., None], array.ravel()[:0], np.array(3)),
        *(np.full(array.shape, np.nan), np.full(array.shape, np.inf), np.full(array.shape, 2**62), array > 0, array[:-1]),
    ]
    other = drawn.choice(others if array.ndim else others[:-1])
    return {key: value for key, value in (arrays | {name: other}).items() if value is not None}


def _changed_bytes(content: bytes, drawn: random.Random) -> bytes:
    at = drawn.randrange(len(content))
    end = min(len(content), at + drawn.choice((1, 1, 2, 8, 64)))
    insert = drawn.choice((b"", b"\0", b"\xff", bytes([drawn.randrange(256)]), b"{", b"]", b"9" * 30, content[at:end] * 2))
    if drawn.random() < 0.1:
        return content[:at]
    if drawn.random() < 0.3:  # a single bit
        return content[:at] + bytes([content[at] ^ 1 << drawn.randrange(8)]) + content[at + 1 :]
    return content[:at] + insert + content[end:]


def _changed_tree(data: Any, drawn: random.Random) -> Any:
    """A copy with one place changed, found by walking down at random."""
    if not isinstance(data, dict | list) or not data or drawn.random() < 0.04:
        return drawn.choice(VALUES)
    keys = list(data) if isinstance(data, dict) else list(range(len(data)))
    key = drawn.choice(keys)
    copy = dict(data) if isinstance(data, dict) else list(data)
    act = drawn.random()
    if act < 0.08:
        del copy[key]
    elif act < 0.12 and isinstance(copy, list):
        copy.insert(key, copy[key])
    elif act < 0.12:
        copy[f"{key}x"] = copy.pop(key)
    else:
        copy[key] = _changed_tree(copy[key], drawn)
    return copy
