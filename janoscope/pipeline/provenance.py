"""What a recording was made with: its probe, its policy, its fingerprint, and the words for analysis.json."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ..capture.protocols import Pipeline
from ..decode import decode_toml, read_text
from ..errors import ExecutionError, InputError, RecordingError
from ..execution.refused_configs import refuse_config, refuse_recorded_sampler
from ..plan import Fingerprint, ModelFacts, Policy, run_facts
from ..plan.fingerprint import Identity, fingerprint_of
from ..probe import Probe, as_probe, load_probe, parse_probe, probe_paths
from ..recording import Recording
from ..shape import misfit
from ..version import __version__
from .model_directory import BUNDLED, bundled_directory, model_defaults, named_policy
from .model_options import ModelOptions
from .shown_call import SIZES, UNKNOWN, ShownCall

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LOADING = ("scheduler", "probe", "revision", "variant", "dtype")
_NOT_KEPT = ("prompt", "negative_prompt", "generator")  # the first two have their own fields


_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "h5py")


_Transformer = TypedDict("_Transformer", {"class": str, "config": dict[str, object]})


class _Run(TypedDict, total=False):
    """Of the call. A loop of one's own may record a prompt for every item."""

    prompt: str | list[str] | None
    options: str | dict[str, object]
    dtype: str


class _Model(TypedDict, total=False):
    """Of the pipeline."""

    id: str
    revision: str | None
    transformer: str | _Transformer


class _Scheduler(TypedDict, total=False):
    """Of the sampler; final: alpha and sigma after the last step."""

    config: str | dict[str, object] | None
    final: str | tuple[float, float] | None


class _Capture(TypedDict, total=False):
    """Of what was watched."""

    probe: str | None


_PROVENANCE = {"run": _Run, "model": _Model, "scheduler": _Scheduler, "capture": _Capture}


def check_provenance(recording: Recording) -> None:
    """Raise RecordingError where the file says something of another type than what is read of it."""
    for section, shape in _PROVENANCE.items():
        if fault := misfit(dict(recording.provenance[section]), shape, f"provenance/{section}"):
            raise RecordingError(f"{recording.path.name} is damaged: {fault}. Copy or record it again.")


def probe_of_recording(recording: Recording, probe: Probe | str | Path | None = None) -> Probe | None:
    """The probe the recording was made with: a probe of the user's own is kept in the recording as text.

    None for a recording fed from a user's own loop, and for one that names a probe that is neither kept nor bundled.
    Raises RecordingError where the kept text is no probe.
    """
    check_provenance(recording)
    if probe is not None:
        return as_probe(probe)
    capture = recording.provenance["capture"]
    family, text = capture["probe"], capture["probe_text"]
    if text != UNKNOWN:
        return _kept_probe(text, recording.path.name)
    named = {path.stem: path for path in probe_paths()}
    return load_probe(named[family]) if isinstance(family, str) and family in named else None


def missing_probe_note(recording: Recording, sheet: Probe | None) -> str | None:
    """What a reader has to know where the probe that the recording names was not found."""
    family = recording.provenance["capture"]["probe"]
    if sheet is not None or family == UNKNOWN:
        return None
    return (
        f"the recording names the probe {family!r}, which is not bundled and not kept in the file: presets and predicted "
        "compute are missing; give its path as probe."
    )


def attachments_note(recording: Recording) -> str | None:
    """What else was on the network while it was recorded; None where nothing was, or nobody looked.

    Not the executor of a run that was recorded with a policy: the policy is told already.
    """
    capture = recording.provenance["capture"]
    rows = capture["attachments"] if isinstance(capture["attachments"], list) else []
    words = []
    for row in rows:
        if row["kind"] == "executor" and capture["policy"] != UNKNOWN:
            continue
        more = f" and {row['modules'] - 1} more" if row["modules"] > 1 else ""
        words.append(f"{row['kind']} {row['name']} ({'.'.join(filter(None, (row['component'], row['module'])))}{more})")
    if not words:
        return None
    return f"also at work on the network when it was recorded: {', '.join(words)}; what is measured is their work too."


def policy_of_recording(recording: Recording, sheet: Probe | None, name: str | Path | None) -> Policy:
    """A named policy or file, else the model's own, else the family's first preset, else one that suits the grid.

    Raises InputError for a name that is neither, and for a policy file with faults, all of them in one message.
    """
    table = _own_policy(recording)
    if table and name in (None, table.get("name")):
        return Policy.from_table(table, f"the default policy of {recording.provenance['model']['id']}")
    if sheet is not None and (name is not None or sheet.policies):
        return named_policy(sheet, None if name is None else str(name))
    return _generic_policy(recording) if name is None else _policy_file(Path(name))


def fingerprint_of_recording(recording: Recording) -> Fingerprint:
    """What a plan made from this recording was made for."""
    check_provenance(recording)
    provenance, run = recording.provenance, recording.provenance["run"]
    seed = run["seed"]
    identity = Identity(
        model=provenance["model"]["id"],
        prompt=run["prompt"],
        seed=seed if isinstance(seed, int) else None,
        guidance={"scale": run["guidance_scale"], "negative_prompt": run["negative_prompt"]},
    )
    transformer = provenance["model"]["transformer"]
    described = transformer if isinstance(transformer, dict) else {"class": UNKNOWN, "config": {}}
    scheduler = {"class": provenance["scheduler"]["class"], "config": provenance["scheduler"]["config"]}
    return fingerprint_of(described, scheduler, recording.grid, recording.planned_steps or recording.steps, identity)


def facts_of_recording(recording: Recording, sheet: Probe | None) -> ModelFacts | None:
    """The sizes from which compute and cache bytes are predicted; None where family or config do not tell them."""
    transformer = recording.provenance["model"]["transformer"]
    text = recording.provenance["capture"]["text_tokens"]
    branches = max(1, len(recording.branches) - 1)
    return run_facts(
        sheet.execution if sheet else None,
        transformer["config"] if isinstance(transformer, dict) else {},
        dtype=recording.provenance["run"]["dtype"],
        text_tokens=text if isinstance(text, int) else 0,
        branches=branches,
        stacked=branches if sheet and sheet.guidance.calls == "batched" else 1,
    )


def describe_run(recording: Recording) -> dict[str, object]:
    """The `run` section of analysis.json."""
    run, model = recording.provenance["run"], recording.provenance["model"]
    return {
        "model": model["id"],
        "argument": model["argument"],
        "revision": model["revision"],
        **{name: run[name] for name in ("prompt", "negative_prompt", "seed")},
        "guidance": run["guidance_scale"],
        "steps": recording.steps,
        "planned_steps": recording.planned_steps,
        "complete": recording.complete,
        **{name: run[name] for name in ("height", "width", "frames", "device", "dtype")},
        "stored_dtype": recording.spec("model_output").stored,
        "scheduler": recording.provenance["scheduler"]["class"],
        "recorded": recording.created,
        "options": run["options"] if isinstance(run["options"], dict) else {},
    }


def refused_by_apply(recording: Recording, sheet: Probe | None, policy: Policy) -> str | None:
    """Why `apply` would refuse a plan of this recording, as far as the file tells; None where nothing speaks against it."""
    transformer, scheduler = recording.provenance["model"]["transformer"], recording.provenance["scheduler"]
    if sheet is None:
        return None
    if sheet.execution is None:
        return f"{sheet.title} can be recorded and analysed, not executed: its probe has no [execution]."
    try:
        refuse_config(sheet, transformer["config"] if isinstance(transformer, dict) else {})
        if policy.output == "corrected":
            refuse_recorded_sampler(scheduler)
    except ExecutionError as error:
        return str(error)
    return None


def apply_arguments(run: Mapping[str, object]) -> list[str]:
    """MODEL and options of the `apply` call that repeats a run; empty where the recording does not say model and prompt.

    Empty too where no scheduler was seen: that was a loop of one's own, which no pipeline repeats.

    What a bundled model does by default is left out.
    """
    if UNKNOWN in (run["model"], run["prompt"], run["scheduler"]) or not isinstance(run["prompt"], str):
        return []
    if not _is_typeable(run["prompt"]):
        return []
    defaults = model_defaults(bundled_directory(str(run["model"])))[0]
    typed = run.get("argument", UNKNOWN)
    arguments = [str(run["model"] if typed == UNKNOWN else typed), "-p", run["prompt"]]
    options = {
        "--seed": (run["seed"], None),
        "--steps": (run["planned_steps"] or run["steps"], defaults.get("num_inference_steps")),
        "--height": (run["height"], defaults.get("height")),
        "--width": (run["width"], defaults.get("width")),
        "--frames": (run["frames"], defaults.get("num_frames", defaults.get("video_length"))),
        "--guidance": (run["guidance"], defaults.get("true_cfg_scale", defaults.get("guidance_scale"))),
        "--negative-prompt": (run["negative_prompt"], defaults.get("negative_prompt")),
    }
    for option, (value, default) in options.items():
        if value not in (None, UNKNOWN, default):
            arguments += [option, str(value)]
    further = run.get("options")
    return arguments + _more_arguments(further if isinstance(further, Mapping) else {})


def _is_typeable(text: str) -> bool:
    """Whether a terminal can show the text and a command line take it: it holds no half characters and no NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _more_arguments(options: Mapping[str, object]) -> list[str]:
    """What else the user had given. output_type is left out: `apply` measures pictures, which latents are not."""
    arguments = []
    for name in ("scheduler", "probe", "revision", "variant", "dtype"):
        if options.get(name) is not None:
            arguments += [f"--{name}", str(options[name])]
    call = options.get("call")
    for key, value in (call if isinstance(call, Mapping) else {}).items():
        if key != "output_type":
            arguments += ["--call", f"{key}={json.dumps(value)}"]
    return arguments


def _kept_probe(text: object, name: str) -> Probe:
    origin, advice = f"the probe kept in {name}", "Give the path of a probe file as probe."
    if not isinstance(text, str):
        raise RecordingError(f"{origin} is not TOML: it is no text. {advice}")
    try:
        return parse_probe(decode_toml(text, origin, advice), origin)
    except InputError as error:
        raise RecordingError(str(error)) from error


def _own_policy(recording: Recording) -> Mapping[str, object]:
    model = recording.provenance["model"]
    if isinstance(model["default_policy"], dict) and model["default_policy"]:
        own: Mapping[str, object] = model["default_policy"]
        return own
    return model_defaults(bundled_directory(model["id"]))[1] if model["id"] in BUNDLED else {}


def _policy_file(path: Path) -> Policy:
    advice = "This recording names no model family with presets; pass the path of a policy file (docs/policy.md)."
    return Policy.from_toml(read_text(path, "policy", advice), str(path))


def _generic_policy(recording: Recording) -> Policy:
    grid, steps = recording.grid, recording.planned_steps or recording.steps
    clip = grid.tokens[0] > 1
    table = {
        "name": "generic",
        "warmup": max(2, round(0.14 * steps)),
        "cooldown": max(1, round(0.04 * steps)),
        "tile": [2 * grid.patch[0] if clip else grid.patch[0], 4 * grid.patch[1], 4 * grid.patch[2]],
        "temporal_weight": 0.6 if clip else 0.0,
        "thresholds": {"static": 0.2, "moderate": 0.5},
        "intervals": {"static": 4, "moderate": 2, "active": 1},
        "source": "no preset for this model: tiles of 4x4 tokens (of 2 frames in a clip), warm-up 14 % of the steps",
    }
    return Policy.from_table(table, "the generic policy")


def installed_versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "janoscope": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = UNKNOWN
    return versions


@dataclass(frozen=True)
class RunOptions:
    """What a user asked for, with which the run can be made again.

    argument: MODEL as it was typed. load: how it was loaded. extra: arguments of the call that have no option of their own.
    """

    argument: str | None = None
    load: ModelOptions = field(default_factory=ModelOptions)
    extra: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The field `options` of the section `run`; only what was said."""
        options: dict[str, object] = {name: str(value) for name in _LOADING if (value := getattr(self.load, name)) is not None}
        return options | ({"call": dict(self.extra)} if self.extra else {})


@dataclass(frozen=True)
class RunDescription:
    """What the user says of a run; `unknown` is read off the pipeline's call where that shows it.

    Args:
        prompt, negative_prompt: texts of the call. seed: of its generator. guidance: its scale.
        model: an id, never a machine path. revision: of a hub model.
        arguments: all of the call, where the caller makes it; kept where JSON can hold them.
        options: what the user asked for, with which the run can be made again.
        default_policy: the model's own policy table, with which `analyze` works unless another is named.
    """

    prompt: str = UNKNOWN
    seed: int | str = UNKNOWN
    negative_prompt: str | None = UNKNOWN
    guidance: float | str | None = UNKNOWN
    model: str = UNKNOWN
    revision: str = UNKNOWN
    arguments: Mapping[str, object] | None = None
    options: RunOptions = field(default_factory=RunOptions)
    default_policy: Mapping[str, object] = field(default_factory=dict)

    def completed(self, shown: ShownCall) -> "RunDescription":
        """With what the call shows in the place of what is unknown."""
        return replace(
            self,
            prompt=shown.prompt if self.prompt == UNKNOWN else self.prompt,
            seed=shown.seed if self.seed == UNKNOWN else self.seed,
            negative_prompt=shown.negative_prompt if self.negative_prompt == UNKNOWN else self.negative_prompt,
            guidance=shown.guidance if self.guidance == UNKNOWN else self.guidance,
            arguments=shown.arguments if self.arguments is None else self.arguments,
        )

    def run_fields(self) -> dict[str, object]:
        """Of the section `run`: sizes by their own names, and as `arguments` all of the call's that JSON can hold."""
        facts = {"prompt": self.prompt, "seed": self.seed, "negative_prompt": self.negative_prompt}
        plain = {key: value for key, value in (self.arguments or {}).items() if key not in _NOT_KEPT and _fits_json(value)}
        sizes = {SIZES[key]: value for key, value in plain.items() if key in SIZES}
        return {**facts, "guidance_scale": self.guidance, **sizes, "arguments": plain, "options": self.options.to_json()}

    def model_fields(self, pipeline: str) -> dict[str, object]:
        """Of the section `model`. pipeline: the class's name."""
        argument = self.options.argument
        return {
            "id": self.model,
            "revision": self.revision,
            "pipeline": pipeline,
            "default_policy": dict(self.default_policy),
            **({} if argument is None else {"argument": argument}),
        }

    def identity(self) -> Identity:
        """What a plan of the run has to match, as `fingerprint_of_recording` reads it from its file."""
        seed = self.seed if isinstance(self.seed, int) else None
        return Identity(self.model, self.prompt, seed, {"scale": self.guidance, "negative_prompt": self.negative_prompt})


def probe_fields(pipe: Pipeline, sheet: Probe) -> dict[str, object]:
    """Fields of the section `capture`: the sheet's family, and all of it as `probe_text` where it is not the bundled one."""
    try:
        from .model import probe_of  # needs torch, which reading a recording does not

        custom = probe_of(pipe) != sheet
    except InputError:  # no bundled probe matches
        custom = True
    return {"probe": sheet.family, **({"probe_text": text_of_probe(sheet)} if custom else {})}


def text_of_probe(sheet: Probe) -> str:
    """A probe as TOML that `parse_probe` reads back as the same probe; comments of its file are not part of it."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in _own_fields(sheet).items())


def _own_fields(section: "DataclassInstance") -> dict[str, object]:
    """Without those at their default, which a probe may not be able to say (`patch` or `patch_keys`, never both)."""
    values = {field.name: (getattr(section, field.name), field.default) for field in fields(section)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _toml(value: object) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        value = _own_fields(value)
    if isinstance(value, Mapping):
        entries = (f"{_toml(str(key))} = {_toml(entry)}" for key, entry in value.items())
        return f"{{{', '.join(entries)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(entry) for entry in value)}]"
    if isinstance(value, bool | int | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)  # floats and dates are written as TOML writes them


def _fits_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
