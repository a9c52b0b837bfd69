"""The bar, and the kinds of the steps beside it."""

import sys
from functools import partial

import click
import pytest
from tqdm import tqdm

from janoscope.cli.progress import coloured, progress
from janoscope.plan.schedule import LETTERS

LADDER = "WWRma.C"


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def drawn(monkeypatch, capsys):
    """stderr of two runs of 7 steps each, the first then the full one."""

    def draw(terminal, ladder):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
        monkeypatch.setattr("tqdm.tqdm", partial(tqdm, mininterval=0, miniters=1, ncols=120))  # draws every step
        seen = []
        with progress("apply", quiet=False, letters=ladder) as on_step:
            for _ in range(2):
                for done in range(1, len(LADDER) + 1):
                    on_step(done, len(LADDER))
                seen.append(capsys.readouterr().err)
        return seen

    return draw


def test_on_a_terminal_the_letters_done_stand_in_colour_beside_the_first_run(drawn):
    first, full = drawn(True, lambda steps: LADDER[:steps])
    assert coloured(LADDER) in first
    assert coloured(LADDER[:3]) in first
    assert "\x1b[3" not in full.split("\r")[-1]


def test_a_pipe_or_a_file_gets_no_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with progress("apply", quiet=False, letters=lambda steps: LADDER) as on_step:
        assert on_step is None
    assert capsys.readouterr().err == ""


def test_no_color_is_obeyed(drawn, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    first, full = drawn(True, lambda steps: LADDER[:steps])
    assert LADDER in first
    assert "\x1b[3" not in first + full


def test_without_a_ladder_there_is_only_the_bar(drawn):
    first, full = drawn(True, None)
    assert "7/7" in first
    assert "7/7" in full
    assert "\x1b[3" not in first + full


def test_the_levels_have_the_colours_of_the_report():
    """Blue, red and amber, as LEVEL_COLOUR; a terminal has no amber, its yellow is the nearest."""
    assert [click.style(letter, fg=colour) for letter, colour in zip("Rma", ("blue", "red", "yellow"), strict=True)] == [
        coloured(letter) for letter in "Rma"
    ]


def test_every_kind_has_a_colour_and_keeps_its_letter():
    for letter in LETTERS.values():
        assert coloured(letter) != click.style(letter)
        assert click.unstyle(coloured(letter)) == letter


def test_quiet_is_quiet(capsys):
    with progress("apply", quiet=True) as on_step:
        assert on_step is None
    assert capsys.readouterr().err == ""
