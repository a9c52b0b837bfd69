"""Caching methods of diffusers and cache-dit, attached for one generation and taken off again without a trace."""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch

from ..capture.watch import InstancePatch
from ..errors import ExecutionError, InputError
from ..execution.account import flop_counter
from .call import PipelineCall
from .generate import Generated, generate
from .methods import Cost, Method, Options, Spec, clock, device_of, flag
from .model import Model

DEPTH = 10  # of containers and objects between a hook and its tensors; theirs lie at 5 to 8

Attach = Callable[[Model, PipelineCall, "Branches"], None]


def networks_of(model: Model) -> list[torch.nn.Module]:
    """The pipeline's networks, in order of use."""
    found = (getattr(model.pipe, name, None) for name in model.sheet.tap.components)
    return [network for network in found if network is not None]


def passes_of(model: Model, call: PipelineCall) -> int:
    """Network calls a step, seen on a plain generation made for this."""
    with restored(networks_of(model)):
        branches = Branches(model, count=False)
        try:
            generate(model, call)
        finally:
            branches.remove()
    return branches.most


class Branches:
    """Tells the guidance branch by the order of network calls within a scheduler step, and counts their FLOPs on demand.

    diffusers' caches ask the pipeline for the branch, and half of its pipelines do not say.
    """

    def __init__(self, model: Model, count: bool):
        self._model, self._count, self.index = model, count, 0
        self.most = 0  # network calls in one step
        self.flops = 0
        self.cache_bytes = 0
        self.timestep = 0.0
        self._states: dict[tuple[int, int], Any] = {}
        self.swapped: list[tuple[Any, Callable[[], Any]]] = []  # hooks whose state knows no branch, and how to make one
        self.networks = networks_of(model)
        self._patches = [InstancePatch(network, "forward", self._wrap(network)) for network in self.networks]
        self._patches.append(InstancePatch(model.pipe.scheduler, "step", self._wrap_step))

    def remove(self) -> None:
        while self._patches:
            self._patches.pop().remove()

    def _wrap(self, network: torch.nn.Module) -> Any:
        from diffusers.hooks.hooks import CacheContext, _set_cache_context

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                if self.index == 0:
                    self.timestep = float(self._model.pipe.scheduler.timesteps[self._done])
                _set_cache_context(network, CacheContext(f"call{self.index}"))
                self._swap()
                try:
                    if not self._count:
                        return original(*args, **kwargs)
                    with flop_counter() as counter:
                        output = original(*args, **kwargs)
                    self.flops += counter.get_total_flops()
                    return output
                finally:
                    self.index += 1
                    self.most = max(self.most, self.index)

            return forward

        return wrap

    def _swap(self) -> None:
        for hook, make in self.swapped:
            key = id(hook), self.index
            if key not in self._states:
                self._states[key] = make()
            hook.state = self._states[key]

    def _wrap_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._done = 0

        def step(*args: Any, **kwargs: Any) -> Any:
            self.index, self._done = 0, min(self._done + 1, len(self._model.pipe.scheduler.timesteps) - 1)
            if self._count:
                self.cache_bytes = max(self.cache_bytes, self._held_bytes())
            return original(*args, **kwargs)

        return step

    def _held_bytes(self) -> int:
        seen: dict[int, int] = {}
        for network in self.networks:
            for module in network.modules():
                registry = getattr(module, "_diffusers_hook", None)
                for hook in registry.hooks.values() if registry else ():
                    _collect(vars(hook), seen, DEPTH)
        _collect(list(self._states.values()), seen, DEPTH)
        return sum(seen.values())


def _collect(thing: Any, seen: dict[int, int], depth: int) -> None:
    """Storage bytes of all tensors that are reachable within `depth` containers and objects of diffusers' hooks."""
    if isinstance(thing, torch.nn.Module) or depth == 0:
        return
    if isinstance(thing, torch.Tensor):
        seen[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    elif isinstance(thing, Mapping):
        for value in thing.values():
            _collect(value, seen, depth - 1)
    elif isinstance(thing, list | tuple):
        for value in thing:
            _collect(value, seen, depth - 1)
    elif type(thing).__module__.startswith("diffusers.hooks") and hasattr(thing, "__dict__"):
        _collect({k: v for k, v in vars(thing).items() if k not in ("fn_ref", "config")}, seen, depth - 1)


@contextmanager
def restored(networks: list[torch.nn.Module]) -> Iterator[None]:
    """Afterwards every module has the instance attributes and the children, in their order, that it had before.

    diffusers' registry leaves attributes of its own behind; cache-dit puts the block lists back in another order, by which the
    next cache of diffusers takes another block for the first.
    """
    before = [(module, dict(vars(module)), dict(module._modules)) for network in networks for module in network.modules()]
    try:
        yield
    finally:
        for module, state, children in before:
            module._modules.clear()
            module._modules.update(children)
            for key in set(vars(module)) - set(state):
                del module.__dict__[key]
            for key in ("forward", "_cache_config"):
                if key in state:
                    module.__dict__[key] = state[key]
        _forget_children(networks)


def _forget_children(networks: list[torch.nn.Module]) -> None:
    """diffusers remembers which children have hooks; a cache that comes or goes makes that list stale."""
    for network in networks:
        registry = getattr(network, "_diffusers_hook", None)
        if registry is not None:
            registry.invalidate_child_registries_cache()


class Cached:
    """A cache of diffusers. `attach` puts it on the networks; state is fresh for every generation.

    prepare: what has to be done once on the plain pipeline.
    """

    def __init__(
        self, spec: Spec, attach: Attach, counts_apart: bool, prepare: Callable[[Model, PipelineCall], None] | None = None
    ):
        self.spec, self._attach, self.counts_apart, self._prepare = spec, attach, counts_apart, prepare

    def generate(self, model: Model, call: PipelineCall, count: bool) -> tuple[Generated, Cost]:
        networks = networks_of(model)
        if self._prepare is not None:
            self._prepare(model, call)
        with restored(networks):
            branches = Branches(model, count)
            try:
                self._attach(model, call, branches)
                _forget_children(networks)
                with clock(device_of(model)) as told:
                    made = generate(model, call)
            finally:
                branches.remove()
        flops, held = (branches.flops, branches.cache_bytes) if count else (None, None)
        return made, Cost(flops=flops, cache_bytes=held, **told)


def _on_all(branches: Branches, apply: Callable[[Any, Any], None], config: Any) -> None:
    for network in branches.networks:
        apply(network, config)


def _steps_of(spec: Spec, call: PipelineCall) -> int:
    if call.steps is None:
        raise InputError(f"--method {spec.text}: the pipeline's own number of steps is not known; pass --steps.")
    return call.steps


def _first_block(spec: Spec) -> Method:
    options = Options(spec)
    threshold = options.take("threshold", float, 0.05)
    options.end("threshold")

    def attach(model: Model, call: PipelineCall, branches: Branches) -> None:
        from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache

        _on_all(branches, apply_first_block_cache, FirstBlockCacheConfig(threshold=threshold))

    return Cached(spec, attach, counts_apart=True)


def _taylorseer(spec: Spec) -> Method:
    """The lite variant: blocks answer zero, the output projection's Taylor series stands for the network."""
    options = Options(spec)
    interval, order = options.take("interval", int, 5), options.take("order", int, 1)
    warmup = options.take("warmup", int, None)
    options.end("interval, order, warmup")

    def attach(model: Model, call: PipelineCall, branches: Branches) -> None:
        from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache

        facts = model.sheet.execution
        if facts is None:
            raise ExecutionError(f"the probe sheet of {model.sheet.title} names no blocks and output layer for TaylorSeer.")
        config = TaylorSeerCacheConfig(
            cache_interval=interval,
            max_order=order,
            disable_cache_before_step=model.policy(None).warmup if warmup is None else warmup,
            taylor_factors_dtype=next(branches.networks[0].parameters()).dtype,
            skip_predict_identifiers=[rf"{re.escape(blocks)}\.\d+" for blocks in facts.blocks],
            cache_identifiers=[re.escape(facts.output)],
        )
        _on_all(branches, apply_taylorseer_cache, config)

    return Cached(spec, attach, counts_apart=False)


def _pab(spec: Spec) -> Method:
    """Pyramid attention broadcast with a state a branch: diffusers' own would serve one branch's attention to the other."""
    options = Options(spec)
    every, window = options.take("k", int, 2), (options.take("low", int, 100), options.take("high", int, 800))
    options.end("k, low, high (timesteps between which attention is broadcast)")

    def attach(model: Model, call: PipelineCall, branches: Branches) -> None:
        from diffusers.hooks import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast
        from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastHook, PyramidAttentionBroadcastState

        config = PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=every,
            spatial_attention_timestep_skip_range=window,
            spatial_attention_block_identifiers=model.sheet.execution.blocks if model.sheet.execution else ("blocks",),
            current_timestep_callback=lambda: round(branches.timestep),
        )
        _on_all(branches, apply_pyramid_attention_broadcast, config)
        for network in branches.networks:
            for module in network.modules():
                registry = getattr(module, "_diffusers_hook", None)
                hooks = [h for h in (registry.hooks.values() if registry else ()) if isinstance(h, PyramidAttentionBroadcastHook)]
                branches.swapped += [(hook, PyramidAttentionBroadcastState) for hook in hooks]
        if not branches.swapped:
            raise ExecutionError(f"pyramid attention broadcast finds no attention in {model.sheet.title} that it knows.")

    return Cached(spec, attach, counts_apart=False)


class _MagCache:
    """MagCache with ratios measured once on a full run of the first call, both branches together."""

    def __init__(self, spec: Spec):
        options = Options(spec)
        self._spec, self._ratios = spec, list[float]()
        self._threshold = options.take("threshold", float, 0.06)
        self._most, self._retention = options.take("most", int, 3), options.take("retention", float, 0.2)
        options.end("threshold, most (skipped steps in a row), retention")

    def __call__(self, model: Model, call: PipelineCall, branches: Branches) -> None:
        from diffusers.hooks import MagCacheConfig, apply_mag_cache

        steps = _steps_of(self._spec, call)
        told = {"threshold": self._threshold, "max_skip_steps": self._most, "retention_ratio": self._retention}
        _on_all(branches, apply_mag_cache, MagCacheConfig(num_inference_steps=steps, mag_ratios=self._ratios, **told))

    def prepare(self, model: Model, call: PipelineCall) -> None:
        steps = _steps_of(self._spec, call)
        if len(self._ratios) != steps:
            self._ratios = self._calibrated(model, call, steps)

    def _calibrated(self, model: Model, call: PipelineCall, steps: int) -> list[float]:
        from diffusers.hooks import MagCacheConfig, apply_mag_cache

        said = io.StringIO()  # the ratios come out of diffusers by print alone

        def attach(model: Model, call: PipelineCall, branches: Branches) -> None:
            _on_all(branches, apply_mag_cache, MagCacheConfig(num_inference_steps=steps, calibrate=True))

        with redirect_stdout(said):
            Cached(self._spec, attach, counts_apart=False).generate(model, call, count=False)
        found = re.findall(r"^\[[^\[\]a-zA-Z]*\]$", said.getvalue(), flags=re.MULTILINE)
        if not found:
            raise ExecutionError(f"MagCache measured no ratios on {model.sheet.title}: its blocks are not known to diffusers.")
        ratios: list[float] = json.loads(found[0])
        return ratios


def _mag(spec: Spec) -> Method:
    cache = _MagCache(spec)
    return Cached(spec, cache, counts_apart=False, prepare=cache.prepare)


def _dbcache(spec: Spec) -> Method:
    """cache-dit's dual block cache, with or without its TaylorSeer calibrator."""
    options = Options(spec)
    threshold, first, last = options.take("threshold", float, 0.08), options.take("first", int, 1), options.take("last", int, 0)
    warmup, taylor = options.take("warmup", int, None), options.take("taylorseer", flag, False)
    options.end("threshold, first, last (blocks that are always computed), warmup, taylorseer")
    return DualBlock(spec, threshold, first, last, warmup, taylor)


class DualBlock:
    """DBCache on the whole pipeline; cache-dit attaches and detaches itself."""

    counts_apart = True

    def __init__(self, spec: Spec, threshold: float, first: int, last: int, warmup: int | None, taylor: bool):
        self.spec, self._threshold, self._first, self._last = spec, threshold, first, last
        self._warmup, self._taylor = warmup, taylor
        self._passes: int | None = None

    def generate(self, model: Model, call: PipelineCall, count: bool) -> tuple[Generated, Cost]:
        try:
            import cache_dit
        except ImportError as error:
            raise InputError(f"DBCache needs the optional package cache-dit ({error}); pip install cache-dit.") from error
        steps = _steps_of(self.spec, call)
        warmup = model.policy(None).warmup if self._warmup is None else self._warmup
        if self._passes is None:
            self._passes = passes_of(model, call)
        told = {
            "enable_separate_cfg": self._passes > 1,
            "Fn_compute_blocks": self._first,
            "Bn_compute_blocks": self._last,
            "max_warmup_steps": warmup,
        }
        config = cache_dit.DBCacheConfig(residual_diff_threshold=self._threshold, num_inference_steps=steps, **told)
        calibrator = {"calibrator_config": cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1)} if self._taylor else {}
        branches = None
        networks = networks_of(model)
        with restored(networks):
            cache_dit.enable_cache(model.pipe, cache_config=config, **calibrator)
            try:
                branches = Branches(model, count)
                with clock(device_of(model)) as timed:
                    made = generate(model, call)
            finally:
                if branches is not None:
                    branches.remove()
                cache_dit.disable_cache(model.pipe)
        return made, Cost(flops=branches.flops if count else None, cache_bytes=None, **timed)


BASELINES: Mapping[str, Callable[[Spec], Method]] = {
    "first-block-cache": _first_block,
    "taylorseer": _taylorseer,
    "pab": _pab,
    "magcache": _mag,
    "dbcache": _dbcache,
}
