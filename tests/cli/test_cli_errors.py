"""Errors of the system under a user's path, and values that no generation can have: one line and exit code 2."""

import errno
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from janoscope.cli import app, main
from janoscope.cli.options import as_argument


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["janoscope", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        lines = [line for line in capsys.readouterr().err.splitlines() if line]
        return ended.value.code, lines[1:] if lines and lines[0].startswith("Loading ") else lines

    return run


@pytest.fixture
def raising(monkeypatch):
    def raising(error):
        def fails(**_):
            raise error

        monkeypatch.setattr(app.janoscope, "main", fails)

    return raising


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENOSPC, errno.EROFS])
def test_an_error_of_the_system_names_path_reason_and_mend(raising, run, number):
    raising(OSError(number, os.strerror(number), "/data/out.png"))
    code, lines = run()
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"Error: /data/out.png: {os.strerror(number)}. ")
    assert lines[0].endswith(".")


def test_a_full_disk_without_a_name_is_told_too(raising, run):
    raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert run() == (2, ["Error: No space left on device. Free some space or choose another disk."])


@pytest.mark.parametrize(
    "error",
    [
        OSError("no number"),
        OSError(errno.EBADF, "Bad file descriptor", "/data/out.png"),
        OSError(errno.ENOENT, "No such file or directory"),
        OSError(errno.ENOENT, "No such file or directory", str(Path(app.__file__).parent / "sheet.toml")),
    ],
    ids=["no errno", "not of a path", "no path", "file of this package"],
)
def test_an_error_of_ours_keeps_its_traceback(raising, run, error):
    raising(error)
    with pytest.raises(type(error), match=re.escape(error.strerror or "no number")) as met:
        run()
    assert met.value is error


def test_a_directory_below_a_file_is_refused_in_one_line(run, tmp_path):
    (tmp_path / "file").write_text("x")
    code, lines = run("demo", "-o", tmp_path / "file" / "demo", "-q")
    assert code == 2
    assert len(lines) == 1
    assert "Not a directory" in lines[0]


@pytest.mark.parametrize("option", ["--steps", "--height", "--width", "--frames"])
@pytest.mark.parametrize("value", ["-1", "0"])
@pytest.mark.parametrize("verb", [("record",), ("apply", "--policy", "demo")], ids=["record", "apply"])
def test_counts_below_one_are_refused(run, tmp_path, verb, option, value):
    code, lines = run(*verb, "demo", "-p", "x", option, value, "-o", tmp_path / "new.png")
    assert code == 2
    assert len(lines) == 1
    assert option in lines[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-o", "{tmp}/out"), "ends in"),
        (("-o", "{tmp}/plan.png", "-f"), "plan.json"),
        (("-o", "{tmp}/file/out.png"), "is a file"),
        (("-o", "{tmp}/old.png"), "old.json exists already"),
        (("-o", "{tmp}/out.png", "--call", 'output_type="latent"'), "output_type"),
        (("-o", "{tmp}/out.png", "--call", "generator=3"), "--seed"),
        (("-o", "{tmp}/out.png", "--call", "num_inference_steps=3"), "--steps"),
        (("-o", "{tmp}/out.png", "--cache", "ram"), "--cache: cache.strategy = 'ram'; legal: kv, hidden"),
        (("-o", "{tmp}/out.png", "--cache", "hidden", "--device-mib", "8"), "cache.device_mib belong to strategy offload"),
        (("-o", "{tmp}/out.png", "--cache", "offload", "--window", "0"), "integers from 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_apply_refuses_before_it_loads_the_model(run, monkeypatch, tmp_path, words, told):
    monkeypatch.setattr("janoscope.pipeline.model.load_model", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "file").write_text("x")
    (tmp_path / "old.json").write_text("{}")
    before = sorted(tmp_path.iterdir())
    code, lines = run("apply", "demo", "-p", "x", "--policy", "demo", *[word.format(tmp=tmp_path) for word in words])
    assert code == 2
    assert len(lines) == 1
    assert told in lines[0]
    assert sorted(tmp_path.iterdir()) == before


def test_a_device_that_is_not_there_is_one_line(run, tmp_path):
    code, lines = run("record", "demo", "-p", "x", "--device", "bogus", "-o", tmp_path / "run.h5")
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("Error: --device bogus cannot be used")


def test_sigterm_ends_a_run_as_ctrl_c_does_and_leaves_nothing_half_made(monkeypatch, run, tmp_path):
    def stopped(**_):
        with tempfile.TemporaryDirectory(prefix=".making.", dir=tmp_path):
            assert list(tmp_path.iterdir())
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(app.janoscope, "main", stopped)
    assert run() == (app.INTERRUPTED, ["Interrupted."])
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_ctrl_c_that_falls_into_a_destructor_ends_the_run_all_the_same(run, monkeypatch):
    """Python drops exceptions of destructors; without the second one the work would go on to its end."""

    class Closing:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    ended, dropped = [], []

    def work(**_):
        thing = Closing()
        del thing
        while not dropped:
            time.sleep(0.01)
        ended.append(True)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(app.janoscope, "main", work)
        assert run() == (130, ["Interrupted."])
        assert not ended
        monkeypatch.setattr(app, "_interrupted_again", dropped.append)
        assert run()[0] == 0, "control: it would have been dropped"
        assert ended
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect",), "is no regular file; copy the recording to one and name that."),
        (("verify",), "is no regular file; copy the recording to one and name that."),
        (("plan", "show"), "Make it again with `janoscope analyze`."),
    ],
)
def test_a_fifo_is_refused_and_not_waited_for(run, tmp_path, words, message):
    os.mkfifo(tmp_path / "pipe")
    code, said = run(*words, tmp_path / "pipe")
    assert code == 2
    assert len(said) == 1
    assert said[0].endswith(message)


@pytest.mark.parametrize(
    ("path", "pasted"), [("-x.h5", "./-x.h5"), ("a b.h5", "'a b.h5'"), ("runs/-x.h5", "runs/-x.h5"), ("-a b", "'./-a b'")]
)
def test_a_path_in_a_next_line_is_an_argument_and_no_option(path, pasted):
    assert as_argument(Path(path)) == pasted
    assert not shlex.split(as_argument(Path(path)))[0].startswith("-")
