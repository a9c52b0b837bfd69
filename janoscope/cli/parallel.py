"""`--guidance-parallel`: the same command in two processes, of which one writes and talks."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..errors import PeerLost

if TYPE_CHECKING:
    from ..parallel.pair import Pair

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def parallel_options(command: Any) -> Any:
    """The options of verbs that can share every generation between two processes."""
    timeout = click.option(
        "--peer-timeout", type=float, metavar="S", help="How long the two processes wait for each other [default: 300 seconds]."
    )
    processes = click.option(
        "--guidance-parallel",
        type=int,
        metavar="2",
        help="A guidance branch a process, under torchrun (docs/guidance-parallel.md).",
    )
    return processes(timeout(command))


@contextmanager
def paired(guidance_parallel: int | None, peer_timeout: float | None) -> Iterator["Pair | None"]:
    """The pair that the options ask for; None without them. Inside, a stop ends this process in order, and only once.

    While the other process is waited for there is nothing to end in order, and Python does not hear signals: they act at once.
    """
    if guidance_parallel is None:
        if peer_timeout is not None:
            raise click.UsageError("--peer-timeout has no effect without --guidance-parallel 2.")
        yield None
        return
    from ..parallel.pair import Pair

    with _on_signals(signal.SIG_DFL):
        pair = Pair.join(guidance_parallel, peer_timeout)
    with _on_signals(_stop), pair:
        yield pair


def follows(pair: "Pair | None") -> bool:
    """Whether this process leaves writing and talking to the other."""
    return pair is not None and not pair.leads


def _stop(number: int, frame: Any) -> None:
    """Once: torchrun passes Ctrl-C on to processes that have it already, and sends SIGTERM where a companion died."""
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise PeerLost("stopped by SIGTERM, which torchrun sends when one of its processes ended; see that one's message.")


@contextmanager
def _on_signals(handler: Any) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
