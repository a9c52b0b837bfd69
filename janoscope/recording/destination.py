"""Where a recording may be written: refuse to overwrite, to fight another writer, or to write into nowhere."""

import fcntl
import os
from pathlib import Path

from ..errors import InputError
from .layout import PARTIAL_SUFFIX, SUFFIX, partial_path


def prepare_destination(path: Path, force: bool) -> str | None:
    """Check `path` before any work is done; the answer is a notice to print when an unfinished recording will be replaced.

    Raises InputError for a wrong suffix, a folder that is missing or closed, an existing recording without `force`, and a
    partial file that another process is writing.
    """
    if not path.name.endswith(SUFFIX) or path.name.endswith(PARTIAL_SUFFIX) or path.name == SUFFIX:
        raise InputError(
            f"recording path {path} must end in {SUFFIX}, and not in {PARTIAL_SUFFIX}; for example {path.stem or 'run'}{SUFFIX}."
        )
    if not path.parent.is_dir():
        raise InputError(f"folder {path.parent} does not exist, so {path.name} cannot be written there; create it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"folder {path.parent} is not writable, so {path.name} cannot be written there; choose another.")
    if path.exists() and (path.is_dir() or not force):
        raise InputError(f"{path} exists and is kept; choose another name or pass --force (force=True).")
    partial = partial_path(path)
    if not partial.exists():
        return None
    if is_being_written(partial):
        raise InputError(f"{partial} is being written by another recorder; wait for it or choose another name.")
    return f"{partial.name} is left from a recording that did not finish; it is replaced when the first step is recorded."


def is_being_written(path: Path) -> bool:
    """Whether a writer holds HDF5's lock (flock) on the file; filesystems without locks say no."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
