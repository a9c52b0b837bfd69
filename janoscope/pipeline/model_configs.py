"""Published: what is known of a model before a weight is loaded, from a hub id's probe entry, a directory or a config.json."""

import difflib
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..probe import Probe, find_probe, load_probe, probe_paths
from .model_directory import bundled_directory, model_defaults

LIBRARIES = ("diffusers", "transformers", "janoscope")  # whose classes are built; what else a file names is not imported
CONFIG = "config.json"
INDEX = "model_index.json"
_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Part:
    """One network of a pipeline. dtype: of the stored weights, None where no weights lie beside the config."""

    name: str
    library: str
    class_name: str
    config: Mapping[str, Any]
    dtype: str | None = None


@dataclass(frozen=True)
class Published:
    """A model by its configs. networks: those of the probe, in order of use. others: text encoders, VAE and the like.

    entry: its [models] table, of a directory the one with the same transformer. pipeline: class name, empty where unknown.
    call: the default call of a directory's janoscope.toml. notes: what had to be assumed, a sentence each.
    """

    name: str
    probe: Probe
    networks: tuple[Part, ...]
    others: tuple[Part, ...] = ()
    entry: Mapping[str, Any] = field(default_factory=dict)
    pipeline: str = ""
    call: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Of the first network, with its class's defaults for what the published config leaves out."""
        import diffusers

        network = self.networks[0]
        cls = getattr(diffusers, network.class_name, None)
        parameters = inspect.signature(cls.__init__).parameters if cls else {}
        defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
        return defaults | dict(network.config)


def find_published(name: str, probe: Path | None = None) -> Published:
    """MODEL or CONFIG by its configs alone: no weight is read and nothing is fetched.

    name: a bundled model, a hub id that a probe's [models] lists, the directory of a pipeline or of a transformer, or a
    transformer's config.json.

    Raises InputError naming the ids that are known, or what is missing in a directory.
    """
    directory = bundled_directory(name) or (Path(name) if Path(name).is_dir() else None)
    if directory is not None and (directory / INDEX).is_file():
        return _pipeline(name if bundled_directory(name) else directory.resolve().name, directory, probe)
    file = directory / CONFIG if directory is not None else Path(name)
    if file.is_file():
        return _transformer(file, probe)
    if directory is not None:
        raise InputError(f"{directory} holds neither {INDEX} nor {CONFIG}; name a diffusers pipeline's directory.")
    return _entry(name, probe)


def _pipeline(name: str, directory: Path, probe: Path | None) -> Published:
    index = _read(directory / INDEX)
    parts = tuple(_parts(directory, index))
    pipeline = str(index.get("_class_name", ""))
    network = next((part for part in parts if part.name in ("transformer", "unet")), None)
    if network is None:
        raise InputError(f"{directory} ({pipeline}) has neither a transformer nor a unet with a {CONFIG}.")
    sheet = find_probe([network.class_name], probe)
    networks = tuple(part for part in parts if part.name in sheet.tap.components)
    unknown = [part.name for part in parts if part.library not in LIBRARIES]
    notes = (f"not counted: {', '.join(unknown)}, of classes that are not imported.",) if unknown else ()
    others = tuple(part for part in parts if part not in networks and part.library in LIBRARIES)
    call = model_defaults(directory)[0]
    return Published(name, sheet, networks, others, _like(sheet, network.config), pipeline, call, notes)


def _parts(directory: Path, index: Mapping[str, Any]) -> Iterator[Part]:
    for name, told in index.items():
        if name.startswith("_") or not isinstance(told, list) or len(told) != 2 or None in told:
            continue
        file = directory / name / CONFIG
        if file.is_file():  # schedulers and tokenizers have none
            yield Part(name, str(told[0]), str(told[1]), _read(file), stored_dtype(file.parent))


def _transformer(file: Path, probe: Path | None) -> Published:
    config = _read(file)
    class_name = config.get("_class_name")
    if not isinstance(class_name, str):
        raise InputError(f"{file} names no _class_name, so it is not the config of a diffusers network.")
    sheet = find_probe([class_name], probe)
    part = Part(sheet.tap.components[0], "diffusers", class_name, config, stored_dtype(file.parent))
    note = "text encoders and VAE are not counted: a transformer's config does not tell them; name the pipeline's directory."
    name = file.resolve().parent.name if file.name == CONFIG else file.stem
    return Published(name, sheet, (part,), entry=_like(sheet, config), notes=(note,))


def _entry(name: str, probe: Path | None) -> Published:
    sheets = [load_probe(probe)] if probe else [load_probe(path) for path in probe_paths()]
    known = {model: sheet for sheet in sheets for model in sheet.models}
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.4) or sorted(known)
        raise InputError(
            f"{name} is no local model and no hub id whose config a probe holds; near it: {', '.join(near)}. "
            "Pass its directory or its transformer's config.json, or add it to [models] (docs/probes.md)."
        )
    sheet = known[name]
    entry = sheet.models[name]
    network = Part(sheet.tap.components[0], "diffusers", sheet.match.transformer[0], entry["config"], entry["dtype"])
    others = tuple(_component(told) for told in entry.get("components", ()))
    notes = () if others else ("text encoders and VAE are not counted: the probe does not tell them.",)
    return Published(name, sheet, (network,), others, entry, notes=notes)


def _component(told: Mapping[str, Any]) -> Part:
    library, class_name = told["class"].split(".")
    return Part(told["name"], library, class_name, told["config"], told["dtype"])


def _like(sheet: Probe, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The [models] entry with this transformer, for sizes that its directory does not tell; empty where there is none."""
    for entry in sheet.models.values():
        if all(config.get(key) == value for key, value in entry["config"].items()):
            return entry
    return {}


def stored_dtype(directory: Path) -> str | None:
    """Dtype of the largest tensor that the weights in a directory hold; read from the first file's header alone."""
    from safetensors import safe_open

    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="np") as weights:
            slices = [weights.get_slice(key) for key in weights.keys()]  # noqa: SIM118  no mapping
        sizes = [(_count(one.get_shape()), one.get_dtype()) for one in slices]
        return _STORED.get(max(sizes)[1]) if sizes else None
    return None


def _count(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} holds no table but a {type(data).__name__}.")
    return data
