"""Two processes that make a generation together, a guidance branch each, as torchrun starts them."""

import datetime
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from ..capture.protocols import Pipeline
from ..errors import InputError, PeerLost
from ..plan import Selection
from ..probe import Probe
from .guidance import NOTE, GuidanceParallel, Layouts
from .tasks import Rank

TIMEOUT_S = 300.0  # the longest network call of a published model takes about a minute; the two load at different speeds, too
_POLL_S = 0.0002
START = "torchrun --nproc-per-node 2 -m janoscope"


class Pair:
    """This process and the one that computes the other guidance branch. Made by `join`, which waits for the other to come.

    Ranks 0 and 1 are a pair, 2 and 3 the next. `leads`: whether this process of the pair writes files and talks. `share`: this
    pair's rank among pairs, which share the prompts of a set. Notes travel over gloo, the network's outputs over NCCL where each
    process has a GPU of its own, else over gloo.
    """

    def __init__(self, rank: Rank, timeout_s: float = TIMEOUT_S):
        if rank.count % 2:
            raise InputError(f"--guidance-parallel 2 pairs processes, and {rank.count} cannot be paired; start an even number.")
        self.branch, self.share = rank.index % 2, Rank(rank.index // 2, rank.count // 2, rank.local)
        self._rank, self._timeout_s = rank, timeout_s
        self._store = _store(rank, timeout_s, self.share.index)
        self._gloo: Any = self._meeting()
        self._nccl: Any = None  # torch does not type the calls of these two
        self._direct: bool | None = None  # whether outputs go over NCCL; known when the first has been seen
        self._layouts: Layouts = {}
        self._layer: GuidanceParallel | None = None

    @classmethod
    def join(cls, processes: int = 2, timeout_s: float | None = None) -> "Pair":
        """The pair of this process among those that torchrun started.

        timeout_s: how long to wait for the other process, whenever something is to be swapped.

        Raises InputError where `processes` is not 2 or there is no second process; PeerLost when it does not come.
        """
        if processes != 2:
            raise InputError(f"--guidance-parallel {processes}: guidance has two branches, so only 2 can be meant.")
        if timeout_s is not None and timeout_s <= 0:
            raise InputError(f"--peer-timeout {timeout_s:g}: seconds above 0 are needed.")
        rank = Rank.from_environment()
        if rank.count < 2:
            raise InputError(f"--guidance-parallel 2 needs two processes; start them with `{START} ...`.")
        return cls(rank, timeout_s or TIMEOUT_S)

    @property
    def leads(self) -> bool:
        return self.branch == 0

    def device(self) -> str | None:
        """The GPU of this process; None where there is none. Processes share one where there are fewer."""
        count = torch.cuda.device_count()
        return f"cuda:{(self._rank.local or 0) % count}" if count else None

    @contextmanager
    def attached(self, pipe: Pipeline, sheet: Probe) -> Iterator[None]:
        """Every generation of `pipe` inside is shared with the other process; nothing to do where that is so already."""
        if self._layer is not None:
            yield
            return
        with GuidanceParallel(pipe, sheet, self, self._layouts) as self._layer:
            try:
                yield
            finally:
                self._layer = None

    def selected(self, selection: Selection) -> None:
        """For an executor: what it computes at a step, which the other process must compute too."""
        if self._layer is not None:
            self._layer.selected(selection)

    def agree(self, what: str, facts: object) -> None:
        """Raise InputError where the other process has other facts, which are compared by what they print."""
        mine = [zlib.crc32(repr(facts).encode()), *[0] * (NOTE - 1)]
        if self.meet(mine) != mine:
            raise InputError(f"the two processes of a pair differ in {what}; start both with the same command on the same files.")

    def close(self, error: BaseException | None = None) -> None:
        """Let go of the other process; it notices."""
        if self._nccl is not None and error is not None:
            self._nccl.abort()  # a collective that the other process never joins would be waited for
        self._nccl = self._gloo = None

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(error)

    # --- what the layer needs ---

    def meet(self, note: Sequence[int]) -> list[int]:
        """Swap notes with the other process."""
        return [int(number) for number in self._gather(torch.tensor(list(note), dtype=torch.int64))]

    def swap(self, tensor: torch.Tensor) -> torch.Tensor:
        """The other's tensor of the same shape, on this tensor's device."""
        if self._direct is None:
            self._direct = self._has_own_gpu(tensor.device)
        if not self._direct:
            raw = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8)  # gloo does not know every dtype
            return self._gather(raw).view(tensor.dtype).view(tensor.shape).to(tensor.device)
        if self._nccl is None:
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = datetime.timedelta(seconds=self._timeout_s)
            self._nccl = dist.ProcessGroupNCCL(dist.PrefixStore("nccl", self._store), self.branch, 2, options)
        both = [torch.empty_like(tensor) for _ in range(2)]
        self._nccl.allgather([both], [tensor]).wait()  # orders the streams; the host goes on
        return both[1 - self.branch]

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Over gloo, on the host. Polled, so that Ctrl-C is heard while waiting."""
        both = [torch.empty_like(tensor) for _ in range(2)]
        began = time.monotonic()
        try:
            work = self._gloo.allgather([both], [tensor])
            while not work.is_completed():
                time.sleep(_POLL_S)
            work.wait()
        except RuntimeError as error:
            raise PeerLost(self._what_happened(time.monotonic() - began)) from error
        return both[1 - self.branch]

    def _what_happened(self, waited_s: float) -> str:
        other = f"the other guidance branch's process (rank {self._rank.index ^ 1})"
        if waited_s < 0.9 * self._timeout_s:
            return f"{other} ended before its part was done; its own message says why, if it could leave one."
        return (
            f"{other} did not answer for {self._timeout_s:g} s; where a network call or loading takes longer, give a longer "
            "--peer-timeout."
        )

    def _meeting(self) -> dist.ProcessGroupGloo:
        try:
            timeout = datetime.timedelta(seconds=self._timeout_s)
            return dist.ProcessGroupGloo(dist.PrefixStore("gloo", self._store), self.branch, 2, timeout)
        except RuntimeError as error:
            raise PeerLost(
                f"the other guidance branch's process (rank {self._rank.index ^ 1}) did not come within {self._timeout_s:g} s; "
                f"start both with `{START} ...`, or give a longer --peer-timeout."
            ) from error

    def _has_own_gpu(self, device: torch.device) -> bool:
        if device.type != "cuda":
            return False
        gpu = f"{os.uname().nodename} {torch.cuda.get_device_properties(device).uuid}"
        mine = [zlib.crc32(gpu.encode()), *[0] * (NOTE - 1)]
        return self.meet(mine) != mine


def _store(rank: Rank, timeout_s: float, pair: int) -> dist.Store:
    """Where the processes find each other, with a corner of its own for every pair."""
    try:
        timeout = datetime.timedelta(seconds=timeout_s)
        store, _, _ = next(dist.rendezvous("env://", rank.index, rank.count, timeout=timeout))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the processes cannot find each other: {reason}. Start them with `{START} ...`.") from error
    joins = store.add(f"joins of rank {rank.index}", 1)  # what an earlier pair left there is stale
    return dist.PrefixStore(f"pair {pair}, {joins}", store)
