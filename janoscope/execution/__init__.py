"""Reads a live pipeline and a policy or plan; gives the accelerated pipeline and an account of what was computed.

Right of `plan`, whose selector it asks; knows neither HDF5 nor matplotlib.
"""

from .account import Account, StepAccount
from .executor import Executor
from .warmup import Identity, fingerprint_of

__all__ = ["Account", "Executor", "Identity", "StepAccount", "fingerprint_of"]
