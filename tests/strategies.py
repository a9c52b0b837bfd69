"""Cache strategies for the tests beside it: a policy's table of each, and a cache of one branch."""

import numpy as np
import pytest

from janoscope.execution.caching.branch_cache import BranchCache
from janoscope.execution.caching.offload import Offload
from janoscope.execution.caching.strategies import keeper_of
from janoscope.plan import STRATEGIES, Cache

OTHERS = STRATEGIES[1:]
# exact, or as far as codes of eight bits are from what they stand for: a share of the largest value
TOLERANCE = {"kv": 1e-5, "hidden": 1e-5, "offload": 1e-5, "kv-fp8": 3e-2, "kv-int8": 5e-3}
# the others are the same law over again; `tests/execution/caching/test_strategies.py` holds each against kv in every run
EVERY = ("kv", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS))


def table(strategy, **more):
    """The `cache` table of a policy; offloaded layers of tiny networks fit the smallest budget in part."""
    return {"strategy": strategy, **({"device_mib": 0.02} if strategy == "offload" else {}), **more}


def branch_cache(strategy, tokens, layers, groups=None, **options):
    """A cache of one branch; offloaded, all tokens are one group unless groups are given."""
    rules = Cache(strategy)
    asked = (lambda: [np.arange(tokens)]) if groups is None else (lambda: groups)
    keeper = Offload(rules, asked, **options) if options else keeper_of(rules, asked)
    return BranchCache(tokens, keeper.branch(layers))
