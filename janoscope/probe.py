"""Probe sheets: `probes/<family>.toml` says what janoscope has to know about a model family. Data only, no expressions."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import InputError

PACKAGED = Path(__file__).parent / "probes"
CHECKOUT = Path(__file__).parent.parent / "probes"


@dataclass(frozen=True)
class Match:
    """Which transformer classes the sheet describes."""

    transformer: tuple[str, ...]
    source: str = ""


@dataclass(frozen=True)
class Tap:
    """What to hook: pipeline attributes holding the network in order of use, and its argument that carries x_t."""

    components: tuple[str, ...] = ("transformer",)
    input: str = "hidden_states"
    timestep: str = "timestep"
    source: str = ""


@dataclass(frozen=True)
class Tokens:
    """How latents become tokens.

    layout: axes of the network's input, `packed` (item, token, channel), `BCHW`, `BCFHW`, `BFCHW` or `list` of CFHW.
    patch: cells per token (frame, row, col); `patch_keys` reads it from the transformer's config instead: one key for rows and
    cols, two for (frame, rows and cols), or one key that holds all three.
    grid: where token counts come from, `img_ids` (row, col columns `id_columns`), `img_shapes`, `arguments` (num_frames,
    height, width in tokens) or `shape` (of the latent).
    """

    layout: str
    grid: str
    patch: tuple[int, int, int] | None = None
    patch_keys: tuple[str, ...] = ()
    id_columns: tuple[int, ...] = (1, 2)
    source: str = ""


@dataclass(frozen=True)
class Output:
    """What the network predicts.

    prediction: `flow` (eps - x0) or `scheduler` (the scheduler's prediction_type). sign: -1 where the pipeline negates it.
    learned_variance: `none`, or `second-half` where the config's output has twice the input's channels.
    """

    prediction: str
    sign: int = 1
    learned_variance: str = "none"
    source: str = ""


@dataclass(frozen=True)
class Guidance:
    """How guidance reaches the network.

    calls: `none`, `sequential` (a call a branch) or `batched` (one call, branches stacked along the batch).
    branches: order of calls, or of the stacked halves. argument: the pipeline argument that sets the scale.
    embedded_argument: the argument instead, when the transformer config's `embedded_if` is true (distilled guidance).
    """

    calls: str
    branches: tuple[str, ...] = ("cond", "uncond")
    argument: str | None = None
    embedded_argument: str | None = None
    embedded_if: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Execution:
    """Where the executor hooks. Absent in sheets of families that can only be recorded.

    blocks: module lists of transformer blocks, in order. attention: self- or joint-attention attributes of a block.
    text: where text stands among the attention keys, `first`, `last` or `none`.
    rotary: block arguments with the rotary table; rotary_dim: its token axis; rotary_text: `first`, `last`, `none`, or
    `separate` for a (image, text) pair of tables. output: module whose output rows are tokens.
    squared_mask: the block takes a (item, token) mask and squares it. refuse: forward arguments that must be absent.
    """

    blocks: tuple[str, ...]
    attention: tuple[str, ...]
    text: str
    hidden: str = "hidden_states"
    rotary: tuple[str, ...] = ()
    rotary_dim: int = 0
    rotary_text: str = "none"
    output: str = "proj_out"
    squared_mask: str | None = None
    refuse: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class ProbeSheet:
    """One family's facts. `policies` and `models` stay plain tables; `plan` and `study` read them."""

    family: str
    title: str
    match: Match
    tap: Tap
    tokens: Tokens
    output: Output
    guidance: Guidance
    execution: Execution | None = None
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checked_with: str = ""
    limits: tuple[str, ...] = ()


_SECTIONS = {"match": Match, "tap": Tap, "tokens": Tokens, "output": Output, "guidance": Guidance, "execution": Execution}
_CHOICES = {
    ("tokens", "layout"): ("packed", "BCHW", "BCFHW", "BFCHW", "list"),
    ("tokens", "grid"): ("img_ids", "img_shapes", "arguments", "shape"),
    ("output", "prediction"): ("flow", "scheduler"),
    ("output", "sign"): (1, -1),
    ("output", "learned_variance"): ("none", "second-half"),
    ("guidance", "calls"): ("none", "sequential", "batched"),
    ("execution", "text"): ("first", "last", "none"),
    ("execution", "rotary_text"): ("first", "last", "none", "separate"),
}


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def _section_faults(name: str, table: Any) -> list[str]:
    if not isinstance(table, dict):
        return [f"[{name}] is {table!r}, not a table"]
    known = {f.name: f for f in fields(_SECTIONS[name])}
    faults = [f"[{name}] has no key {key!r} (known: {', '.join(known)})" for key in table if key not in known]
    for key, f in known.items():
        if key not in table and f.default is MISSING and f.default_factory is MISSING:
            faults.append(f"[{name}] lacks {key!r}")
        choices = _CHOICES.get((name, key))
        if choices and key in table and table[key] not in choices:
            faults.append(f"[{name}] {key} = {table[key]!r}; legal: {', '.join(map(str, choices))}")
    return faults


def parse_sheet(table: Mapping[str, Any], origin: str) -> ProbeSheet:
    """A sheet from its TOML table; every fault is named in one message."""
    top = {f.name: f for f in fields(ProbeSheet)}
    faults = [f"unknown section or key {key!r}" for key in table if key not in top]
    for key, f in top.items():
        if key in table and key in _SECTIONS:
            faults += _section_faults(key, table[key])
        elif key not in table and f.default is MISSING and f.default_factory is MISSING:
            faults.append(f"lacks {key!r}")
    tokens = table.get("tokens")
    if isinstance(tokens, dict) and ("patch" in tokens) == ("patch_keys" in tokens):
        faults.append("[tokens] needs exactly one of 'patch' and 'patch_keys'")
    if faults:
        raise InputError(f"{origin} is not a probe sheet: {'; '.join(faults)}. See docs/probes.md.")
    values = {k: _SECTIONS[k](**{n: _freeze(v) for n, v in table[k].items()}) if k in _SECTIONS else _freeze(table[k]) for k in table}
    return ProbeSheet(**values)


def load_sheet(path: Path) -> ProbeSheet:
    try:
        return parse_sheet(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"probe sheet {path} cannot be read: {error}. Check the path.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"probe sheet {path} is not TOML: {error}. Mend that line.") from error


def sheet_paths() -> list[Path]:
    """Every bundled sheet: the packaged copies, else the checkout's."""
    for folder in (PACKAGED, CHECKOUT):
        if paths := sorted(folder.glob("*.toml")):
            return paths
    return []


def find_sheet(transformer_classes: Iterable[str], explicit: Path | None = None) -> ProbeSheet:
    """The sheet for one of these transformer class names (a class and its bases), or the explicit file.

    Raises InputError naming the places that were looked at.
    """
    if explicit is not None:
        return load_sheet(explicit)
    names = list(transformer_classes)
    for name in names:
        for path in sheet_paths():
            sheet = load_sheet(path)
            if name in sheet.match.transformer:
                return sheet
    raise InputError(
        f"no probe sheet matches {names[0] if names else 'a pipeline without a transformer'}; looked at --probe (not given), "
        f"{PACKAGED} and {CHECKOUT}. Write one (docs/probes.md) and pass --probe FILE."
    )
