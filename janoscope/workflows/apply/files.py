"""The files that `apply` writes, and which names it may take."""

import os
from pathlib import Path

from ...errors import InputError
from ...results.images import refuse_format

# files of other commands, which a run summary of the same name would destroy
_RESERVED = ("plan.json", "analysis.json", "aggregate.json")


def applied_files(output: Path, reference: bool) -> tuple[Path, Path | None, Path]:
    """(accelerated output, the full run's beside it as `<name>-full` or None, the figures as `<name>.json`)."""
    return output, output.with_stem(output.stem + "-full") if reference else None, output.with_suffix(".json")


def refuse_output(output: Path, *, reference: bool, force: bool, keep: Path | None = None) -> None:
    """Refuse names that cannot be written or would destroy something, before any work is done.

    Args:
        keep: a file that is read, so never written.

    Raises:
        InputError: another ending than .png or .mp4, no directory to write to, or a file in the way; `force` replaces files,
            but never a plan or an analysis.
    """
    refuse_format(output)
    _refuse_directory(output.parent)
    for file in applied_files(output, reference):
        if file is None or not (file.exists() or file.name in _RESERVED):
            continue
        if file.name in _RESERVED or (keep is not None and keep.exists() and file.exists() and file.samefile(keep)):
            raise InputError(f"-o {output} would write {file}, the name of another file of janoscope's; choose another name.")
        if file.is_dir():
            raise InputError(f"{file} is a directory; choose another name with -o.")
        if not force:
            raise InputError(f"{file} exists already; choose another name with -o, or pass --force to replace it.")


def _refuse_directory(directory: Path) -> None:
    existing = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is a file, so nothing can be written below it; choose another place with -o.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{existing} may not be written to; choose another place with -o.")
