"""What the executor refuses, each with a sentence: better no result than a wrong one."""

import math
from collections.abc import Mapping

import torch

from ..capture.attachments import AttachmentKind, attachments_of
from ..capture.patch import patches_of
from ..errors import ExecutionError
from ..grid import TokenGrid
from ..plan import Cache, Policy
from ..probe import Probe
from .refused_configs import RUN_PLAIN


def refuse_policy(policy: Policy, planned: bool = False) -> None:
    """Refuse fields of a policy that this executor would have to ignore. planned: a plan says the levels already."""
    if planned:
        return
    if policy.map == "oracle":
        raise ExecutionError("the oracle map is made from the full run, not in mid-generation; use `compare --method oracle`.")
    if (least := policy.least_warmup) > policy.warmup:
        raise ExecutionError(f"warmup = {policy.warmup} leaves too little to make a {policy.map} map from; the least is {least}.")


def refuse_cache(cache: Cache) -> None:
    """Refuse settings that a strategy would ignore; a policy read from a file has been checked already."""
    if cache.forecast and cache.strategy != "kv":
        raise ExecutionError(
            f"cache.forecast needs strategy kv: {cache.strategy} does not keep keys and values to draw lines through."
        )


def refuse_compiled(name: str, module: torch.nn.Module) -> None:
    """Refuse a network that is compiled as a whole: what is skipped changes from step to step. Compiled blocks are fine."""
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        raise ExecutionError(
            f"{name} is compiled as a whole, which cannot be accelerated; compile its blocks (compile_repeated_blocks)."
        )


def refuse_attached(name: str, module: torch.nn.Module, attached: bool = False) -> None:
    """Refuse a network on which something else decides what is computed.

    name: the pipeline's attribute. attached: our own executor is on it already, and looks again.
    """
    for attachment in attachments_of(module):
        ours = attached and attachment.kind is AttachmentKind.EXECUTOR
        if not ours and (why := _WHY_NOT.get(attachment.kind)):
            raise ExecutionError(f"{name} has {attachment}, {why.format(name=name)}.")


_WHY_NOT = {
    AttachmentKind.EXECUTOR: "and two would cut the same tokens: remove it first (its `remove()`, or the end of its `with`)",
    AttachmentKind.CACHE: "which skips parts of the network by itself: switch it off first (pipe.{name}.disable_cache())",
    AttachmentKind.PARALLELISM: "which gives each device a part of the tokens: attach the executor without it",
}


# diffusers' names of what ends in torch's scaled_dot_product_attention
TORCH_BACKENDS = ("native", "_native_cudnn", "_native_efficient", "_native_flash", "_native_math")
# whose kernels nobody has seen with more keys than queries
UNKNOWN_BACKENDS = ("_native_npu", "_native_xla")


def refuse_backend(module: str, backend: str) -> None:
    """Refuse an attention backend of diffusers that is not known to take more keys than queries; `module` is a path."""
    if backend in UNKNOWN_BACKENDS:
        raise ExecutionError(
            f"{module} uses diffusers' attention backend {backend!r}, which is not known to take more keys than queries; choose "
            "native (set_attention_backend)."
        )


def refuse_held_scheduler(scheduler: object) -> None:
    """Refuse a scheduler that the executor of another pipeline listens to: it would take our steps for its own."""
    if any(patch.by for patch in patches_of(scheduler, "step")):
        raise ExecutionError(
            f"this {type(scheduler).__name__} is watched by the executor of another pipeline: remove that first, or give each "
            "pipeline a scheduler of its own."
        )


def refuse_call(probe: Probe, arguments: Mapping[str, object]) -> None:
    """Refuse a network call whose extra inputs do not follow skipped tokens."""
    assert probe.execution is not None
    for name in probe.execution.refuse:
        if arguments.get(name) is not None:
            raise ExecutionError(f"{probe.title} was called with {name}, which skipped tokens cannot follow; {RUN_PLAIN}.")
    timestep = arguments.get(probe.tap.timestep)
    if timestep is not None and getattr(timestep, "ndim", 0) > 1:
        raise ExecutionError(f"the pipeline gives every token its own timestep, which skipped tokens cannot follow; {RUN_PLAIN}.")


def refuse_channels(probe: Probe, grid: TokenGrid, sample: torch.Tensor) -> None:
    """Refuse a pipeline that appends a picture's channels to the network's input (image to video)."""
    axis = 2 if probe.tokens.layout == "BFCHW" else 1
    channels = sample.shape[-1] // math.prod(grid.patch) if sample.ndim == 3 else sample.shape[axis]
    if channels != grid.channels:
        raise ExecutionError(
            f"the network takes {grid.channels} channels but the sampler steps {channels}: pictures as extra input cannot be "
            f"accelerated; {RUN_PLAIN}."
        )


def refuse_sequence(probe: Probe, grid: TokenGrid, given: torch.Tensor) -> None:
    """Refuse reference pictures that stand behind the picture's own tokens."""
    if probe.tokens.layout == "packed" and given.shape[1] != grid.count:
        raise ExecutionError(
            f"the network was given {given.shape[1]} tokens for a picture of {grid.count}: reference pictures cannot be "
            f"accelerated; {RUN_PLAIN}."
        )
