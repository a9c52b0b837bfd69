"""Probes: `probes/<family>.toml` says what janoscope has to know about a model family. Data only, no expressions."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from .decode import decode_toml, read_text
from .errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PACKAGED = Path(__file__).parent / "probes"
CHECKOUT = Path(__file__).parent.parent / "probes"
Table = Mapping[str, Any]  # decoded TOML
Part = TypeVar("Part", bound="DataclassInstance")


@dataclass(frozen=True)
class Match:
    """Which transformer classes the probe describes."""

    transformer: tuple[str, ...]
    source: str = ""


@dataclass(frozen=True)
class Tap:
    """What to hook.

    components: pipeline attributes that hold the network, in order of use; one that is missing or None is not in use.
    input, timestep: names of the network's forward parameters that carry x_t and the timestep. A pipeline may pass them by
    position, so a hook binds the call to the signature of the class's `forward` before it looks them up.
    """

    components: tuple[str, ...] = ("transformer",)
    input: str = "hidden_states"
    timestep: str = "timestep"
    source: str = ""


@dataclass(frozen=True)
class Tokens:
    """How latents become tokens.

    layout: axes of the network's input and output, `packed` (item, token, channel), `BCHW`, `BCFHW`, `BFCHW` or `list`, a
    Python list with a CFHW tensor for every item and branch.
    patch: cells per token (frame, row, col); `patch_keys` reads it from the network's config instead, see `patch_of`.
    grid: where token counts come from. `img_ids`: the forward argument of that name, (token, axis) or (item, token, axis), its
    columns `id_columns` hold row and col. `img_shapes`: a list an item of (frames, rows, cols), the generated image's first.
    `arguments`: the forward arguments num_frames, height and width, in tokens. `shape`: of the latent, over the patch.
    Reference images of editing pipelines follow the sampler's own tokens; references_first: the forward argument that counts
    the tokens of those that stand before them instead, where the call has it.
    given_frames: `first` where image-to-video pipelines give the network frames that the sampler does not step, in front of
    those that it does; `none` where they never do.
    """

    layout: str
    grid: str
    patch: tuple[int, int, int] | None = None
    patch_keys: tuple[str, ...] = ()
    id_columns: tuple[int, ...] = (1, 2)
    references_first: str | None = None
    given_frames: str = "none"
    source: str = ""

    def patch_of(self, config: Table) -> tuple[int, int, int]:
        """Cells per token (frame, row, col): `patch`, or from the network's config.

        One key holds all three sizes, or one for rows and cols; two keys hold the frame's, then that of rows and cols. None
        counts as 1 (CogVideoX before 1.5 has no patch in time).
        """
        if self.patch is not None:
            return self.patch
        if missing := [key for key in self.patch_keys if key not in config]:
            raise InputError(f"config has no {missing[0]!r}, which [tokens] patch_keys names; fix the probe.")
        sizes = [config[key] or 1 for key in self.patch_keys]
        if len(sizes) == 1 and not isinstance(sizes[0], int):
            frame, row, col = sizes[0]
            return frame, row, col
        return (1, sizes[0], sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1], sizes[1])


@dataclass(frozen=True)
class Output:
    """What the network predicts.

    prediction: `flow` (eps - x0) or `scheduler` (the scheduler's prediction_type), of what the scheduler gets.
    sign: -1 where the pipeline negates the network's output before that, so that a branch's prediction is sign * output.
    learned_variance: `none`, or `second-half` where the config's output has twice the input's channels.
    returns: `tuple`, the prediction is its first entry, or `object`, it is the attribute `sample`.
    """

    prediction: str
    sign: int = 1
    learned_variance: str = "none"
    returns: str = "tuple"
    source: str = ""


@dataclass(frozen=True)
class Guidance:
    """How guidance reaches the network.

    calls: `none`, `sequential` (a call a branch) or `batched` (one call, branches stacked along the batch).
    branches: order of calls, or of the stacked halves. argument: the pipeline argument that sets the scale.
    embedded_argument: the argument instead, when the network config's `embedded_if` is true (distilled guidance).
    stacked_step: the scheduler is stepped with the stacked batch as well; the pipeline keeps its first half.
    extra_call: forward arguments whose presence marks a call beside the branches (skip-layer guidance); it is no branch.
    layers_first: forward arguments with an axis of layers in front of the batch's; all others have the batch first, or none.
    """

    calls: str
    branches: tuple[str, ...] = ("cond", "uncond")
    argument: str | None = None
    embedded_argument: str | None = None
    embedded_if: str | None = None
    stacked_step: bool = False
    extra_call: tuple[str, ...] = ()
    layers_first: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Execution:
    """Where the executor hooks. Absent in probes of families that can only be recorded.

    blocks: module lists of transformer blocks, in order. hidden: the first block's argument with one row a token.
    attention: self- or joint-attention attributes of a block; a block may lack one (None), not all.
    text: where text stands among the attention keys, `first`, `last` or `none` (cross-attention, or no text).
    rotary: block arguments with the rotary table, a tensor or a pair (cos, sin); rotary_dim: its token axis; rotary_text:
    `first` or `last` where it covers text too, `none`, or `separate` for a pair (image table, text table).
    output: module whose output rows are tokens. squared_mask: block argument with a (item, text and image token) mask.
    refuse: forward arguments that must be absent or None. refuse_config: config keys that must be absent, None or false.
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
    refuse_config: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Residual:
    """Taps (`capture.taps`) from which thresholds of step caches are calibrated.

    modulated: TeaCache's input, what the first block's attention gets after the timestep has modulated it, or the timestep's
    embedding where that is not a module's output. first, last: hidden states of image tokens before and after all blocks, whose
    difference MagCache and TeaCache keep.
    """

    modulated: str | None = None
    first: str | None = None
    last: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Probe:
    """One family's facts. `policies` and `models` stay plain tables; `plan` and `pipeline` read them.

    arguments: shapes of what the network's forward takes beside x_t and the timestep, in words (docs/probes.md); from them memory
    is predicted without weights.
    checked_with: the release whose source the facts were read in. limits: what cannot be recorded or executed, a sentence each.
    """

    family: str
    title: str
    match: Match
    tap: Tap
    tokens: Tokens
    output: Output
    guidance: Guidance
    execution: Execution | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    residual: Residual | None = None
    policies: Mapping[str, Table] = field(default_factory=dict)
    models: Mapping[str, Table] = field(default_factory=dict)
    checked_with: str = ""
    limits: tuple[str, ...] = ()


_CHOICES = {
    ("tokens", "layout"): ("packed", "BCHW", "BCFHW", "BFCHW", "list"),
    ("tokens", "grid"): ("img_ids", "img_shapes", "arguments", "shape"),
    ("tokens", "given_frames"): ("none", "first"),
    ("output", "prediction"): ("flow", "scheduler"),
    ("output", "sign"): (1, -1),
    ("output", "learned_variance"): ("none", "second-half"),
    ("output", "returns"): ("tuple", "object"),
    ("guidance", "calls"): ("none", "sequential", "batched"),
    ("execution", "text"): ("first", "last", "none"),
    ("execution", "rotary_text"): ("first", "last", "none", "separate"),
}


def _freeze(value: object) -> object:
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def _misfit(kind: type, value: object) -> str | None:
    """What a key of this type holds, in words, when `value` does not fit it."""
    if get_origin(kind) is tuple:
        item, *rest = get_args(kind)
        open_ended = rest == [Ellipsis]
        if isinstance(value, list) and all(type(v) is item for v in value) and (open_ended or len(value) == len(rest) + 1):
            return None
        return f"a list of {item.__name__}" if open_ended else f"a list of {len(rest) + 1} {item.__name__}"
    if get_origin(kind) is Mapping:
        entry, words = (str, "texts") if get_args(kind)[1] is str else (dict, "tables")
        return None if isinstance(value, dict) and all(isinstance(v, entry) for v in value.values()) else f"a table of {words}"
    return None if type(value) is kind else f"a {kind.__name__}"


def _kind(annotation: Any) -> type:
    return (
        next(part for part in get_args(annotation) if part is not NoneType) if isinstance(annotation, UnionType) else annotation
    )


def _faults(kind: type, table: object, section: str = "") -> list[str]:
    """Every fault of a section, or of the whole probe with its sections."""
    where = f"[{section}] " if section else ""
    if not isinstance(table, dict):
        return [f"{where}is {table!r}, not a table"]
    keys = {f.name: f for f in fields(kind)}
    faults = [f"{where}has no key {key!r} (known: {', '.join(keys)})" for key in table if key not in keys]
    for key, f in keys.items():
        choices = _CHOICES.get((section, key))
        if key not in table:
            if f.default is MISSING and f.default_factory is MISSING:
                faults.append(f"{where}lacks {key!r}")
        elif is_dataclass(_kind(f.type)):
            faults += _faults(_kind(f.type), table[key], key)
        elif choices and table[key] not in choices:
            faults.append(f"{where}{key} = {table[key]!r}; legal: {', '.join(map(str, choices))}")
        elif legal := _misfit(_kind(f.type), table[key]):
            faults.append(f"{where}{key} = {table[key]!r}; legal: {legal}")
    return faults


def _build(kind: type[Part], table: Table) -> Part:
    kinds = {f.name: _kind(f.type) for f in fields(kind)}
    return kind(**{key: _build(kinds[key], v) if is_dataclass(kinds[key]) else _freeze(v) for key, v in table.items()})


def parse_probe(table: Table, origin: str) -> Probe:
    """A probe from its TOML table; InputError names every fault in one message, after `origin`."""
    faults = _faults(Probe, table)
    tokens = table.get("tokens")
    if isinstance(tokens, dict) and ("patch" in tokens) == ("patch_keys" in tokens):
        faults.append("[tokens] needs exactly one of 'patch' and 'patch_keys'")
    if faults:
        raise InputError(f"{origin} is not a probe: {'; '.join(faults)}. See docs/probes.md.")
    return _build(Probe, table)


def load_probe(path: Path) -> Probe:
    text = read_text(path, "probe", "Check the path.")
    return parse_probe(decode_toml(text, f"probe {path}", "Correct that line."), str(path))


def as_probe(probe: "Probe | str | Path") -> "Probe":
    """A probe as it is, or from the path of its file. InputError where the file cannot be read or is no probe."""
    return probe if isinstance(probe, Probe) else load_probe(Path(probe))


def probe_paths() -> list[Path]:
    """Every bundled probe: the packaged copies, else the checkout's."""
    for folder in (PACKAGED, CHECKOUT):
        if paths := sorted(folder.glob("*.toml")):
            return paths
    return []


def find_probe(transformer_classes: Iterable[str], explicit: "Probe | str | Path | None" = None) -> Probe:
    """The probe for one of these network class names (a class, then its bases), or the explicit one.

    Raises InputError naming the places that were looked at.
    """
    if explicit is not None:
        return as_probe(explicit)
    names = list(transformer_classes)
    probes = [load_probe(path) for path in probe_paths()]
    for name in names:
        for probe in probes:
            if name in probe.match.transformer:
                return probe
    raise InputError(
        f"no probe matches {names[0] if names else 'a pipeline without a transformer'}; looked in "
        f"{PACKAGED} and {CHECKOUT}. Write one (docs/probes.md) and give its path as probe."
    )
