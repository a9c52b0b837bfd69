"""Out of memory in mid-run: what the cache needs, and what needs less."""

from ...errors import ExecutionError
from ...plan import STRATEGIES, Cache, CacheBytes, ModelFacts, cache_bytes

_SIGNS = ("out of memory", "can't allocate memory")  # of accelerators, and of the CPU's allocator


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or on the host."""
    return any(sign in str(error) for sign in _SIGNS)


def out_of_memory(
    step: int, cache: Cache, held: CacheBytes, facts: ModelFacts | None, tokens: int, items: int, *, caching: bool
) -> ExecutionError:
    """One line: the figure needed, and the flag that helps.

    held: when it happened. facts: per item of the batch. caching: the call was one that keeps or reads something.
    """
    begins = f"out of memory at step {step}"
    if not caching and held == CacheBytes():
        return ExecutionError(
            f"{begins}, in a full call with nothing cached: the model does not fit by itself. Make the picture or clip smaller, "
            "or keep idle parts of the model on the host (pipe.enable_model_cpu_offload())."
        )
    if facts is None:
        return ExecutionError(f"{begins}, with {_told(held)} in the {cache.strategy} cache; try --cache hidden or offload.")
    needs = {name: _times(cache_bytes(facts, tokens, _as(name, cache)), items) for name in STRATEGIES}
    own = needs.pop(cache.strategy)
    begins += f": the {cache.strategy} cache needs {_told(own)} beside the model"
    less = sorted((name for name in needs if needs[name].device < own.device), key=lambda name: -needs[name].device)
    if not less:
        return ExecutionError(f"{begins}, and no strategy needs less; make the picture or clip smaller.")
    return ExecutionError(f"{begins}; less needs {', '.join(f'--cache {name} ({_told(needs[name])})' for name in less)}.")


def _as(strategy: str, cache: Cache) -> Cache:
    return cache if strategy == cache.strategy else Cache(strategy)


def _times(held: CacheBytes, items: int) -> CacheBytes:
    return CacheBytes(held.device * items, held.host * items)


def _told(held: CacheBytes) -> str:
    host = f" and {_size(held.host)} on the host" if held.host else ""
    return f"{_size(held.device)}{host}"


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"
