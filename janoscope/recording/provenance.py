"""Where a recording comes from: sections of plain fields, as ASCII JSON on file."""

import contextlib
import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata

import h5py
import numpy as np

from ..errors import InputError
from .layout import SECTIONS

UNKNOWN = "unknown"
Sections = Mapping[str, Mapping[str, object]]
PROVENANCE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "run": ("prompt", "negative_prompt", "seed", "guidance_scale", "height", "width", "frames", "steps", "device", "dtype"),
    "model": ("id", "revision", "variant", "pipeline", "transformer", "config_sha256"),
    "scheduler": ("class", "prediction_type", "config"),
    "packages": ("janoscope", "python", "numpy", "h5py", "torch", "diffusers", "transformers"),
    "capture": ("probe",),
}


def initial_provenance(provenance: Sections) -> dict[str, dict[str, object]]:
    """Every section with every field of `PROVENANCE_FIELDS`; fields that are missing say "unknown"."""
    if unknown := set(provenance) - set(SECTIONS):
        raise InputError(f"provenance has no section {', '.join(sorted(unknown))}; legal: {', '.join(SECTIONS)}.")
    sections: dict[str, dict[str, object]] = {section: dict.fromkeys(PROVENANCE_FIELDS[section], UNKNOWN) for section in SECTIONS}
    sections["packages"] |= {"python": platform.python_version(), "numpy": np.__version__, "h5py": h5py.__version__}
    if "janoscope" not in provenance.get("packages", {}):  # looking it up takes as long as all else here
        with contextlib.suppress(metadata.PackageNotFoundError):  # run from a checkout: stays "unknown"
            sections["packages"]["janoscope"] = metadata.version("janoscope")
    for section, fields in provenance.items():
        sections[section] |= fields
        provenance_json(section, sections[section])
    return sections


def provenance_json(section: str, fields: Mapping[str, object]) -> str:
    """ASCII JSON of one provenance section; a prompt with any character, lone surrogates included, survives.

    Values that JSON does not have become text. Raises InputError for an unknown section or circular values.
    """
    if section not in SECTIONS:
        raise InputError(f"provenance has no section {section!r}; legal: {', '.join(SECTIONS)}.")
    try:
        return json.dumps(_plain({str(key): value for key, value in fields.items()}), ensure_ascii=True, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise InputError(f"provenance section {section!r} does not fit JSON: {error}. Pass plain values.") from error


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
