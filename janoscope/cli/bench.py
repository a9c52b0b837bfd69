"""`janoscope bench`: what janoscope itself costs, measured on this machine. Every subcommand has a module of its own."""

from importlib import import_module
from importlib.util import find_spec

import click

_NAMES = ("record", "analyze", "execute", "scale")  # bench_<name>.py defines the command bench_<name>


class _Benches(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _NAMES if find_spec(f".bench_{name}", __package__)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(import_module(f".bench_{name}", __package__), f"bench_{name}")
        return command


@click.group(cls=_Benches)
def bench() -> None:
    """Measure what janoscope itself costs on this machine."""
