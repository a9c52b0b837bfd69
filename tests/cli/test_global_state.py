"""What belongs to the whole process is given back: a command may be run from a notebook, a test suite, another program."""

import logging
import os
import random
import signal
import sys
import warnings

import diffusers.utils.logging
import matplotlib
import numpy as np
import optuna
import pytest
import torch
import transformers.utils.logging
from click.testing import CliRunner

from janoscope.cli import app, main, options
from janoscope.evidence.kinds import performance
from janoscope.workflows.bench.record import SMALL_CASES, bench_record
from janoscope.workflows.bench.scale import SMALL, bench_scale

LIBRARIES = (diffusers.utils.logging, transformers.utils.logging)
CHATTY = logging.INFO  # a level that no library and no command chooses


def state_of_process():
    """What others in this process rely on, by name."""
    loggers = {name: one for name, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)}
    return {
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "torch random": torch.get_rng_state().numpy().tobytes(),
        "NumPy random": repr(np.random.get_state()),
        "Python random": random.getstate(),
        "NumPy errors": np.geterr(),
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "path": list(sys.path),
        "levels": {name: one.level for name, one in loggers.items()},
        "logging disabled": logging.root.manager.disable,
        "verbosity": [library.get_verbosity() for library in LIBRARIES],
        "bars": [library.is_progress_bar_enabled() for library in LIBRARIES],
        "Optuna": optuna.logging.get_verbosity(),
        "warning filters": list(warnings.filters),
        "warnings shown by": warnings.showwarning,
        "matplotlib": dict(matplotlib.rcParams),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, sys.unraisablehook),
    }


def changed(before, after):
    """Names of what is not as it was; of dicts the entries, new loggers left out."""
    different = []
    for name, old in before.items():
        new = after[name]
        if name == "levels":
            new = {logger: level for logger, level in new.items() if logger in old}
        if old != new:
            different.append(name)
    return different


@pytest.fixture(autouse=True)
def unusual(monkeypatch):
    """A process that is set up as no command would: whatever is reset to a default instead of given back is seen."""
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        monkeypatch.delenv(name, raising=False)
    threads, levels = torch.get_num_threads(), [library.get_verbosity() for library in LIBRARIES]
    torch.set_num_threads(3)
    for library in LIBRARIES:
        library.set_verbosity(CHATTY)
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    with matplotlib.rc_context({"axes.grid": True}):
        yield
    optuna.logging.set_verbosity(optuna.logging.INFO)
    torch.set_num_threads(threads)
    for library, level in zip(LIBRARIES, levels, strict=True):
        library.set_verbosity(level)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.h5"
    done = CliRunner().invoke(app.janoscope, ["record", "demo", "-p", "a red disc", "--steps", "9", "-q", "-o", str(path)])
    assert done.exit_code == 0, done.output
    return path


COMMANDS = {
    "record": ["record", "demo", "-p", "a red disc", "--steps", "2", "-q", "-o", "{new}/run.h5"],
    "analyze": ["analyze", "{recording}", "-q", "-o", "{new}/analysis"],
    "apply": ["apply", "demo", "--policy", "demo/best-token", "-p", "a red disc", "--steps", "12", "-q", "-o", "{new}/apply.png"],
    "compare": ["compare", "demo", "-p", "x", "--steps", "2", "--method", "fewer-steps:steps=1", "-q", "-o", "{new}/c"],
    "memory": ["memory", "demo"],
    "bench execute": ["bench", "execute", "--size", "tiny", "--repeats", "1"],
    "a refusal": ["record", "no-such-model", "-p", "x", "-o", "{new}/run.h5"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gives_back_what_belongs_to_the_process(name, recording, tmp_path, monkeypatch):
    words = [word.format(new=tmp_path, recording=recording) for word in COMMANDS[name]]
    before = state_of_process()
    done = CliRunner().invoke(app.janoscope, words)
    assert (done.exit_code == 0) == (name != "a refusal"), done.output
    assert changed(before, state_of_process()) == []
    monkeypatch.setattr(sys, "argv", ["janoscope", *words, *([] if name in ("memory", "bench execute", "a refusal") else ["-f"])])
    if name == "compare":
        sys.argv[-1] = "--force"
    before = state_of_process()
    with pytest.raises(SystemExit):
        main()
    assert changed(before, state_of_process()) == []


@pytest.mark.parametrize(
    "bench",
    [
        lambda folder: bench_record(SMALL_CASES[:1], folder, say=lambda text: None),
        lambda folder: bench_scale(4, SMALL, steps=12, repeats=1, scratch=folder, say=lambda text: None),
        lambda folder: performance._execute("execute-tiny", folder, True),
    ],
    ids=["record", "scale", "execute"],
)
def test_a_bench_gives_back_threads_and_random_numbers(bench, tmp_path):
    before = state_of_process()
    bench(tmp_path)
    assert changed(before, state_of_process()) == []


def test_optuna_speaks_as_before_when_a_search_is_over():
    from janoscope.workflows.calibrate.search import _quiet, load_optuna

    before = state_of_process()
    with _quiet(load_optuna()):
        assert optuna.logging.get_verbosity() == optuna.logging.WARNING
    assert changed(before, state_of_process()) == []


def test_libraries_are_silent_inside_and_no_longer_after():
    before = state_of_process()
    with options.libraries_silent():
        inside = state_of_process()
    assert set(changed(before, inside)) == {"levels", "verbosity", "bars", "warning filters"}
    assert changed(before, state_of_process()) == []


@pytest.mark.parametrize(
    ("change", "undo", "name"),
    [
        (lambda: torch.set_num_threads(2), lambda: torch.set_num_threads(3), "threads"),
        (lambda: torch.rand(1), lambda: None, "torch random"),
        (lambda: os.environ.update(DIFFUSERS_VERBOSITY="error"), lambda: os.environ.pop("DIFFUSERS_VERBOSITY"), "environment"),
        (lambda: logging.disable(logging.ERROR), lambda: logging.disable(logging.NOTSET), "logging disabled"),
        (lambda: LIBRARIES[0].set_verbosity_error(), lambda: LIBRARIES[0].set_verbosity(CHATTY), "verbosity"),
        (lambda: np.seterr(over="raise"), lambda: np.seterr(over="warn"), "NumPy errors"),
    ],
)
def test_a_change_is_seen(change, undo, name):
    before = state_of_process()
    change()
    seen = changed(before, state_of_process())
    undo()
    assert name in seen
