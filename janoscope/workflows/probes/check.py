"""The self-test of a probe: what it says is tried on a pipeline, rung by rung of the ladder of support.

1. recorded: every guided prediction and sample equals what a plain hook on the scheduler saw, and the pipeline is left as it was.
2. step level: a run that computes every step is the plain run, and a skipped step calls no network.
3. token level, where the probe has [execution]: the frozen test, with kv and hidden.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch

from ...capture import Capture, Generation, StepFacts
from ...capture.patch import InstancePatch
from ...errors import InputError, JanoscopeError
from ...execution import StepExecutor
from ...execution.frozen import FROZEN_STEPS, frozen_run
from ...pipeline.model import Model
from ...plan import Cache, Policy, StepSchedule

_STRATEGIES = ("kv", "hidden")


class Verdict(StrEnum):
    """How a rung came out."""

    HOLDS = "holds"
    FAILS = "fails"
    ABSENT = "absent"  # the probe does not claim it


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder: `recorded`, `step level` or `token level`. reason: what was seen, in a sentence."""

    name: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class ProbeCheck:
    """The rungs of one probe on one pipeline, lowest first."""

    family: str
    pipeline: str
    rungs: tuple[Rung, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing that the probe claims failed."""
        return all(rung.verdict is not Verdict.FAILS for rung in self.rungs)

    def to_json(self) -> dict[str, object]:
        """As `probes check --json` prints it."""
        rungs = [{"rung": rung.name, "verdict": rung.verdict.value, "reason": rung.reason} for rung in self.rungs]
        return {"family": self.family, "pipeline": self.pipeline, "holds": self.holds, "rungs": rungs}

    def __str__(self) -> str:
        head = f"{self.family} on {self.pipeline}"
        return "\n".join([head, *(f"  {rung.name:<12} {rung.verdict:<7} {rung.reason}" for rung in self.rungs)])


def check_probe(model: Model, generate: Callable[[int], object]) -> ProbeCheck:
    """Try a model's probe on its pipeline.

    Args:
        model: a loaded pipeline with the probe to test; tiny random weights serve.
        generate: makes the same generation each time, of so many steps.

    Returns:
        What held. A fault of the probe is a rung that fails, not an error.

    Raises:
        InputError: the same generation twice gives two results, so nothing could be compared.
    """
    plain = _watched(model, generate)
    if not plain.equals(_watched(model, generate)):
        raise InputError(f"{type(model.pipe).__name__} gives another result for the same seed, so nothing can be compared.")
    rungs = [_tried("recorded", lambda: _recorded(model, generate, plain))]
    if rungs[0].verdict is Verdict.HOLDS:
        rungs.append(_tried("step level", lambda: _step_level(model, generate, plain)))
        rungs.append(_token_level(model, generate))
    return ProbeCheck(model.probe.family, type(model.pipe).__name__, tuple(rungs))


class _Refuted(Exception):
    """A claim of the probe did not hold."""


def _tried(name: str, attempt: Callable[[], str]) -> Rung:
    try:
        return Rung(name, Verdict.HOLDS, attempt())
    except (JanoscopeError, _Refuted) as error:
        return Rung(name, Verdict.FAILS, " ".join(str(error).split()))


@dataclass(frozen=True, eq=False)
class _Watched:
    """What the scheduler was handed at every step, and how often the networks were called before each."""

    outputs: list[torch.Tensor]
    samples: list[torch.Tensor]
    calls: list[int]

    def equals(self, other: "_Watched") -> bool:
        mine, theirs = self.outputs + self.samples, other.outputs + other.samples
        return len(mine) == len(theirs) and all(a.equal(b) for a, b in zip(mine, theirs, strict=True))


def _watched(model: Model, generate: Callable[[int], object]) -> _Watched:
    """A generation watched by plain hooks: nothing of capture has a part in it."""
    watched, calls = _Watched([], [], []), 0

    def called(*_: object) -> None:
        nonlocal calls
        calls += 1

    def wrap(original: Callable[..., object]) -> Callable[..., object]:
        def step(model_output: torch.Tensor, timestep: object, sample: torch.Tensor, *args: object, **kwargs: object) -> object:
            nonlocal calls
            watched.outputs.append(model_output.detach().clone())
            watched.samples.append(sample.detach().clone())
            watched.calls.append(calls)
            calls = 0
            return original(model_output, timestep, sample, *args, **kwargs)

        return step

    networks = [getattr(model.pipe, name, None) for name in model.probe.tap.components]
    layers = [_first_layer(network) for network in networks if isinstance(network, torch.nn.Module)]
    handles = [layer.register_forward_hook(called) for layer in layers]
    patch = InstancePatch(model.pipe.scheduler, "step", wrap)
    try:
        with torch.no_grad():
            generate(FROZEN_STEPS)
    finally:
        patch.remove()
        for handle in handles:
            handle.remove()
    return watched


def _first_layer(network: torch.nn.Module) -> torch.nn.Module:
    """A layer that every call of the network runs through, so that a call that was skipped does not count."""
    layers = (module for module in network.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d))
    return next(layers, network)


class _Memory:
    """A sink that keeps the guided predictions and samples of one generation, by step and batch element."""

    def __init__(self) -> None:
        self.generation: Generation | None = None
        self.steps: list[dict[tuple[str, int, str], np.ndarray]] = []
        self._step: dict[tuple[str, int, str], np.ndarray] = {}

    def begin(self, generation: Generation) -> None:
        self.generation = generation

    def put(self, signal: str, values: np.ndarray, *, item: int, branch: str, dtype: str) -> None:
        self._step[signal, item, branch] = values.copy()

    def commit(self, facts: StepFacts) -> None:
        self.steps.append(self._step)
        self._step = {}

    def end(self, error: BaseException | None) -> None:
        """Kept as it is."""


def _recorded(model: Model, generate: Callable[[int], object], plain: _Watched) -> str:
    memory = _Memory()
    with Capture(model.pipe, model.probe, memory), torch.no_grad():
        generate(FROZEN_STEPS)
    generation = memory.generation
    if generation is None or len(memory.steps) != len(plain.outputs):
        raise _Refuted(f"{len(memory.steps)} steps were recorded of {len(plain.outputs)} that the scheduler made.")
    for step, maps in enumerate(memory.steps):
        for signal, tensors in (("model_output", plain.outputs), ("sample", plain.samples)):
            _compare(f"{signal} of step {step}", signal, maps, tensors[step], generation, model.probe.tokens.layout)
    if not _watched(model, generate).equals(plain):
        raise _Refuted("the pipeline gives another result after the recording than before it.")
    branches = ", ".join(generation.branches)
    return f"{len(memory.steps)} steps of {generation.grid.count} tokens are what the scheduler was handed; branches: {branches}."


def _compare(
    place: str,
    signal: str,
    maps: Mapping[tuple[str, int, str], np.ndarray],
    latent: torch.Tensor,
    generation: Generation,
    layout: str,
) -> None:
    """Recorded tokens of one signal, put back into the latent's own layout, against the latent (batch element first)."""
    for item in range(generation.items):
        tokens = maps.get((signal, item, "guided"))
        if tokens is None:
            raise _Refuted(f"{place} was not recorded for batch element {item}.")
        found, expected = np.asarray(tokens, dtype=np.float32), latent[item].float().numpy()
        if expected.ndim > 2:
            cells = np.asarray(generation.grid.unpack(found[None]))[0]  # (channel, frame, row, col)
            channels_first = expected.swapaxes(0, 1) if layout == "BFCHW" else expected
            # a learned variance lies behind the prediction's channels
            found, expected = cells.reshape(len(cells), -1), channels_first[: len(cells)].reshape(len(cells), -1)
        if expected.shape != found.shape:
            raise _Refuted(f"{place} has the shape {found.shape}, the scheduler was handed {expected.shape}.")
        if not np.array_equal(expected, found):
            raise _Refuted(f"{place} differs from what the scheduler was handed by {float(np.abs(expected - found).max()):.3g}.")


def _step_level(model: Model, generate: Callable[[int], object], plain: _Watched) -> str:
    steps = len(plain.outputs)
    if not _scheduled(model, generate, tuple(range(steps)), steps).equals(plain):
        raise _Refuted("a run that computes every step is not the plain run.")
    computed = tuple(step for step in range(steps) if step < 2 or step % 2 == 0)
    calls = _scheduled(model, generate, computed, steps).calls
    wrong = [step for step in range(steps) if (calls[step] > 0) != (step in computed)]
    networks = sum(isinstance(getattr(model.pipe, name, None), torch.nn.Module) for name in model.probe.tap.components)
    if len(wrong) >= networks:  # where a second network takes over, nothing of its own can stand in for it yet
        raise _Refuted(f"step {wrong[0]} was to be {'computed' if wrong[0] in computed else 'skipped'} and was not.")
    return f"a run that computes every step is the plain run; {steps - len(computed)} skipped steps called no network."


def _scheduled(model: Model, generate: Callable[[int], object], computed: tuple[int, ...], steps: int) -> _Watched:
    policy = Policy("check", output="hold", schedule=StepSchedule(steps, computed))
    with StepExecutor(model.pipe, model.probe, policy=policy):
        return _watched(model, generate)


def _token_level(model: Model, generate: Callable[[int], object]) -> Rung:
    if model.probe.execution is None:
        return Rung("token level", Verdict.ABSENT, "the probe has no [execution].")

    def attempt() -> str:
        differences = []
        for strategy in _STRATEGIES:
            with torch.no_grad():
                run = frozen_run(model.pipe, model.probe, lambda: generate(FROZEN_STEPS), cache=Cache(strategy))
            if not run.is_right:
                raise _Refuted(f"{strategy}: {run}.")
            differences.append(f"{strategy} {run.worst.difference:.1e}")
        return f"with frozen inputs partial steps give the plain output (relative difference: {', '.join(differences)})."

    return _tried("token level", attempt)
