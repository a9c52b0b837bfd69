"""What a model's directory says of itself, and the policies that fit it; read without loading the model, or torch."""

from pathlib import Path
from textwrap import shorten

from ..decode import decode_toml, read_text
from ..errors import InputError
from ..plan import Policy, preset
from ..probe import Probe

BUNDLED = {"demo": "image", "demo:video": "video", "demo:latte": "latte"}
MODELS = Path(__file__).parent.parent / "demo" / "models"
DEFAULTS_FILE = "janoscope.toml"
INDEX = "model_index.json"


def named_policy(sheet: Probe, name: str | None) -> Policy:
    """A policy file where `name` is the path of one, else a preset of the probe."""
    if name is not None and (name.endswith(".toml") or Path(name).is_file()):
        return Policy.from_toml(read_text(Path(name), "policy file", "Check the path."), name)
    return preset(sheet.policies, name)


def bundled_directory(name: str) -> Path | None:
    """Where a bundled model lies; None when `name` is not one."""
    return MODELS / BUNDLED[name] if name in BUNDLED else None


def model_defaults(directory: Path | None) -> tuple[dict[str, object], dict[str, object]]:
    """(default call, default policy) that a model directory carries in janoscope.toml; both empty where it has none."""
    file = directory / DEFAULTS_FILE if directory else None
    if file is None or not file.is_file():
        return {}, {}
    advice = "Correct it, or take it away to do without defaults."
    table = decode_toml(read_text(file, "the model's defaults", advice), str(file), advice)
    call, policy = table.get("call", {}), table.get("policy", {})
    for name, section in (("call", call), ("policy", policy)):
        if not isinstance(section, dict):
            raise InputError(f"{file}: {name} is {section!r}, a table [{name}] is needed.")
    return call, policy


def refuse_missing_model(name: str, revision: str | None = None) -> None:
    """Raise InputError where there is no MODEL of this name, by its model_index.json alone; a hub id is asked for on the hub."""
    directory = bundled_directory(name) or (Path(name) if Path(name).is_dir() else None)
    refuse_no_directory(name, directory)
    if directory is not None:
        if not (directory / INDEX).is_file():
            raise not_loaded(name, directory, f"it holds no {INDEX}")
        return
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(name, INDEX, revision=revision)
    except Exception as error:  # the hub's client raises all kinds: no such name, no network, no leave
        raise not_loaded(name, None, f"{type(error).__name__}: {error}") from error


def refuse_no_directory(name: str, directory: Path | None) -> None:
    """Raise InputError for a bundled model that is not installed, and for a file in the place of a directory."""
    if name in BUNDLED and not (directory and (directory / INDEX).is_file()):
        command = f"python -m janoscope.demo.training.train {BUNDLED[name]}"
        raise InputError(f"the bundled model {name} is not in this installation; train it with `{command}`.")
    if directory is None and Path(name).is_file():
        raise InputError(
            f"{name} is a file; MODEL is a pipeline's directory as save_pretrained leaves it, a hub id, or demo. Of a checkpoint "
            "in one file the pipeline's from_single_file and save_pretrained make such a directory."
        )


def not_loaded(name: str, directory: Path | None, reason: str) -> InputError:
    """The error of a MODEL that is there or not, and cannot be loaded."""
    where = "" if directory else "it is no directory here, and of the hub: "
    reason = shorten(reason, 300, placeholder=" …").rstrip(".")
    advice = "Pass a hub id, a directory as save_pretrained leaves it, or demo."
    return InputError(f"{name} cannot be loaded as a diffusers pipeline: {where}{reason}. {advice}")
