"""Guidance parallelism: two processes run the same pipeline, and each computes the network for one guidance branch only.

A layer around the network's `forward`, outermost: the executor inside sees calls of one branch, whoever watches from outside
(the pipeline, a Capture) sees both. What crosses between the processes is the network's output and a few numbers that prove
that both still do the same.
"""

import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Protocol

import torch

from ..capture.layout import prediction_of, with_prediction
from ..capture.patch import InstancePatch
from ..capture.protocols import Pipeline
from ..capture.transfer import HostCopies, HostCopy
from ..errors import ExecutionError, InputError, PeerFailed, PeerLost
from ..plan import Selection
from ..probe import Probe
from .batch_split import BatchCut

Forward = Callable[..., object]
# (network, shape and dtype of its input) -> shape and dtype of its output
Layouts = dict[tuple[str, torch.Size, torch.dtype], tuple[tuple[int, ...], torch.dtype]]
NOTE = 12  # whole numbers in a note
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_LEAVE_OUT = "leave --guidance-parallel out"


class Peer(Protocol):
    """The way to the other process. branch: this process's, 0 or 1 in the order of the probe."""

    branch: int

    def meet(self, note: Sequence[int]) -> list[int]:
        """Swap notes of NOTE whole numbers with the other process. Raises PeerLost when it does not come in time."""
        ...

    def swap(self, tensor: torch.Tensor) -> torch.Tensor:
        """The other's tensor of the same shape and dtype; only after a `meet`, which makes sure that it is on its way."""
        ...


class _Kind(IntEnum):
    """What the sender of a note is about to do."""

    LAYOUT = 1  # tell the shape of the first call's output
    SWAP = 2  # swap a step's outputs
    DONE = 3
    FAILED = 4


class GuidanceParallel:
    """Attached from construction until `remove`; a context manager. Attach it last: it has to be the outermost layer.

    Families with a call a branch: the other branch's call is not computed; its output, a tensor handed to the pipeline at once,
    is filled when both calls have been made, so that the two processes work at the same time. The pipelines of these families
    read a branch's output only after the last call; one that did not would be found out by the latents.
    Families with both branches in one batch: every argument is cut to this process's half and the outputs are joined.

    layouts: shapes of outputs that earlier generations have shown; shared between them, it spares the first step a wait.

    Raises:
        InputError: the family has no two branches, or the pipeline makes one call only (guidance off, distilled, or ended).
        PeerFailed, PeerLost: see there. ExecutionError: the processes differ, in the tokens they chose or in their latents.
    """

    def __init__(self, pipe: Pipeline, sheet: Probe, peer: Peer, layouts: Layouts | None = None):
        if sheet.guidance.calls == "none" or len(sheet.guidance.branches) != 2:
            count = 1 if sheet.guidance.calls == "none" else len(sheet.guidance.branches)
            raise InputError(f"{sheet.title} has {count} guidance branch(es), not two; {_LEAVE_OUT}.")
        self._pipe, self._probe, self._peer = pipe, sheet, peer
        self._layouts: Layouts = {} if layouts is None else layouts
        self._cut = BatchCut(sheet, peer.branch)
        self._copies = HostCopies()
        self._generation = self._step = self._calls = self._batch = 0
        self._selected = 0  # of this step
        self._latents: HostCopy | None = None  # of the last step, on their way to the host
        self._first: object = None  # the first call's output in this step
        self._told = False  # the peer knows that this generation failed
        self._patches: list[InstancePatch] = []
        self._parts = {name: getattr(pipe, name, None) for name in (*sheet.tap.components, "scheduler")}
        self._attach()

    def __enter__(self) -> "GuidanceParallel":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.remove(error)

    def remove(self, error: BaseException | None = None) -> None:
        """Give the pipeline back as it was; tells the peer how this process's part ended."""
        attached = bool(self._patches)
        while self._patches:
            self._patches.pop().remove()
        self._first = None
        if error is not None:
            self._layouts.clear()
        if not attached or self._told or isinstance(error, PeerLost) or (error and not isinstance(error, Exception)):
            return  # an interrupted process ends, which tells the peer
        if error is None:
            self._meet(_Kind.DONE)
            return
        self._told = True
        try:
            self._peer.meet(self._note(_Kind.FAILED, ()))
        except PeerLost:
            return  # `error` says what went wrong first

    def selected(self, selection: Selection) -> None:
        """To be told what is computed at each step; the peer must compute the same."""
        indices = b"" if selection.indices is None else selection.indices.tobytes()
        self._selected = zlib.crc32(indices, zlib.crc32(str(selection.kind).encode()))

    # --- on the pipeline's instances ---

    def _attach(self) -> None:
        call = self._batched if self._probe.guidance.calls == "batched" else self._sequential
        for name in self._probe.tap.components:
            module = getattr(self._pipe, name, None)
            if isinstance(module, torch.nn.Module):
                self._patches.append(InstancePatch(module, "forward", self._wrap_network(name, module, call)))
        scheduler = self._parts["scheduler"]
        self._patches.append(InstancePatch(scheduler, "set_timesteps", self._wrap_set_timesteps))
        self._patches.append(InstancePatch(scheduler, "step", self._wrap_step))

    def _wrap_network(self, name: str, module: torch.nn.Module, call: Callable[..., object]) -> Callable[[Forward], Forward]:
        signature = inspect.signature(type(module).forward)

        def wrap(original: Forward) -> Forward:
            def forward(*args: object, **kwargs: object) -> object:
                self._refuse_replaced()
                bound = signature.bind(module, *args, **kwargs)
                for extra in self._probe.guidance.extra_call:
                    if bound.arguments.get(extra) is not None:
                        raise InputError(
                            f"the pipeline makes an extra network call with {extra}, no guidance branch; {_LEAVE_OUT}."
                        )
                index, self._calls = self._calls, self._calls + 1
                return call(name, index, bound, original)

            return forward

        return wrap

    def _refuse_replaced(self) -> None:
        """A scheduler or network put in another's place would sample past the other process."""
        for name, part in self._parts.items():
            if getattr(self._pipe, name, None) is not part:
                raise InputError(
                    f"pipe.{name} was replaced since the two processes were joined, which one of them cannot know of; replace it "
                    "in both before `record` or `apply`."
                )

    def _wrap_set_timesteps(self, original: Forward) -> Forward:
        def set_timesteps(*args: object, **kwargs: object) -> object:
            self._refuse_replaced()
            result = original(*args, **kwargs)
            self._generation, self._step, self._calls, self._selected = self._generation + 1, 0, 0, 0
            return result

        return set_timesteps

    def _wrap_step(self, original: Forward) -> Forward:
        scheduler = self._pipe.scheduler
        signature = inspect.signature(type(scheduler).step)

        def step(*args: object, **kwargs: object) -> object:
            given = signature.bind(scheduler, *args, **kwargs).arguments
            self._close_step(given["sample"], given["model_output"])
            return original(*args, **kwargs)

        return step

    # --- network calls ---

    def _sequential(self, name: str, index: int, bound: inspect.BoundArguments, original: Forward) -> object:
        if index > 1:
            raise InputError(f"the pipeline made more than two network calls at step {self._step}; {_LEAVE_OUT}.")
        mine = index == self._peer.branch
        output = original(*bound.args[1:], **bound.kwargs) if mine else None
        if index == 0:
            self._first = self._first_output(name, bound.arguments, output)
            return self._first
        if not mine:
            return with_prediction(self._first, self._exchange(prediction_of(self._first)))
        prediction_of(self._first).copy_(self._exchange(prediction_of(output)))
        return output

    def _first_output(self, name: str, arguments: Mapping[str, object], output: object) -> object:
        """The first call's output, or an empty one of the same layout, which the process of the other branch cannot know until
        it has been told once."""
        sample = arguments[self._probe.tap.input]
        assert isinstance(sample, torch.Tensor)
        key = name, sample.shape, sample.dtype
        if key not in self._layouts:
            own = () if output is None else _layout_numbers(prediction_of(output))
            theirs = self._meet(_Kind.LAYOUT, own)
            self._layouts[key] = _layout(theirs if output is None else own)
        if output is not None:
            return output
        if arguments.get("return_dict", True):
            raise ExecutionError(f"{type(self._pipe).__name__} asks the network for an output object, not a tuple; {_LEAVE_OUT}.")
        shape, dtype = self._layouts[key]
        # not a number: whoever reads it before it is filled does not get away with it
        return (torch.full(shape, float("nan"), dtype=dtype, device=sample.device),)

    def _batched(self, name: str, index: int, bound: inspect.BoundArguments, original: Forward) -> object:
        if index > 0:
            raise InputError(f"the pipeline made a second network call at step {self._step}, no guidance branch; {_LEAVE_OUT}.")
        self._batch = len(bound.arguments[self._probe.tap.input])
        bound.arguments.update(self._cut.cut({key: value for key, value in bound.arguments.items() if key != "self"}))
        output = original(*bound.args[1:], **bound.kwargs)
        own = prediction_of(output)
        if not isinstance(own, list):
            return with_prediction(output, self._cut.join(own, self._exchange(own)))
        stacked = torch.stack(own)
        return with_prediction(output, list(self._cut.join(stacked, self._exchange(stacked)).unbind()))

    def _exchange(self, own: torch.Tensor) -> torch.Tensor:
        self._meet(_Kind.SWAP)
        return self._peer.swap(own.contiguous())

    # --- a scheduler step ---

    def _close_step(self, sample: torch.Tensor, model_output: torch.Tensor) -> None:
        self._refuse_one_branch(sample)
        # of both: a sampler that draws noise of its own shows in the sample, an output that was read too early in the guided one
        if self._latents is not None:
            self._latents.release()
        self._latents = self._copies.send(torch.stack([_bits(sample), _bits(model_output)]))
        self._first = None
        self._step, self._calls, self._selected = self._step + 1, 0, 0

    def _refuse_one_branch(self, sample: torch.Tensor) -> None:
        name, argument = type(self._pipe).__name__, self._probe.guidance.argument
        if self._probe.guidance.calls == "sequential":
            alone = self._calls == 1
        else:
            alone = self._step == 0 and self._batch != 2 * _items(sample, self._probe.guidance.stacked_step)
        if not alone:
            return
        if self._step == 0:
            raise InputError(
                f"{name} runs with one guidance branch here (guidance is off or distilled; {argument} switches it on where the "
                f"model has it), so there is nothing to share between two processes; {_LEAVE_OUT}."
            )
        raise InputError(f"guidance ended before step {self._step}, which leaves one branch; {_LEAVE_OUT}.")

    # --- with the peer ---

    def _meet(self, kind: _Kind, facts: Sequence[int] = ()) -> Sequence[int]:
        """Meet the peer for the same purpose at the same place of the same generation; gives its facts."""
        mine = self._note(kind, facts)
        theirs = self._peer.meet(mine)
        if theirs[0] == _Kind.FAILED:
            self._told = True
            self._layouts.clear()  # as the peer does: the two may have learned different things
            raise PeerFailed(f"the other guidance branch's process failed at step {theirs[2]}; its own message says why.")
        if theirs[:3] != mine[:3]:
            here, there = (f"{_Kind(note[0]).name.lower()} of step {note[2]}, generation {note[1]}" for note in (mine, theirs))
            raise PeerLost(f"the two processes are at different places ({here}; {there}); start both with the same command.")
        if theirs[3] != mine[3]:
            raise ExecutionError(
                f"the two processes chose different tokens for step {self._step}: their plans differ. Give both the same policy, "
                "plan, prompt and seed."
            )
        if theirs[4:6] != mine[4:6]:
            which = "sample" if theirs[4] != mine[4] else "guided prediction"
            raise ExecutionError(
                f"the two processes no longer hold the same {which} after step {self._step - 1}; give both the same prompt, seed "
                "and options, and a scheduler that draws no noise of its own."
            )
        return theirs[6:]

    def _note(self, kind: _Kind, facts: Sequence[int]) -> list[int]:
        selected = self._selected if kind is _Kind.SWAP else 0  # at the first call only one of the two has chosen
        latents = [0, 0] if self._latents is None else self._latents.arrived().tolist()
        note = [int(kind), self._generation, self._step, selected, *latents, *facts]
        return note + [0] * (NOTE - len(note))


def _items(sample: torch.Tensor, stacked: bool) -> int:
    """Items of a batch; a pipeline that steps both branches' rows does so alike."""
    half = len(sample) // 2
    return half if stacked and len(sample) % 2 == 0 and torch.equal(sample[:half], sample[half:]) else len(sample)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """One whole number that changes with any bit: the sum of the values' bits as integers, the same in whatever order."""
    return tensor.detach().contiguous().view(_BITS[tensor.element_size()]).sum(dtype=torch.int64)


def _layout_numbers(tensor: torch.Tensor) -> tuple[int, ...]:
    if tensor.ndim > NOTE - 7 or tensor.dtype not in _DTYPES:
        raise ExecutionError(f"an output of {tensor.ndim} axes in {tensor.dtype} cannot be shared; {_LEAVE_OUT}.")
    return (_DTYPES.index(tensor.dtype), *tensor.shape)


def _layout(numbers: Sequence[int]) -> tuple[tuple[int, ...], torch.dtype]:
    dtype, *shape = numbers
    return tuple(size for size in shape if size), _DTYPES[dtype]
