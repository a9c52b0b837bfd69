"""What a recording is told beside what its hooks see, so that the same run can be made again from the file alone."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ..errors import InputError
from ..probe import ProbeSheet
from .model import sheet_of

_SIZES = {"height": "height", "width": "width", "num_frames": "frames", "video_length": "frames"}
_LOADING = ("scheduler", "probe", "revision", "variant", "dtype")
_NOT_KEPT = ("prompt", "negative_prompt", "generator")  # the first two have their own fields


def told_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the section `run`: sizes by their own names, and as `arguments` all of the call's that JSON can hold."""
    plain = {key: value for key, value in arguments.items() if key not in _NOT_KEPT and _fits_json(value)}
    return {_SIZES[key]: value for key, value in plain.items() if key in _SIZES} | {"arguments": plain}


def told_options(load: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the command that were given: how the model was loaded, and as `call` the arguments given by name."""
    given: dict[str, Any] = {name: str(load[name]) for name in _LOADING if load.get(name) is not None}
    return given | ({"call": dict(extra)} if extra else {})


def told_probe(pipe: Any, sheet: ProbeSheet) -> dict[str, Any]:
    """Fields of the section `capture`: the sheet's family, and all of it as `probe_text` where it is not the bundled one."""
    try:
        custom = sheet_of(pipe) != sheet
    except InputError:  # no bundled sheet matches
        custom = True
    return {"probe": sheet.family} | ({"probe_text": sheet_text(sheet)} if custom else {})


def sheet_text(sheet: ProbeSheet) -> str:
    """A sheet as TOML that `parse_sheet` reads back as the same sheet; comments of its file are not part of it."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in _own_fields(sheet).items())


def _own_fields(section: Any) -> dict[str, Any]:
    """Without those at their default, which a sheet may not be able to say (`patch` or `patch_keys`, never both)."""
    values = {field.name: (getattr(section, field.name), field.default) for field in fields(section)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _toml(value: Any) -> str:
    if is_dataclass(value):
        value = _own_fields(value)
    if isinstance(value, Mapping):
        entries = (f"{_toml(str(key))} = {_toml(entry)}" for key, entry in value.items())
        return f"{{{', '.join(entries)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(entry) for entry in value)}]"
    if isinstance(value, bool | int | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)  # floats and dates are written as TOML writes them


def _fits_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
