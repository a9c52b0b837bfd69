"""How a command is declared: a one-line summary, an example, options in named groups, and options that arrive as one object."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import click

Callback = Callable[..., Any]
Decorator = Callable[[Callback], Callback]
OTHER = "Other"  # the group of options without one, the last in every help


class GroupedOption(click.Option):
    """An option that stands under the heading `group` in the help."""

    def __init__(self, *args: Any, group: str = OTHER, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.group = group


class Command(click.Command):
    """A command whose help has its options in groups, and an example.

    Args:
        example: command lines that can be pasted, without a prompt sign.
    """

    def __init__(self, *args: Any, example: str = "", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.example = example

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)) is not None:
                groups.setdefault(getattr(parameter, "group", OTHER), []).append(record)
        for name in sorted(groups, key=lambda name: name == OTHER):  # stable: in order of appearance, Other last
            with formatter.section(f"{name} options"):
                formatter.write_dl(groups[name])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.example:
            with formatter.section("Example"):
                formatter.write("".join(f"  {line}\n" for line in self.example.splitlines()))


def command(summary: str, example: str, name: str | None = None) -> Callable[[Callback], Command]:
    """Declare a command. summary: what the list of commands says of it, at most 60 characters, without a full stop."""
    return click.command(name, cls=Command, short_help=summary, example=example)


def option(*names: str, group: str = OTHER, **attributes: Any) -> Decorator:
    """`click.option` under the heading `group`."""
    return click.option(*names, cls=GroupedOption, group=group, **attributes)


def stacked(*decorators: Decorator) -> Decorator:
    """Several decorators as one; the first stands on top."""

    def decorate(callback: Callback) -> Callback:
        for decorator in reversed(decorators):
            callback = decorator(callback)
        return callback

    return decorate


def collected(name: str, kind: type, options: Iterable[Decorator]) -> Decorator:
    """Give a command these options as one argument.

    Args:
        name: of the argument.
        kind: its frozen dataclass, with one field for each option.
        options: what `option` returns, in the order of the help.
    """
    fields = [field.name for field in dataclasses.fields(kind)]

    def decorate(callback: Callback) -> Callback:
        @functools.wraps(callback)
        def collecting(**values: object) -> object:
            chosen = {field: values.pop(field) for field in fields}
            return callback(**values, **{name: kind(**chosen)})

        return stacked(*options)(collecting)

    return decorate
