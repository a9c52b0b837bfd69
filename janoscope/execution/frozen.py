"""The frozen test: at every step the network is given the very inputs of its first one, so skipping tokens must change nothing.

With the same inputs a reused key, value or output is the one that would be computed, so partial steps must give the plain output
within rounding. A wrong row, rotary table or mask, or an attention call that is not served, shows at once, whatever the weights.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..capture.layout import prediction_of
from ..capture.patch import InstancePatch
from ..capture.protocols import Pipeline
from ..errors import ExecutionError
from ..plan import Cache, Policy
from ..plan.policy import Intervals, Split
from ..probe import Probe
from .executor import Executor

# every kind of step twice within ten: levels by chance, since an image that does not change has no map
FROZEN_POLICY = Policy(
    name="frozen",
    warmup=2,
    cooldown=1,
    tile=(1, 2, 2),
    intervals=Intervals(4, 2, 1),
    quantiles=Split(0.3, 0.6),
    map="random",
)
FROZEN_STEPS = 10
ROUNDING = 32  # times the dtype's resolution: right families stay within 1, a second call that is not served is beyond 800


@dataclass(frozen=True)
class FrozenCall:
    """One network call. difference: largest of any batch element to the first step's output, relative to its largest value."""

    component: str
    step: int
    call: int
    difference: float


@dataclass(frozen=True)
class FrozenRun:
    """A generation of frozen inputs. kinds: of every step. tolerance: what rounding may change in the network's dtype."""

    calls: tuple[FrozenCall, ...]
    kinds: tuple[str, ...]
    tolerance: float

    @property
    def worst(self) -> FrozenCall:
        """The call that is farthest from the plain output."""
        return max(self.calls, key=lambda call: call.difference)

    @property
    def is_right(self) -> bool:
        """Whether every call gave the plain output within rounding."""
        return self.worst.difference <= self.tolerance

    def __str__(self) -> str:
        worst, partial = self.worst, sum(kind in ("moderate", "active") for kind in self.kinds)
        verdict = "equal to the plain output" if self.is_right else "NOT the plain output"
        return (
            f"{partial} partial steps {verdict}: largest relative difference {worst.difference:.1e} ({worst.component}, step "
            f"{worst.step}, a {self.kinds[worst.step]} step, call {worst.call}), rounding allows {self.tolerance:.1e}"
        )


def frozen_run(
    pipe: Pipeline, probe: Probe, generate: Callable[[], object], *, policy: Policy = FROZEN_POLICY, cache: Cache | None = None
) -> FrozenRun:
    """Make one generation under the executor whose network inputs are frozen, and compare every call with the first step's.

    Args:
        generate: makes the generation on `pipe`, of FROZEN_STEPS steps under the policy given here.
        cache: the strategy to test, in the place of the policy's.

    Raises:
        ExecutionError: the family cannot be accelerated, or no step of the generation was partial.
    """
    with Executor(pipe, probe, policy=policy, cache=cache) as executor:
        frozen = _Frozen(pipe, probe)
        try:
            generate()
        finally:
            frozen.remove()
    kinds = tuple(executor.summary.kinds)
    if not any(kind in ("moderate", "active") for kind in kinds):
        raise ExecutionError(f"none of {len(kinds)} steps was partial, so nothing was tested; make {FROZEN_STEPS} steps.")
    return FrozenRun(tuple(frozen.calls), kinds, ROUNDING * frozen.resolution)


class _Frozen:
    """Replaces the inputs of a pipeline's networks by those of their first step, and compares outputs, until `remove`."""

    def __init__(self, pipe: Pipeline, probe: Probe):
        self.calls: list[FrozenCall] = []
        self.resolution = 0.0
        self._step = self._call = 0
        self._inputs: dict[tuple[str, int], tuple[object, object]] = {}
        self._outputs: dict[tuple[str, int], torch.Tensor] = {}
        self._undo: list[Callable[[], object]] = [InstancePatch(pipe.scheduler, "step", self._wrap_step).remove]
        for name in probe.tap.components:
            if isinstance(network := getattr(pipe, name, None), torch.nn.Module):
                self._freeze(name, network)

    def remove(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _freeze(self, name: str, network: torch.nn.Module) -> None:
        def before(_: torch.nn.Module, args: object, kwargs: object) -> Any:
            inputs = self._inputs.setdefault((name, self._call), (args, kwargs))
            # copied: a network may write to its inputs, and a pipeline to what it passed
            self._inputs[name, self._call] = copy.deepcopy(inputs)
            return inputs

        def after(_: torch.nn.Module, args: object, kwargs: object, output: object) -> None:
            self._compare(name, prediction_of(output).detach().clone())

        self._undo.append(network.register_forward_pre_hook(before, with_kwargs=True).remove)
        self._undo.append(network.register_forward_hook(after, with_kwargs=True).remove)

    def _compare(self, name: str, output: torch.Tensor) -> None:
        plain = self._outputs.setdefault((name, self._call), output)
        self.resolution = torch.finfo(plain.dtype).eps
        over = tuple(range(1, plain.ndim))
        difference = (output.float() - plain.float()).abs().amax(over) / plain.float().abs().amax(over)  # (batch element,)
        self.calls.append(FrozenCall(name, self._step, self._call, float(difference.max())))
        self._call += 1

    def _wrap_step(self, original: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **kwargs: object) -> object:
            self._step, self._call = self._step + 1, 0
            return original(*args, **kwargs)

        return step
