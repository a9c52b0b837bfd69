"""`--guidance-parallel`: the same command in two processes, of which one writes and reports."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import click

from ..errors import PeerLost
from .command import collected
from .options import grouped

if TYPE_CHECKING:
    from ..parallel.pair import Pair

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Handler = Callable[[int, FrameType | None], None] | signal.Handlers


@dataclass(frozen=True)
class PairFlags:
    """Whether two processes make every generation together."""

    guidance_parallel: int | None
    peer_timeout: float | None


# of commands that can share every generation between two processes
parallel_options = collected(
    "pairing",
    PairFlags,
    (
        grouped(
            "Parallel",
            "--guidance-parallel",
            type=int,
            metavar="2",
            help="Run each guidance branch in its own process, under torchrun (docs/guidance-parallel.md).",
        ),
        grouped(
            "Parallel",
            "--peer-timeout",
            type=float,
            metavar="S",
            help="How long the two processes wait for each other [default: 300 seconds].",
        ),
    ),
)


@contextmanager
def paired(flags: PairFlags) -> Iterator["Pair | None"]:
    """The pair that the options ask for; None without them. Inside, a stop ends this process in order, and only once.

    While the other process is waited for there is nothing to end in order, and Python does not hear signals: they act at once.
    """
    if flags.guidance_parallel is None:
        if flags.peer_timeout is not None:
            raise click.UsageError("--peer-timeout has no effect without --guidance-parallel 2.")
        yield None
        return
    from ..parallel.pair import Pair

    with _on_signals(signal.SIG_DFL):
        pair = Pair.join(flags.guidance_parallel, flags.peer_timeout)
    with _on_signals(_stop), pair:
        yield pair


def follows(pair: "Pair | None") -> bool:
    """Whether this process leaves writing and reporting to the other."""
    return pair is not None and not pair.leads


def _stop(number: int, frame: FrameType | None) -> None:
    """Once: torchrun passes Ctrl-C on to processes that have it already, and sends SIGTERM where a companion died."""
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise PeerLost("stopped by SIGTERM, which torchrun sends when one of its processes ended; see that one's message.")


@contextmanager
def _on_signals(handler: _Handler) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
