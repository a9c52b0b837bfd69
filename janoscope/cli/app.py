"""The `janoscope` command: its subcommands, and the one place where errors become exit codes."""

import errno
import os
import signal
import sys
import warnings
from _thread import interrupt_main
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from threading import Timer
from typing import TextIO

import click

from ..errors import JanoscopeError
from ..version import __version__

# command -> module that defines it, loaded when it is called or listed
COMMANDS = {
    "record": "record",
    "inspect": "show",
    "verify": "show",
    "diff": "show",
    "export": "show",
    "analyze": "analyze",
    "schedule": "schedule",
    "plan": "show",
    "apply": "apply",
    "compare": "compare",
    "calibrate": "calibrate",
    "memory": "memory",
    "bench": "bench",
    "report": "report",
    "probes": "show",
    "demo": "demo",
}
INTERRUPTED = 130
_PACKAGE = Path(__file__).parent.parent
# what a path of the user, or the disk under it, can do to us; other OSErrors are our bugs
_CHOOSE = "Choose another path."
_FIXES = {
    errno.ENOENT: "Check the path.",
    errno.EACCES: "Check its permissions or choose another path.",
    errno.EPERM: "Check its permissions or choose another path.",
    errno.EROFS: _CHOOSE,
    errno.ENOTDIR: "A part of the path is a file where a directory is needed; choose another path.",
    errno.EISDIR: "A file is needed there; choose another path.",
    errno.EEXIST: _CHOOSE,
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOSPC: "Free some space or choose another disk.",
    errno.EDQUOT: "Free some space or choose another disk.",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f".{COMMANDS[name]}", __package__), name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"No such command {args[0]!r}{f'; did you mean {near[0]!r}?' if near else '.'}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="janoscope %(version)s")
def janoscope() -> None:
    """Record what a diffusion transformer predicts for every token at every step, see which tokens converge early, and skip them.

    `janoscope COMMAND --help` has the options of a command and an example.
    """


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 the check asked for failed, 2 refused, 130 interrupted (Ctrl-C, SIGTERM)."""
    # a batch system's SIGTERM ends a run as Ctrl-C does: without a handler nothing half-made would be cleared away
    before, unraisable = signal.signal(signal.SIGTERM, signal.default_int_handler), sys.unraisablehook
    sys.unraisablehook = _interrupted_again
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _run()
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = unraisable


def _interrupted_again(dropped: "sys.UnraisableHookArgs") -> None:
    """Python drops a Ctrl-C that falls into a destructor, and h5py has many: it is sent again a moment later."""
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        Timer(0.05, interrupt_main).start()
    else:
        sys.__unraisablehook__(dropped)


def _run() -> None:
    try:
        sys.exit(janoscope.main(standalone_mode=False) or 0)
    except JanoscopeError as error:
        _refuse(" ".join(str(error).split()))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)  # the help of a group, in its own lines
        sys.exit(2)
    except click.UsageError as error:
        hint = f" Try `{error.ctx.command_path} --help`." if error.ctx else ""
        message = " ".join(error.format_message().split())
        _refuse(message + ("" if message.endswith(("?", ".")) else ".") + hint)
    except click.ClickException as error:
        _refuse(error.format_message())
    except OSError as error:
        if not _is_of_the_user(error):
            raise
        subject = f"{error.filename2 or error.filename}: " if error.filename is not None else ""
        _refuse(f"{subject}{error.strerror}. {_FIXES[error.errno or 0]}")
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        sys.exit(INTERRUPTED)


def _is_of_the_user(error: OSError) -> bool:
    """Whether a path that the user chose, or a full disk, is the reason; a missing file of this package is our bug."""
    if error.errno not in _FIXES:
        return False
    if not isinstance(error.filename, str | os.PathLike):
        return error.errno in _FULL
    return _PACKAGE not in Path(error.filename).absolute().parents


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings as one line each: our own, which are RuntimeWarnings, plain; those of libraries with their kind."""
    kind = "" if category is RuntimeWarning else f"{category.__name__}: "
    text = kind + " ".join(str(message).split())
    if tqdm := sys.modules.get("tqdm"):
        tqdm.tqdm.write(text, file=sys.stderr)  # on a line of its own while a bar is shown
    else:
        click.echo(text, err=True)


def _refuse(message: str) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(2)
