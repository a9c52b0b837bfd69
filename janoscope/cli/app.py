"""The `janoscope` command: its verbs, and the one place where errors become exit codes."""

import os
import sys
from importlib import import_module

import click

from .. import __version__
from ..errors import JanoscopeError

# verb -> module that defines it, loaded when it is called or listed
_VERBS = {
    "record": "record",
    "inspect": "recordings",
    "verify": "recordings",
    "diff": "recordings",
    "export": "recordings",
    "analyze": "analyze",
    "plan": "plan",
    "apply": "apply",
    "compare": "compare",
    "bench": "bench",
    "probes": "probes",
    "demo": "demo",
}
INTERRUPTED = 130


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _VERBS:
            return None
        command: click.Command = getattr(import_module(f".{_VERBS[name]}", __package__), name)
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="janoscope %(version)s")
def janoscope() -> None:
    """Record what every token of a diffusion transformer predicts at every step, see where it converges, schedule it, run it."""


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 the check asked for failed, 2 refused, 130 interrupted."""
    # libraries talk of their own affairs while loading; --verbose lets them
    if not {"-v", "--verbose"} & set(sys.argv):
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
    try:
        sys.exit(janoscope.main(standalone_mode=False) or 0)
    except JanoscopeError as error:
        _refuse(" ".join(str(error).split()))
    except click.UsageError as error:
        hint = f" Try `{error.ctx.command_path} --help`." if error.ctx else ""
        _refuse(" ".join(error.format_message().split()) + hint)
    except click.ClickException as error:
        _refuse(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        sys.exit(INTERRUPTED)


def _refuse(message: str) -> None:
    click.echo(message, err=True)
    sys.exit(2)
