"""Strings of a result as they can be drawn: what neither a font nor an XML file takes is a question mark in a diamond."""

import re
from typing import TypeVar, cast

# controls, halves of surrogate pairs (a file name that is no UTF-8, a prompt cut in two) and the two that are no characters
_NOT_DRAWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


Data = TypeVar("Data")


def drawable(value: Data) -> Data:
    """A JSON value with every string in it, keys too, free of characters that cannot be drawn or stand in an SVG.

    Example:
        >>> drawable({"prompt": "half a pair \\ud800"})
        {'prompt': 'half a pair \ufffd'}
    """
    return cast(Data, _drawable(value))


def _drawable(value: object) -> object:
    if isinstance(value, str):
        return _NOT_DRAWABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_drawable(key): _drawable(inner) for key, inner in value.items()}
    return [_drawable(inner) for inner in value] if isinstance(value, list) else value
