"""Progress on a terminal: a bar with an ETA, and the step schedule beside it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    pass

_LETTERS_BESIDE = 24  # what a terminal of 80 columns has room for beside the bar
# the report's: grey for full steps outside the plan, blue, red and amber for the levels
_COLOURS = {"W": "bright_black", "R": "blue", "m": "red", "a": "yellow", ".": "white", "C": "bright_black"}


@contextmanager
def progress(
    label: str, quiet: bool, unit: str = "step", letters: Callable[[int], str] | None = None
) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with an ETA on a terminal, fed by (steps done, steps in all); None when quiet, and where stderr is no terminal.

    A pipe or a log file would hold every redraw of the bar.

    letters: gives the letters of so many steps' kinds; those done stand beside the bar, in the first run only: a run after it is
    the full one.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    bar: tqdm[None] | None = None  # made at the first step: a refusal before it is one line, not a line under an empty bar
    first_run = True

    def on_step(done: int, steps: int) -> None:
        nonlocal bar, first_run
        if bar is None:
            bar = tqdm(desc=label, total=steps, unit=unit, leave=False)
        if done < bar.n:
            first_run = False
            bar.set_postfix_str("", refresh=False)
            bar.reset()
        bar.total = steps
        if letters is not None and first_run:
            bar.set_postfix_str(coloured(letters(steps)[max(0, done - _LETTERS_BESIDE) : done]), refresh=False)
        bar.update(done - bar.n)

    try:
        yield on_step
    finally:
        if bar is not None:
            bar.close()


def coloured(letters: str) -> str:
    """Letters of step kinds in the report's colours for a terminal; plain where NO_COLOR is set (no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return letters
    return "".join(click.style(letter, fg=_COLOURS.get(letter)) for letter in letters)


def emphasised(line: str) -> str:
    """The line that matters most, bold on a terminal; click removes it from pipes and files."""
    return line if os.environ.get("NO_COLOR") else click.style(line, bold=True)
