"""Caching methods of diffusers and cache-dit, attached for one generation and taken off again without a trace."""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TypeVar

import torch

from ...errors import ExecutionError, InputError
from ...pipeline.call import PipelineCall
from ...pipeline.generate import Generated, generate
from ...pipeline.model import Model
from .cache_context import Branches, forget_children, passes_of, restored, steps_of_networks
from .measure import Cost, clock, device_of, networks_of
from .methods import Method
from .spec import Options, Spec, flag

Config = TypeVar("Config")
Attach = Callable[[Model, PipelineCall, "Branches"], None]


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
                forget_children(networks)
                with clock(device_of(model)) as timing:
                    generated = generate(model, call)
            finally:
                branches.remove()
        flops, cache_bytes = (branches.flops, branches.cache_bytes) if count else (None, None)
        return generated, timing.cost(flops, cache_bytes)


def _on_all(branches: Branches, apply: Callable[[torch.nn.Module, Config], object], config: Config) -> None:
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

        facts = model.probe.execution
        if facts is None:
            raise ExecutionError(f"the probe of {model.probe.title} names no blocks and output layer for TaylorSeer.")
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
            spatial_attention_block_identifiers=model.probe.execution.blocks if model.probe.execution else ("blocks",),
            current_timestep_callback=lambda: round(branches.timestep),
        )
        _on_all(branches, apply_pyramid_attention_broadcast, config)
        for network in branches.networks:
            for module in network.modules():
                registry = getattr(module, "_diffusers_hook", None)
                hooks = [h for h in (registry.hooks.values() if registry else ()) if isinstance(h, PyramidAttentionBroadcastHook)]
                branches.swapped += [(hook, PyramidAttentionBroadcastState) for hook in hooks]
        if not branches.swapped:
            raise ExecutionError(f"pyramid attention broadcast finds no attention in {model.probe.title} that it knows.")

    return Cached(spec, attach, counts_apart=False)


class MagCache:
    """MagCache with ratios measured once on a full run of the first call, both branches together, each network by itself."""

    def __init__(self, spec: Spec):
        options = Options(spec)
        self._spec, self.ratios = spec, list[list[float]]()
        self._threshold = options.take("threshold", float, 0.06)
        self._most, self._retention = options.take("most", int, 3), options.take("retention", float, 0.2)
        options.end("threshold, most (skipped steps in a row), retention")

    def __call__(self, model: Model, call: PipelineCall, branches: Branches) -> None:
        from diffusers.hooks import MagCacheConfig, apply_mag_cache

        for network, ratios in zip(branches.networks, self.ratios, strict=True):
            if ratios:
                config = MagCacheConfig(
                    threshold=self._threshold,
                    max_skip_steps=self._most,
                    retention_ratio=self._retention,
                    num_inference_steps=len(ratios),
                    mag_ratios=ratios,
                )
                apply_mag_cache(network, config)

    def prepare(self, model: Model, call: PipelineCall) -> None:
        if sum(len(ratios) for ratios in self.ratios) != _steps_of(self._spec, call):
            self.ratios = self._calibrated(model, call, steps_of_networks(model, call))

    def _calibrated(self, model: Model, call: PipelineCall, steps: list[int]) -> list[list[float]]:
        """Ratios of each network, which counts its own steps alone; none of one that makes no step."""
        from diffusers.hooks import MagCacheConfig, apply_mag_cache

        printed = io.StringIO()  # diffusers gives the ratios by print alone

        def attach(model: Model, call: PipelineCall, branches: Branches) -> None:
            for network, count in zip(branches.networks, steps, strict=True):
                if count:
                    apply_mag_cache(network, MagCacheConfig(num_inference_steps=count, calibrate=True))

        with redirect_stdout(printed):
            Cached(self._spec, attach, counts_apart=False).generate(model, call, count=False)
        lists = re.findall(r"^\[[^\[\]a-zA-Z]*\]$", printed.getvalue(), flags=re.MULTILINE)
        working = sum(count > 0 for count in steps)
        if not lists or len(lists) % working:
            raise ExecutionError(f"MagCache measured no ratios on {model.probe.title}: its blocks are not known to diffusers.")
        # a network after the other, each with a list for every branch
        first_branches = iter(lists[:: len(lists) // working])
        return [json.loads(next(first_branches)) if count else [] for count in steps]


def _mag(spec: Spec) -> Method:
    cache = MagCache(spec)
    return Cached(spec, cache, counts_apart=False, prepare=cache.prepare)


def _dbcache(spec: Spec) -> Method:
    """cache-dit's dual block cache, with or without its TaylorSeer calibrator."""
    options = Options(spec)
    threshold, first, last = options.take("threshold", float, 0.08), options.take("first", int, 1), options.take("last", int, 0)
    warmup, taylor = options.take("warmup", int, None), options.take("taylorseer", flag, False)
    options.end("threshold, first, last (blocks that are always computed), warmup, taylorseer")
    return DualBlock(spec, threshold, first, last, warmup, taylor)


@contextmanager
def _unheard() -> Iterator[None]:
    """cache-dit reports on stdout, where results belong, much of it as a warning."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


class DualBlock:
    """DBCache on the whole pipeline; cache-dit attaches and detaches itself."""

    counts_apart = True

    def __init__(self, spec: Spec, threshold: float, first: int, last: int, warmup: int | None, taylor: bool):
        self.spec, self._threshold, self._first, self._last = spec, threshold, first, last
        self._warmup, self._taylor = warmup, taylor
        self._passes: int | None = None

    def generate(self, model: Model, call: PipelineCall, count: bool) -> tuple[Generated, Cost]:
        with _unheard():
            return self._generate(model, call, count)

    def _generate(self, model: Model, call: PipelineCall, count: bool) -> tuple[Generated, Cost]:
        try:
            import cache_dit
        except ImportError as error:
            advice = "pip install 'janoscope[dbcache]'"
            raise InputError(f"DBCache needs the optional package cache-dit ({error}); {advice}.") from error
        steps = _steps_of(self.spec, call)
        warmup = model.policy(None).warmup if self._warmup is None else self._warmup
        if self._passes is None:
            self._passes = passes_of(model, call)
        config = cache_dit.DBCacheConfig(
            residual_diff_threshold=self._threshold,
            num_inference_steps=steps,
            enable_separate_cfg=self._passes > 1,
            Fn_compute_blocks=self._first,
            Bn_compute_blocks=self._last,
            max_warmup_steps=warmup,
        )
        calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if self._taylor else None
        branches = None
        networks = networks_of(model)
        with restored(networks):
            cache_dit.enable_cache(model.pipe, cache_config=config, calibrator_config=calibrator)
            try:
                branches = Branches(model, count)
                with clock(device_of(model)) as timing:
                    generated = generate(model, call)
            finally:
                if branches is not None:
                    branches.remove()
                cache_dit.disable_cache(model.pipe)
        return generated, timing.cost(branches.flops if count else None, None)


BASELINES: Mapping[str, Callable[[Spec], Method]] = {
    "first-block-cache": _first_block,
    "taylorseer": _taylorseer,
    "pab": _pab,
    "magcache": _mag,
    "dbcache": _dbcache,
}
