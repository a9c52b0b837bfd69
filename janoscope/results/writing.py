"""The one writer of results: a file is whole under its name, or it is not there.

Every file is written under a name that nobody can guess, in its own directory, and renamed. The name is made with O_EXCL and
O_NOFOLLOW, so that a link which lies there is never written through. `point` is called before every change of the directory; a
test replaces it to stop there.
"""

import io
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ..errors import InputError

MAKING = "making"


def point(what: str, path: Path) -> None:
    """`open`, `write`, `rename` or `remove`, before it happens to a file. Does nothing; tests stop a command here."""


@contextmanager
def made_whole(path: Path, durable: bool = False) -> Iterator[Path]:
    """A new, empty file beside `path`, with its ending, to be filled; renamed to `path` at the end, removed after an error.

    durable: on the disk before it is renamed: of files whose presence says that a command is done.
    """
    making = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.{MAKING}{path.suffix}")
    point("open", path)
    os.close(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
    try:
        point("write", path)
        yield making
        if durable:
            _sync(making)
        point("rename", path)
        making.replace(path)
        if durable:
            _sync(path.parent)
    except BaseException:
        with suppress(OSError):
            making.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes, durable: bool = False) -> Path:
    with made_whole(path, durable) as making:
        making.write_bytes(content)
    return path


def write_text(path: Path, text: str, durable: bool = False) -> Path:
    """UTF-8. Half characters that a prompt may hold become U+FFFD, undecodable bytes of a command line stay what they were."""
    try:
        content = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        content = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text).encode()
    return write_bytes(path, content, durable)


def write_json(path: Path, data: object, durable: bool = True) -> Path:
    """JSON for people and machines alike; numbers that do not exist are null."""
    text = json.dumps(finite(data), indent=1, ensure_ascii=False, default=str, allow_nan=False) + "\n"
    return write_text(path, text, durable)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """A NumPy archive, not compressed: the mantissas of measured values hardly shrink, and zlib would take half the analysis."""
    with made_whole(path) as making, making.open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(arrays))  # type: ignore[arg-type]  # its stub takes every keyword for a flag
    return path


def write_png(path: Path, frames: np.ndarray) -> Path:
    """(frame, row, col, 3) uint8 as an image, or as an animated PNG where there are several frames."""
    from PIL import Image

    images, encoded = [Image.fromarray(frame) for frame in frames], io.BytesIO()
    images[0].save(encoded, "PNG", save_all=len(images) > 1, append_images=images[1:], duration=125, loop=0)
    return write_bytes(path, encoded.getvalue())


def remove(path: Path) -> None:
    """Remove a file where it is one."""
    point("remove", path)
    path.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether a file is what a command that was killed left of one in the making."""
    return path.name.startswith(".") and f".{MAKING}" in path.name


def holds_nothing(directory: Path) -> bool:
    """Whether a directory is not there, or holds no file but such leftovers."""
    return all(path.is_dir() or is_leftover(path) for path in directory.rglob("*")) if directory.is_dir() else True


def finite(data: object) -> object:
    """Data with null in the place of every number that is not finite."""
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {key: finite(inner) for key, inner in data.items()}
    return [finite(inner) for inner in data] if isinstance(data, list | tuple) else data


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_existing(path: Path, force: bool) -> None:
    """Raise before any work is done, not after it."""
    if path.exists() and not force:
        raise InputError(f"{path} exists already; choose another name with -o, or pass --force to replace it.")
