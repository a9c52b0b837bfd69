"""Many tasks, one after another, shared among ranks, or spread over a Ray cluster: once for all commands.

A worker is made once a process (it loads the model) and then given one task after another. A task that is refused or fails, and a
worker that is lost, cost their own task only.
"""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..errors import InputError, JanoscopeError, PeerLost, TaskFailed

Task = TypeVar("Task")
Result = TypeVar("Result")
_RESTARTS = 3  # of a worker process that died
_CONNECT_S = 10
_RETURN_S = 300  # for a lost worker to come back, when there is no other


@dataclass(frozen=True)
class Rank:
    """This process among those that torchrun or accelerate started."""

    index: int = 0
    count: int = 1
    local: int | None = None

    @classmethod
    def from_environment(cls) -> "Rank":
        """RANK, WORLD_SIZE and LOCAL_RANK; a single process where they are not set."""
        try:
            index, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
            local = os.environ.get("LOCAL_RANK")
            if not 0 <= index < count:
                raise ValueError(f"RANK {index} of WORLD_SIZE {count}")
            return cls(index, count, None if local is None else int(local))
        except ValueError as error:
            raise InputError(
                f"the environment names no rank: {error}. Start with torchrun, or unset RANK and WORLD_SIZE."
            ) from error

    def share(self, tasks: Sequence[Task]) -> list[Task]:
        """Every count-th task from the index-th: no overlap, whatever the other ranks have done already."""
        return list(tasks[self.index :: self.count])

    def device(self) -> str | None:
        """The CUDA device of this process where there are several ranks and there is one; else None."""
        import torch

        return f"cuda:{self.local}" if self.local is not None and self.count > 1 and torch.cuda.is_available() else None


@dataclass(frozen=True)
class Outcome(Generic[Task, Result]):
    """What became of one task: `result`, or the `failure`, which need not have been raised in this process."""

    task: Task
    result: Result | None = None
    failure: JanoscopeError | None = None

    @property
    def error(self) -> str | None:
        """The failure in one line."""
        return None if self.failure is None else in_words(self.failure)


def fan_out(
    tasks: Sequence[Task],
    make_worker: Callable[[], Callable[[Task], Result]],
    *,
    ray: str | None = None,
    rank: Rank | None = None,
) -> Iterator[Outcome[Task, Result]]:
    """Do the tasks, giving each outcome as it comes.

    make_worker: called once a process; with `ray` it travels by pickle, so it is a module's function or a `partial` of one.
    ray: address of a cluster (`auto` for the one on this machine). rank: which share is ours, without `ray`.

    Raises InputError where the cluster cannot be reached; KeyboardInterrupt passes.
    """
    if ray is not None:
        if rank is not None and rank.count > 1:
            raise InputError("--ray and torchrun both spread the tasks; use one of them.")
        yield from _over_ray(tasks, make_worker, ray)
        return
    mine = (rank or Rank()).share(tasks)
    if not mine:
        return
    worker = make_worker()
    for task in mine:
        try:
            yield Outcome(task, worker(task))
        except PeerLost:
            raise
        except Exception as error:  # whatever a library raises over one task, the others go on
            yield Outcome(task, failure=as_failure(error))


def in_words(error: BaseException) -> str:
    """One line."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, JanoscopeError) else f"{type(error).__name__}: {text}"


def as_failure(error: Exception) -> JanoscopeError:
    """One of our errors as it is, so that its kind is not lost; any other as TaskFailed, which travels between processes."""
    return error if isinstance(error, JanoscopeError) else TaskFailed(in_words(error))


class _RayWorker:
    """Lives in a process of the cluster; not a Ray class itself, so that this module loads without Ray."""

    def __init__(self, make_worker: Callable[[], Callable[[object], object]], folder: str):
        self._make = make_worker
        if os.path.isdir(folder):  # where the nodes share their files, names mean the same as where the command was given
            os.chdir(folder)
        self._work: Callable[[object], object] | None = None

    def run(self, task: object) -> tuple[object, JanoscopeError | None]:
        try:
            if self._work is None:
                self._work = self._make()
            return self._work(task), None
        except Exception as error:
            return None, as_failure(error)

    def ping(self) -> None:
        """Answered by a worker that lives."""


def _over_ray(
    tasks: Sequence[Task], make_worker: Callable[[], Callable[[Task], Result]], address: str
) -> Iterator[Outcome[Task, Result]]:
    ray, ours = _connect(address)
    actors = _actors(ray, make_worker, len(tasks))
    waiting, idle = list(tasks), list(actors)
    running: dict[object, tuple[Any, Task]] = {}
    returning: dict[object, Any] = {}  # pings of workers that were lost: Ray starts them again, or not
    try:
        while waiting or running:
            while waiting and idle:
                actor, task = idle.pop(), waiting.pop(0)
                running[actor.run.remote(task)] = (actor, task)
            if not running and not returning:
                break
            done, _ = ray.wait([*running, *returning], num_returns=1, timeout=None if running else _RETURN_S)
            if not done:
                break
            if done[0] in returning:
                idle += _returned(ray, done[0], returning.pop(done[0]))
                continue
            actor, task = running.pop(done[0])
            try:
                result, failure = ray.get(done[0])
                idle.append(actor)
            except ray.exceptions.RayError as lost:
                result, failure = None, TaskFailed(f"its worker was lost: {_last_line(lost)}")
                returning[actor.ping.options(max_task_retries=-1).remote()] = actor
            yield Outcome(task, result, failure)
        for task in waiting:
            yield Outcome(task, failure=TaskFailed("no worker is left"))
    finally:
        for actor in actors:
            ray.kill(actor)
        if ours:
            ray.shutdown()


def _returned(ray: Any, ping: object, actor: Any) -> list[Any]:
    """The worker again, if it answered."""
    try:
        ray.get(ping)
    except ray.exceptions.RayError:
        return []
    return [actor]


def _last_line(error: BaseException) -> str:
    """Where Ray puts the cause, below the traceback of its own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _connect(address: str) -> tuple[Any, bool]:
    """(Ray, whether it was this call that connected the process)."""
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs the ray extra (pip install 'janoscope[ray]').") from error
    _refuse_silent(address)
    ours = not ray.is_initialized()
    try:
        if ours:
            paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(_own_paths())}}
            ray.init(address=address, runtime_env=paths, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"no Ray cluster at {address}: {in_words(error)[:200]}. Start one with `ray start --head`.") from error
    return ray, ours


def _refuse_silent(address: str) -> None:
    """Ray itself tries for minutes where nobody listens."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise InputError(f"no Ray cluster at {address}: {error.strerror or error}. Start one with `ray start --head`.") from error


def _own_paths() -> list[str]:
    """Where Python finds modules beside its installation: a checkout that is not installed must be found by the workers too."""
    installed = (sys.prefix, sys.base_prefix)
    return [os.path.abspath(path) for path in sys.path if not os.path.abspath(path).startswith(installed)]


def _actors(ray: Any, make_worker: Callable[[], object], tasks: int) -> list[Any]:
    """One worker a GPU of the cluster, or one a node where there is none, spread out; never more than tasks."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    nodes = sum(node["Alive"] for node in ray.nodes())
    resources = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    remote = ray.remote(_RayWorker).options(max_restarts=_RESTARTS, scheduling_strategy="SPREAD", **resources)
    return [remote.remote(make_worker, os.getcwd()) for _ in range(min(tasks, gpus or nodes))]
