"""Memory: what a generation will take on a device, from configs alone, by cache strategy; and the strategy that fits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ...errors import InputError
from ...pipeline.model_configs import Part, Published
from ...plan import STRATEGIES, Cache, CacheBytes, ModelFacts, Policy, cache_bytes, run_facts
from .meta_network import activation_peak, build_on_meta, forward_arguments, parameter_count, weight_bytes
from .workload import Workload, with_guidance_parallel

SCHEMA = "janoscope-memory/1"
GIB = 2**30
RESERVE_GIB = 1.5  # CUDA's context and what the allocator cannot use; a guess on the safe side, no measurement
# in the order in which they are tried: what costs nothing, FLOPs, accuracy, transfers
PREFERRED = ("kv", "hidden", "kv-int8", "kv-fp8", "offload")
PRICE = {
    "kv": "",
    "hidden": "keys and values of skipped tokens are projected again",
    "kv-int8": "keys and values are rounded to 8 bits",
    "kv-fp8": "keys and values are rounded to 8 bits",
    "offload": "keys and values travel to the host and back",
}


@dataclass(frozen=True)
class Weights:
    """One network of the pipeline. bytes: by dtype name."""

    name: str
    class_name: str
    parameters: int
    bytes: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


@dataclass(frozen=True)
class Levels:
    """Fractions of the tokens before thresholds are applied; the rest is active."""

    static: float
    moderate: float

    def __post_init__(self) -> None:
        if min(self.static, self.moderate) < 0 or self.static + self.moderate > 1:
            raise InputError(
                f"static {self.static} and moderate {self.moderate} of the tokens are no fractions that add up to 1."
            )

    @property
    def shares(self) -> dict[str, float]:
        return {"static": self.static, "moderate": self.moderate, "active": 1 - self.static - self.moderate}


@dataclass(frozen=True)
class StrategyMemory:
    """One strategy. Bytes; a layer: of one branch, wherever it lies. levels: device and host bytes of each token level.

    total: on the device while denoising, None where activations are not known. device_mib: of offload, its budget. forecast: keys
    and values are extrapolated. guidance_parallel: on each of two devices.
    """

    strategy: str
    cache: CacheBytes
    layer: int
    levels: Mapping[str, int] | None
    total: int | None
    device_mib: float | None = None
    forecast: bool = False
    guidance_parallel: bool = False
    fits: bool | None = None

    @property
    def words(self) -> str:
        """The policy table that chooses it."""
        more = "" if self.device_mib is None else f", device_mib = {self.device_mib:.0f}"
        more += ", forecast = true" * self.forecast
        return f'cache = {{ strategy = "{self.strategy}"{more} }}' + (" with --guidance-parallel 2" * self.guidance_parallel)


@dataclass(frozen=True)
class Memory:
    """What a generation is predicted to take. Bytes.

    plain: a run without acceleration. strategies: empty where the family is not executed. budget: of the device, None where
    nobody said one. fits: the first strategy that does. shortfall: what the smallest one lacks, where none does.
    """

    model: str
    workload: Workload
    weights: tuple[Weights, ...]
    activations: int | None
    plain: int | None
    strategies: tuple[StrategyMemory, ...]
    budget: int | None
    fits: StrategyMemory | None
    shortfall: int | None
    notes: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        return sum(part.total for part in self.weights)

    def to_json(self) -> dict[str, Any]:
        """JSON data, every quantity in bytes."""
        data = {"setting" if key == "workload" else key: value for key, value in asdict(self).items()} | {"schema": SCHEMA}
        data["strategies"] = [
            asdict(row) | {"cache": {"device": row.cache.device, "host": row.cache.host}} for row in self.strategies
        ]
        data["fits"] = None if self.fits is None else self.fits.words
        return data


def predict_memory(
    published: Published,
    workload: Workload,
    *,
    budget: int | None = None,
    policy: Policy | None = None,
    levels: Levels | None = None,
) -> Memory:
    """What `published` takes for this workload.

    budget: bytes of the device. policy: its cache is tried first, as it is, and its quantiles give the levels. levels: instead of
    those. offload keeps on the device what fits the budget, unless the policy says how much.

    Weights are counted on networks built without memory. Activations are the height of one forward of every token, traced on
    tensors without memory, with attention that stores no scores; a partial step needs less. The cache is `plan.cache_bytes`.
    Decoding is not predicted: it comes when the cache is no longer needed.

    Raises InputError for a network that its config does not build.
    """
    notes = [*workload.notes]
    modules = {part.name: _build(part, workload, part in published.networks) for part in (*published.networks, *published.others)}
    weights = tuple(
        Weights(name, type(module).__name__, parameter_count(module), weight_bytes(module)) for name, module in modules.items()
    )
    activations = _activations(published, workload, modules[published.networks[0].name], notes)
    plain = None if activations is None else sum(part.total for part in weights) + activations
    if len(published.networks) > 1:
        names = " and ".join(part.name for part in published.networks)
        notes.append(f"{names} take turns: weights are of all, activations and cache of one.")
    rows = _strategies(published, workload, policy, levels or _levels_of(policy), plain, budget, notes)
    alone = [row for row in rows if not row.guidance_parallel]
    fits = next((row for row in alone if row.fits), None)
    least = min((row.total for row in alone if row.total is not None), default=plain)
    shortfall = None if budget is None or least is None or fits is not None else max(0, least - budget)
    return Memory(published.name, workload, weights, activations, plain, rows, budget, fits, shortfall, tuple(notes))


def device_memory() -> int | None:
    """Bytes of the first CUDA device, less what is reserved; None where there is none."""
    if not torch.cuda.is_available():
        return None
    return usable(torch.cuda.get_device_properties(0).total_memory / GIB)


def usable(memory_gib: float) -> int:
    """Bytes that a generation can have of a device with so many GiB."""
    return int((memory_gib - RESERVE_GIB) * GIB)


def _build(part: Part, workload: Workload, is_network: bool) -> torch.nn.Module:
    """A network of the probe has the workload's dtype; others the one they are stored in, unless the user gave one."""
    stored = None if is_network or workload.is_dtype_asked else part.dtype
    return build_on_meta(part, stored or workload.dtype)


def _activations(published: Published, workload: Workload, network: torch.nn.Module, notes: list[str]) -> int | None:
    try:
        arguments = forward_arguments(
            published.probe,
            published.config,
            workload.tokens,
            items=workload.stacked,
            text_tokens=workload.text_tokens,
            dtype=workload.dtype,
        )
        return activation_peak(network, arguments)
    except InputError as error:
        notes.append(f"activations are not predicted: {error}")
        return None


def _facts(published: Published, workload: Workload) -> ModelFacts | None:
    return run_facts(
        published.probe.execution,
        published.config,
        dtype=workload.dtype,
        text_tokens=workload.text_tokens,
        branches=workload.branches,
        stacked=workload.stacked,
    )


def _levels_of(policy: Policy | None) -> Levels | None:
    if policy is None or policy.quantiles is None:
        return None
    return Levels(policy.quantiles.static, policy.quantiles.moderate - policy.quantiles.static)


def _ordered(policy: Policy | None) -> tuple[str, ...]:
    first = () if policy is None else (policy.cache.strategy,)
    return tuple(dict.fromkeys((*first, *PREFERRED, *STRATEGIES)))


def _strategies(
    published: Published,
    workload: Workload,
    policy: Policy | None,
    levels: Levels | None,
    plain: int | None,
    budget: int | None,
    notes: list[str],
) -> tuple[StrategyMemory, ...]:
    """Every strategy, the policy's first; none where the family is not executed."""
    facts = _facts(published, workload)
    if facts is None:
        limit = published.probe.limits[0] if published.probe.limits else "its config gives no sizes"
        notes.append(f"no cache: {published.probe.family} is not executed ({limit}).")
        return ()
    if levels is None:
        notes.append(
            "levels are not known before a run: cache as if every token were skipped at some step (--static, --moderate)."
        )
    free = None if budget is None or plain is None else budget - plain
    rows: list[StrategyMemory] = []
    for strategy in _ordered(policy):
        own = policy.cache if policy is not None and policy.cache.strategy == strategy else Cache(strategy)
        rows += _rows(facts, workload, own, levels, plain, free)
    return tuple(replace(row, fits=None if budget is None or row.total is None else row.total <= budget) for row in rows)


def _rows(
    facts: ModelFacts, workload: Workload, cache: Cache, levels: Levels | None, plain: int | None, free: int | None
) -> list[StrategyMemory]:
    """The strategy on one device, and with a branch on each of two."""
    rows = [_row(facts, workload, cache, levels, plain, free)]
    if workload.branches == 2:
        alone = with_guidance_parallel(workload)
        halved = replace(facts, branches=1, stacked=1)
        rows.append(replace(_row(halved, alone, cache, levels, plain, free), guidance_parallel=True))
    return rows


def _row(
    facts: ModelFacts, workload: Workload, cache: Cache, levels: Levels | None, plain: int | None, free: int | None
) -> StrategyMemory:
    tokens, is_offload = workload.token_count, cache.strategy == "offload"
    skipped = None if levels is None else round(tokens * (levels.static + levels.moderate))
    if is_offload and not cache.device_mib:
        cache = replace(cache, device_mib=max(0, (free or 0) // 2**20))
    stored = cache_bytes(facts, tokens, cache, skipped)
    resident = Cache("kv") if is_offload else cache  # of a token the same bytes, wherever they are
    everything = cache_bytes(facts, tokens, resident).device
    of_levels = None
    if levels is not None:
        counts = {level: round(share * tokens) for level, share in levels.shares.items()}
        of_levels = {level: cache_bytes(replace(facts, text="none"), count, resident).device for level, count in counts.items()}
        if is_offload:
            of_levels["active"] = 0  # never skipped, so never fetched
    total = None if plain is None else plain + stored.device
    layer = everything // (facts.attentions * facts.branches)
    device_mib = cache.device_mib if is_offload else None
    return StrategyMemory(cache.strategy, stored, layer, of_levels, total, device_mib, cache.forecast)
