"""Predicted compute, speedup and cache bytes of a plan, before anything is run.

Compute is the fraction of the transformer blocks' FLOPs against the full run. Token-linear work and attention both scale with the
computed tokens, since the queries shrink while the keys stay complete; the text stream does not shrink. Embedding, modulation
and output layers are left out (under 1 % of a step from 256 tokens on).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .facts import ModelFacts
from .policy import STRATEGIES, Cache
from .schedule import StepKind, skipped_groups

SCALE_BYTES = 4  # float32
OFFLOAD_STORES = 2  # buffers of layers on their way to the host: one fills while the other leaves


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

    @property
    def flop_ratio(self) -> float:
        """FLOPs of the full run over ours: what the wall time's ratio is compared with, no promise of it."""
        return 1 / self.compute if self.compute else math.inf


class CacheBytes(NamedTuple):
    """Bytes on the accelerator and in host memory."""

    device: int = 0
    host: int = 0

    def plus(self, other: "CacheBytes") -> "CacheBytes":
        return CacheBytes(self.device + other.device, self.host + other.host)


def step_flops(facts: ModelFacts, computed: int, tokens: int, recomputes: bool = False) -> float:
    """FLOPs of one branch's forward with `computed` of `tokens` image tokens; 0 where nothing is computed, as nothing is called.

    A block with q queries and S keys: q (8 D^2 + 4 D F) for projections and feed-forward (24 D^2 q when F = 4 D), 4 q S D for
    attention. Cross-attention adds 4 D^2 + 4 T D a query and 4 D^2 for the keys and values of each of T text tokens.
    recomputes: keys and values of the tokens that are not computed are projected again, 4 D^2 each (`hidden`).
    """
    if computed == 0:
        return 0.0
    width, text = facts.width, facts.text_tokens
    queries, keys = computed + facts.joint_text, tokens + facts.joint_text
    flops = queries * (8 * width**2 + 4 * width * facts.feed_forward) + 4 * queries * keys * width
    if facts.text == "cross":
        flops += computed * (4 * width**2 + 4 * text * width) + 4 * text * width**2
    dual = computed * (8 * width**2 + 4 * tokens * width)  # the second, image-only attention
    again = (tokens - computed) * 4 * width**2 if recomputes else 0
    return float(facts.layers * flops + facts.dual_layers * dual + facts.attentions * again)


def step_compute(
    kinds: Sequence[StepKind], ranks: np.ndarray, facts: ModelFacts | None = None, strategy: str = "kv"
) -> np.ndarray:
    """Compute of every step, (step,), as a fraction of a full step; without facts the fraction of image tokens."""
    computed = {kind: int((ranks >= kind.least_rank).sum()) for kind in StepKind}
    if facts is None:
        share = {kind: count / ranks.size for kind, count in computed.items()}
    else:
        full, again = step_flops(facts, ranks.size, ranks.size), strategy == "hidden"
        share = {kind: step_flops(facts, count, ranks.size, again) / full for kind, count in computed.items()}
    return np.array([share[kind] for kind in kinds])


def predict(
    kinds: Sequence[StepKind],
    ranks: np.ndarray,
    facts: ModelFacts | None = None,
    cache: Cache | None = None,
    timing: Timing | None = None,
) -> Predicted:
    """What a schedule of `kinds` (step) over token `ranks` (token,) costs. Cache bytes need facts."""
    timing, cache = timing or Timing(), cache or Cache()
    compute = step_compute(kinds, ranks, facts, cache.strategy)
    refresh = np.array([kind is StepKind.REFRESH for kind in kinds])
    time = np.where(compute > 0, timing.fixed + (1 - timing.fixed) * compute, 0.0) + timing.refresh * refresh
    held = None
    if facts is not None:
        # without a partial step nothing reads a cache, so nothing is stored
        read = any(not kind.is_full and (ranks >= kind.least_rank).any() for kind in kinds)
        skipped = sum(len(tokens) for tokens in skipped_groups(kinds, ranks))
        held = sum(cache_bytes(facts, ranks.size, cache, skipped)) if read else 0
    return Predicted(float(compute.mean()), float(len(compute) / time.sum()), held)


def cache_bytes(facts: ModelFacts, tokens: int, cache: Cache | None = None, skipped: int | None = None) -> CacheBytes:
    """Bytes of the attention cache of one item, all its guidance branches together.

    Args:
        tokens: of the picture or clip. The official code counts static and moderate tokens only.
        skipped: tokens that a partial step ever skips, which is all that offload keeps; None: all of them.

    kv: keys and values of every token, joint text included; with forecast the slopes as well, twice all. hidden: one tensor, the
    attention's input, of image tokens. kv-fp8: a byte a value of image tokens, and a float32 scale a token; kv-int8: a scale a
    token and head. offload: keys and values of skipped tokens in host memory, but for the layers that the budget keeps on the
    device, beside buffers that hold one layer complete and `window` fetched and OFFLOAD_STORES leaving layers.
    Source: supplementary section 5; layers x branches x 2 x tokens x width x bytes.
    """
    cache = cache or Cache()
    if cache.strategy not in STRATEGIES:
        raise InputError(f"no cache strategy {cache.strategy!r}; legal: {', '.join(STRATEGIES)}.")
    if cache.strategy == "offload":
        return _offload_bytes(facts, tokens, cache, tokens if skipped is None else skipped)
    value = facts.width * facts.itemsize
    if cache.strategy == "kv":
        joint, image = (2 * rows * value * (2 if cache.forecast else 1) for rows in (tokens + facts.joint_text, tokens))
        return CacheBytes((facts.layers * joint + facts.dual_layers * image) * facts.branches)
    token = {
        "hidden": value,
        "kv-fp8": 2 * (facts.width + SCALE_BYTES),
        "kv-int8": 2 * (facts.width + SCALE_BYTES * facts.heads),
    }[cache.strategy]
    return CacheBytes(facts.attentions * tokens * token * facts.branches)


def _offload_bytes(facts: ModelFacts, tokens: int, cache: Cache, skipped: int) -> CacheBytes:
    calls = facts.branches // facts.stacked
    row = 2 * facts.width * facts.itemsize * facts.stacked  # keys and values of a token in one call
    layer, whole = skipped * row, (tokens + facts.joint_text) * row
    budget = int(cache.device_mib * 2**20)
    kept = resident_layers(budget, cache.window, facts.attentions, calls, layer=layer, whole=whole)
    away = facts.attentions - kept
    slots = (cache.window + OFFLOAD_STORES) * layer if away else 0
    return CacheBytes(whole + slots + calls * kept * layer, calls * away * layer)


def resident_layers(budget: int, window: int, layers: int, calls: int, *, layer: int, whole: int) -> int:
    """How many of a branch's layers offload keeps on the device: all where they fit the budget, else what the buffers leave.

    budget: bytes. calls: network calls a step, whose branches share the budget alike. layer: bytes that one keeps. whole: bytes
    of the buffer that holds one layer complete.
    """
    if layers * calls * layer + whole <= budget:
        return layers
    left = budget - whole - (window + OFFLOAD_STORES) * layer
    return max(0, min(layers, left // max(1, calls * layer)))
