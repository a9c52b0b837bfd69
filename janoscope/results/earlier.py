"""Analyses of schema 1, brought to the names of schema 2 when they are read: the reuse error was called holding cost there."""

from collections.abc import Mapping

import numpy as np

OLD, NEW = "holding_cost", "reuse_error"


def rename_facts(data: Mapping[str, object]) -> dict[str, object]:
    """analysis.json or aggregate.json of schema 1 with the keys of schema 2, and its `target`s.

    Example:
        >>> rename_facts({"map_predicts": [{"target": "holding_cost"}], "holding_cost_median": 0.1})
        {'map_predicts': [{'target': 'reuse_error'}], 'reuse_error_median': 0.1}
    """
    return {name.replace(OLD, NEW): NEW if name == "target" and value == OLD else _renamed(value) for name, value in data.items()}


def _renamed(value: object) -> object:
    if isinstance(value, list):
        return [_renamed(entry) for entry in value]
    return rename_facts(value) if isinstance(value, Mapping) else value


def rename_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """analysis.npz of either schema with the names of schema 2."""
    return {name.replace(OLD, NEW): array for name, array in arrays.items()}
