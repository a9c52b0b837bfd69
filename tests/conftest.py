"""The default run needs no network, no GPU and no download."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # a hub id fails at once instead of after retries
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models here are tiny: a second thread costs more than it gives


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """saved("flux"): the directory of a tiny pipeline of that family."""
    from tiny_pipelines import build

    folder, made = tmp_path_factory.mktemp("models"), {}

    def save(name: str) -> Path:
        if name not in made:
            build(name)[0].save_pretrained(folder / name)
            made[name] = folder / name
        return made[name]

    return save


@pytest.fixture
def janoscope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command line in this process."""
    from janoscope.cli import main

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["janoscope", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        first, _, rest = err.partition("\n")  # the line before torch is imported: tests/cli/test_cli_warnings.py reads it
        return Said(int(stop.value.code or 0), out, rest if first.startswith("Loading ") else err)

    return run


@pytest.fixture
def fork(tmp_path: Path) -> Callable[..., "Fork"]:
    """Run a function in a forked process: torch is loaded already, and the process may be limited, interrupted or killed."""
    started: list[Fork] = []

    def start(work: Callable[[], object]) -> Fork:
        started.append(Fork(work, tmp_path / f"said-{len(started)}.txt"))
        return started[-1]

    yield start
    for process in started:
        process.kill()


class Fork:
    def __init__(self, work: Callable[[], object], said: Path):
        self.said, self.code = said, None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._be_the_child(work)

    def _be_the_child(self, work: Callable[[], object]) -> None:
        code = 98
        try:
            file = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
            sys.unraisablehook = sys.__unraisablehook__  # pytest's would keep what it hears in a process that ends
            work()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def interrupt(self) -> int:
        """Ctrl-C, and again after 10 seconds, as a user would, should the first have been dropped. The exit code."""
        deadline = 0.0
        while self.code is None:
            if time.monotonic() > deadline:
                self.signal(signal.SIGINT)
                deadline = time.monotonic() + 10
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.code = os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        return self.code

    def wait(self) -> int:
        """Exit code, or minus the signal that ended it."""
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def kill(self) -> None:
        if self.code is None:
            self.signal(9)
            self.wait()
