"""Predicted compute, speedup and cache bytes of a plan, before anything is run.

Compute is the fraction of the transformer blocks' FLOPs against the full run. Token-linear work and attention both scale with the
computed tokens, since the queries shrink while the keys stay complete; the text stream does not shrink. Embedding, modulation
and output layers are left out (under 1 % of a step from 256 tokens on).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .facts import ModelFacts
from .policy import STRATEGIES, Cache
from .schedule import StepKind


@dataclass(frozen=True)
class Timing:
    """How time departs from FLOPs.

    refresh: extra share of a full step for storing; .04 in the official Flux runs (750 against 724 ms).

    fixed: share of a full step that does not shrink with the tokens (launches, embedding); 0 for large models, .5 for the demo.
    """

    refresh: float = 0.04
    fixed: float = 0.0


class Predicted(NamedTuple):
    """compute: fraction of the full run's FLOPs. speedup: its wall time over ours. cache_bytes: device and host, None unknown."""

    compute: float
    speedup: float
    cache_bytes: int | None


class CacheBytes(NamedTuple):
    """Bytes on the accelerator and in host memory."""

    device: int
    host: int


def step_flops(facts: ModelFacts, computed: int, tokens: int) -> float:
    """FLOPs of one branch's forward with `computed` of `tokens` image tokens; 0 where nothing is computed, as nothing is called.

    A block with q queries and S keys: q (8 D^2 + 4 D F) for projections and feed-forward (24 D^2 q when F = 4 D), 4 q S D for
    attention. Cross-attention adds 4 D^2 + 4 T D a query and 4 D^2 for the keys and values of each of T text tokens.
    """
    if computed == 0:
        return 0.0
    width, text = facts.width, facts.text_tokens
    queries, keys = computed + facts.joint_text, tokens + facts.joint_text
    flops = queries * (8 * width**2 + 4 * width * facts.feed_forward) + 4 * queries * keys * width
    if facts.text == "cross":
        flops += computed * (4 * width**2 + 4 * text * width) + 4 * text * width**2
    dual = computed * (8 * width**2 + 4 * tokens * width)  # the second, image-only attention
    return float(facts.layers * flops + facts.dual_layers * dual)


def step_compute(kinds: Sequence[StepKind], ranks: np.ndarray, facts: ModelFacts | None = None) -> np.ndarray:
    """Compute of every step, (step,), as a fraction of a full step; without facts the fraction of image tokens."""
    computed = {kind: int((ranks >= kind.least_rank).sum()) for kind in StepKind}
    if facts is None:
        share = {kind: count / ranks.size for kind, count in computed.items()}
    else:
        full = step_flops(facts, ranks.size, ranks.size)
        share = {kind: step_flops(facts, count, ranks.size) / full for kind, count in computed.items()}
    return np.array([share[kind] for kind in kinds])


def predict(
    kinds: Sequence[StepKind],
    ranks: np.ndarray,
    facts: ModelFacts | None = None,
    cache: Cache | None = None,
    timing: Timing | None = None,
) -> Predicted:
    """What a schedule of `kinds` (step) over token `ranks` (token,) costs. Cache bytes need facts."""
    timing = timing or Timing()
    compute = step_compute(kinds, ranks, facts)
    refresh = np.array([kind is StepKind.REFRESH for kind in kinds])
    time = np.where(compute > 0, timing.fixed + (1 - timing.fixed) * compute, 0.0) + timing.refresh * refresh
    held = None
    if facts is not None:
        cache = cache or Cache()
        # the executor's buffers hold every token, joint text among them
        # and without a partial step nothing reads a cache, so nothing is stored
        read = any(not kind.is_full and (ranks >= kind.least_rank).any() for kind in kinds)
        held = sum(cache_bytes(facts, ranks.size + facts.joint_text, cache.strategy, cache.forecast)) if read else 0
    return Predicted(float(compute.mean()), float(len(compute) / time.sum()), held)


def cache_bytes(facts: ModelFacts, rows: int, strategy: str = "kv", forecast: bool = False, window_layers: int = 2) -> CacheBytes:
    """Bytes of the attention cache with `rows` rows a layer.

    rows: the executor's buffers hold every token, joint text included; the official code keeps static and moderate tokens only.
    kv: two tensors a layer and branch. hidden: one (the attention's input). kv-fp8, kv-int8: a byte a value, scales not counted.
    offload: kv in host memory, `window_layers` of it on the device. forecast: the values before the last are kept too, twice all.
    Source: supplementary section 5; layers x branches x 2 x tokens x width x bytes.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"no cache strategy {strategy!r}; legal: {', '.join(STRATEGIES)}.")
    tensors = 1 if strategy == "hidden" else 2
    itemsize = 1 if strategy in ("kv-fp8", "kv-int8") else facts.itemsize
    layer = tensors * rows * facts.width * itemsize * facts.branches * (2 if forecast else 1)
    attentions = facts.layers + facts.dual_layers
    if strategy == "offload":
        return CacheBytes(layer * min(window_layers, attentions), layer * attentions)
    return CacheBytes(layer * attentions, 0)
