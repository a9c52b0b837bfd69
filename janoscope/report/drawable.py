"""Strings of a result as they can be drawn: what neither a font nor an XML file takes is a question mark in a diamond."""

import re
from typing import Any

# controls, halves of surrogate pairs (a file name that is no UTF-8, a prompt cut in two) and the two that are no characters
_NOT_DRAWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def drawable(value: Any) -> Any:
    """A JSON value with every string in it, keys too, free of characters that cannot be drawn or stand in an SVG.

    Example:
        >>> drawable({"prompt": "half a pair \\ud800"})
        {'prompt': 'half a pair \ufffd'}
    """
    if isinstance(value, str):
        return _NOT_DRAWABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {drawable(key): drawable(inner) for key, inner in value.items()}
    return [drawable(inner) for inner in value] if isinstance(value, list) else value
