"""Where a recording may be written, and that no other recorder writes there at the same time.

The lock is a hidden file that holds nothing, locked (flock) until the recording lies under its partial name, which HDF5 locks
itself. The kernel gives both up when a process dies, however it dies, so a lock that is left over is simply taken.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
from pathlib import Path

from ...errors import InputError
from ..layout import PARTIAL_SUFFIX, SUFFIX, partial_path

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # some network filesystems
_FULL = (errno.ENOSPC, errno.EDQUOT)  # the recording reports a full disk, and never ends a generation
_TOKEN_BYTES = 8


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
    partial = partial_path(path)
    # before the final name is looked at: a recording that ends in between has that name already
    written, left_over = is_being_written(partial), partial.exists()
    if path.exists() and (path.is_dir() or not force):
        raise InputError(f"{path} exists and is kept; choose another name or pass --force (force=True).")
    if written:
        raise _in_use(path)
    if not left_over:
        return None
    return f"{partial.name} is left from a recording that did not finish; it is replaced when the first step is recorded."


class Claim:
    """The right to write one recording, from before its first byte until `release`. May be released twice, from any thread.

    notice: as `prepare_destination` gives it.
    Raises InputError where another recorder, of this process or another, has it, and as `prepare_destination` does.
    """

    def __init__(self, path: Path, force: bool) -> None:
        self.path = path
        self._lock_path = _lock_path(path)
        prepare_destination(path, force)
        self._handle = self._lock()
        try:
            self.notice = prepare_destination(path, force)  # again, as only now nothing can change any more
            _remove_left_over(path)
        except BaseException:
            self.release()
            raise

    def making_path(self) -> Path:
        """A hidden name of this recording's own, under which its metadata is laid down."""
        return self.path.with_name(f".{_stem(self.path)}.{secrets.token_hex(_TOKEN_BYTES)}.making{SUFFIX}")

    def release(self) -> None:
        handle, self._handle = self._handle, None
        if handle is None:
            return
        with contextlib.suppress(OSError):  # somebody cleared the folder
            self._lock_path.unlink()
        os.close(handle)

    def _lock(self) -> int | None:
        """The locked file's handle, none where the disk has no room for its name.

        A file that its owner took away between opening and locking is no lock: try again.
        """
        while True:
            try:
                handle = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            except OSError as error:
                if error.errno in _FULL:
                    return None
                raise InputError(
                    f"{self._lock_path}: {error.strerror}; {self.path.name} needs it as a lock. Take it away."
                ) from error
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                raise _in_use(self.path) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(handle)
                    raise
            if _is_at(handle, self._lock_path):
                return handle
            os.close(handle)


def is_being_written(path: Path) -> bool:
    """Whether a writer holds HDF5's lock (flock) on the file; filesystems without locks say no."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: readers, and others who ask, are no writers
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _in_use(path: Path) -> InputError:
    return InputError(f"{path} is being written by another recorder; wait for it or choose another name.")


def _stem(path: Path) -> str:
    return path.name.removesuffix(SUFFIX)


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{_stem(path)}.lock")


def _is_at(handle: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)


def _remove_left_over(path: Path) -> None:
    """Files of writers that died while they wrote theirs: a live one would hold the lock. Version 0.1.0 had no token."""
    name = re.compile(rf"\.{re.escape(_stem(path))}(\.[0-9a-f]{{{2 * _TOKEN_BYTES}}})?\.making{re.escape(SUFFIX)}")
    for entry in os.scandir(path.parent):
        if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            os.unlink(entry.path)
