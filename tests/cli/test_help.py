"""Help texts: whole sentences, options in groups, an example that parses, and a suggestion for a misspelt command."""

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from janoscope.cli.app import COMMANDS, janoscope
from janoscope.cli.command import OTHER, Command, GroupedOption


def commands():
    """(words, command) of every command that does something."""
    context = click.Context(janoscope)
    for name in COMMANDS:
        command = janoscope.get_command(context, name)
        if isinstance(command, click.Group):
            for inner in command.commands.values():
                yield f"{name} {inner.name}", inner
        else:
            yield name, command


ALL = dict(commands())


def test_every_command_is_seen():
    assert len(ALL) == len(COMMANDS) + 3, "bench has four commands, plan one"


def test_the_list_of_commands_has_whole_summaries():
    lines = CliRunner().invoke(janoscope, ["--help"]).output.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert not [line for line in lines if line.endswith("...") or len(line) > 80]


@pytest.mark.parametrize("name", ALL)
def test_a_help_has_groups_and_an_example(name):
    command = ALL[name]
    assert isinstance(command, Command)
    text = CliRunner().invoke(janoscope, [*name.split(), "--help"]).output
    assert f"Example:\n  janoscope {name} " in text
    ungrouped = [option.name for option in command.params if isinstance(option, click.Option) and not hasattr(option, "group")]
    assert ungrouped == []
    assert [option.name for option in command.params if isinstance(option, GroupedOption) and option.group == OTHER] == []


@pytest.mark.parametrize("name", ALL)
def test_an_example_parses(name):
    for line in ALL[name].example.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        assert words[0] == "janoscope"
        command = ALL[name]
        arguments = words[1 + len(name.split()) :]
        command.make_context(name, arguments, resilient_parsing=False).close()


@pytest.mark.parametrize("name", ALL)
def test_no_function_of_a_command_has_more_than_12_parameters(name):
    callback = ALL[name].callback
    while hasattr(callback, "__wrapped__"):
        callback = callback.__wrapped__
    assert callback.__code__.co_argcount + callback.__code__.co_kwonlyargcount <= 12


@pytest.mark.parametrize(("typed", "meant"), [("anlyze", "analyze"), ("recrod", "record")])
def test_a_misspelt_command_gets_a_suggestion(typed, meant):
    done = CliRunner().invoke(janoscope, [typed])
    assert done.exit_code == 2
    assert re.search(f"No such command '{typed}'; did you mean '{meant}'", done.output)


def test_a_command_that_resembles_none_gets_no_suggestion():
    assert "did you mean" not in CliRunner().invoke(janoscope, ["zzz"]).output
