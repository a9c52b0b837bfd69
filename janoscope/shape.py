"""The declared shape of stored data, checked: a TypedDict or dataclass says which keys there are and of which types.

>>> class Point(TypedDict):
...     name: str
...     at: tuple[int, int]
>>> misfit({"name": "a", "at": [1, 2]}, Point)
>>> misfit({"name": "a", "at": [1, "2"]}, Point)
"at[1] is '2', an integer is needed"
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

from .errors import InputError

Shape = Any  # what `misfit` lists: a type, or a form of types, which Python has no type for
_PLAIN = {str: "text", int: "an integer", float: "a number", bool: "true or false", type(None): "null"}


def checked(data: Any, shape: Shape, origin: str, advice: str) -> Any:
    """The data, which have the shape; InputError naming `origin`, the place and `advice`, a sentence, where they do not."""
    if fault := misfit(data, shape):
        raise InputError(f"{origin} is damaged: {fault}. {advice}")
    return data


def misfit(value: object, shape: Shape, where: str = "") -> str | None:
    """The first place that is of another type than its shape, in words; None where all fits.

    shape: str, int, float (an integer serves), bool, None, Any, `Literal`, unions, list[...], tuple[...] of a fixed length or
    open, dict[str, ...] or Mapping, a TypedDict (further keys may be there) or a dataclass (further keys may not).
    """
    if shape is Any or shape is object:
        return None
    if shape in _PLAIN or shape is None:
        return None if _is_plain(value, shape) else _needs(where, value, _PLAIN[type(None) if shape is None else shape])
    if is_typeddict(shape) or is_dataclass(shape):
        return _table_misfit(value, shape, where)
    origin, arguments = get_origin(shape), get_args(shape)
    if origin in (Union, types.UnionType):
        return _union_misfit(value, arguments, where)
    if origin is Literal:
        return None if value in arguments else _needs(where, value, " or ".join(map(repr, arguments)))
    if origin in (list, tuple, Sequence):
        return _list_misfit(value, origin, arguments, where)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            return _needs(where, value, "a table")
        return next((fault for key in value if (fault := misfit(value[key], arguments[1], _within(where, key)))), None)
    raise TypeError(f"{shape!r} is no shape of stored data")


def _is_plain(value: object, kind: Shape) -> bool:
    if kind is None:
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _table_misfit(value: object, shape: Shape, where: str) -> str | None:
    if not isinstance(value, dict):
        return _needs(where, value, "a table")
    hints, required = _keys(shape)
    place = f"{where} " if where else ""
    if missing := [key for key in required if key not in value]:
        return f"{place}lacks {', '.join(map(repr, missing))}"
    if is_dataclass(shape) and (unknown := [key for key in value if key not in hints]):
        return f"{place}has unknown {', '.join(map(repr, unknown))[:80]}"
    return next((fault for key in hints if key in value and (fault := misfit(value[key], hints[key], _within(where, key)))), None)


@cache
def _keys(shape: Shape) -> tuple[dict[str, Shape], tuple[str, ...]]:
    """(types by key, keys that must be there)."""
    hints = get_type_hints(shape)
    if is_dataclass(shape):
        stored = [field for field in fields(shape) if field.init]
        needed = tuple(f.name for f in stored if f.default is MISSING and f.default_factory is MISSING)
        return {field.name: hints[field.name] for field in stored}, needed
    return hints, tuple(sorted(shape.__required_keys__))


def _union_misfit(value: object, kinds: tuple[Shape, ...], where: str) -> str | None:
    faults = [misfit(value, kind, where) for kind in kinds]
    if not all(faults):
        return None
    # of a table or list that is wrong inside, report what is wrong there
    inside = [fault for fault, kind in zip(faults, kinds, strict=True) if isinstance(value, dict | list) and kind not in _PLAIN]
    if inside:
        return inside[0]
    return _needs(where, value, " or ".join(_PLAIN.get(kind, "a table or list") for kind in kinds))


def _list_misfit(value: object, origin: Shape, arguments: tuple[Shape, ...], where: str) -> str | None:
    if not isinstance(value, list):
        return _needs(where, value, "a list")
    if origin is tuple and Ellipsis not in arguments:
        if len(value) != len(arguments):
            return _needs(where, value, f"a list of {len(arguments)}")
        kinds: Sequence[Shape] = arguments
    else:
        kinds = [arguments[0]] * len(value)
    pairs = enumerate(zip(value, kinds, strict=True))
    return next((fault for at, (entry, kind) in pairs if (fault := misfit(entry, kind, f"{where}[{at}]"))), None)


def _needs(where: str, value: object, legal: str) -> str:
    shown = repr(value)
    return f"{where or 'it'} is {shown if len(shown) <= 60 else shown[:57] + '...'}, {legal} is needed"


def _within(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


__all__ = ["NotRequired", "TypedDict", "checked", "misfit"]
