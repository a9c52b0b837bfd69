"""MODEL: a hub id, a local directory, or a bundled model, loaded with its probe, default call and default policy."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..capture import unwrapped
from ..capture.noise_level import predicts_flow
from ..capture.protocols import Pipeline
from ..errors import InputError
from ..parallel.pair import Pair
from ..plan import Policy, Selection
from ..probe import Probe, find_probe
from .model_directory import BUNDLED, bundled_directory, model_defaults, named_policy, not_loaded, refuse_no_directory
from .model_options import ModelOptions, ProbeSource
from .shown_call import UNKNOWN

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Model:
    """A loaded pipeline. `name` is what plans and recordings call it: an id, never a machine path.

    pair: this process and the one that computes the other guidance branch, where a generation is made by two.
    """

    name: str
    pipe: Pipeline
    probe: Probe
    revision: str = UNKNOWN
    call: Mapping[str, object] = field(default_factory=dict)
    policy_table: Mapping[str, object] = field(default_factory=dict)
    pair: Pair | None = None

    @property
    def on_select(self) -> Callable[[Selection], None] | None:
        """What an executor has to tell, see `Executor`."""
        return self.pair.selected if self.pair else None

    @property
    def config(self) -> Mapping[str, object]:
        """The network's own config."""
        config: Mapping[str, object] = getattr(self.pipe, self.probe.tap.components[0]).config
        return config

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        return torch.device(getattr(self.pipe, "_execution_device", "cpu"))

    @property
    def components(self) -> Mapping[str, object]:
        """The pipeline's parts by name: networks, text encoders, tokenizers, VAE, scheduler."""
        components: Mapping[str, object] = getattr(self.pipe, "components", {})
        return components

    def __repr__(self) -> str:
        """Name, pipeline, probe and device; its defaults in a few words."""
        defaults = f", {len(self.call)} default arguments" if self.call else ""
        return f"Model({self.name!r}, {type(self.pipe).__name__}, probe {self.probe.family}, on {self.device}{defaults})"

    def policy(self, name: str | None) -> Policy:
        """A policy by preset name or file path; without one the model directory's own, else the sheet's first preset."""
        if self.policy_table and name in (None, self.policy_table.get("name")):
            return Policy.from_table(self.policy_table, f"the default policy of {self.name}")
        return named_policy(self.probe, name)


def load_model(name: str, options: ModelOptions | None = None, *, pair: Pair | None = None) -> Model:
    """Load MODEL with `DiffusionPipeline.from_pretrained`.

    Args:
        name: a hub id, a pipeline's directory, or the name of a bundled model (`demo`, `demo:video`, `demo:latte`).
        options: how it is loaded [default: `ModelOptions()`].
        pair: the two processes that make every generation together; each has a GPU of its own where there are enough.

    Returns:
        The pipeline with its probe, default call and default policy.

    Raises:
        InputError: no such model, device, dtype or scheduler; janoscope.toml is broken; no probe for its transformer.

    Example:
        >>> model = janoscope.load_model("demo", janoscope.ModelOptions(device="cpu"))  # doctest: +SKIP
        >>> model.pipe("red circle").images[0]  # doctest: +SKIP
    """
    options = options or ModelOptions()
    directory = bundled_directory(name) or (Path(name) if Path(name).is_dir() else None)
    device = usable_device(options.device or (pair.device() if pair else None))
    call, policy = model_defaults(directory)
    if directory is not None:
        _refuse_hub_options(name, directory, options)
    pipe = _load_pipeline(name, directory, _torch_dtype(options.dtype, device), options)
    if options.scheduler is not None:
        pipe.scheduler = _other_scheduler(pipe, options.scheduler)
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    probe = probe_of(pipe, options.probe)
    return Model(_public_name(name, directory), pipe, probe, options.revision or _revision(pipe), call, policy, pair)


def as_model(model_or_pipe: Model | Pipeline, probe: ProbeSource | None = None) -> Model:
    """A pipeline as a Model; a Model is returned as it is.

    The name is the one that the pipeline was loaded by: a hub id, a bundled model's name, or the last part of a directory's
    path; "unknown" where it was built by hand. A directory's own default call and policy count.

    Args:
        model_or_pipe: a Model, or any diffusers pipeline, which is used as it is: on its device, with its scheduler.
        probe: a probe, or the path of its file, other than the one that matches the network.

    Raises:
        InputError: no probe matches the network; the directory's janoscope.toml is broken.

    Example:
        >>> as_model(DiffusionPipeline.from_pretrained("black-forest-labs/FLUX.1-dev")).name  # doctest: +SKIP
        'black-forest-labs/FLUX.1-dev'
    """
    if isinstance(model_or_pipe, Model):
        return model_or_pipe
    config = getattr(model_or_pipe, "config", None)
    source = config.get("_name_or_path") if isinstance(config, Mapping) else None
    if not isinstance(source, str | Path) or not str(source):
        return Model(UNKNOWN, model_or_pipe, probe_of(model_or_pipe, probe), _revision(model_or_pipe))
    directory = Path(source).resolve() if Path(source).is_dir() else None
    bundled = next((name for name in BUNDLED if directory is not None and bundled_directory(name) == directory), None)
    call, policy = model_defaults(directory)
    name = bundled or _public_name(str(source), directory)
    return Model(name, model_or_pipe, probe_of(model_or_pipe, probe), _revision(model_or_pipe), call, policy)


def _public_name(name: str, directory: Path | None) -> str:
    """What plans and recordings call a model: never a machine path."""
    return name if name in BUNDLED or directory is None else directory.resolve().name


def probe_of(pipe: Pipeline, probe: ProbeSource | None = None, sheet: Probe | str | Path | None = None) -> Probe:
    """The probe of a pipeline's network: of its class, else of a base class of it; or the one that is given.

    sheet: the old name of `probe`.
    """
    if probe is not None and sheet is not None:
        raise InputError("probe and sheet are two names of one argument; give probe alone.")
    probe = sheet if probe is None else probe
    network = next((getattr(pipe, name) for name in ("transformer", "unet") if getattr(pipe, name, None) is not None), None)
    if network is None and probe is None:
        name = type(pipe).__name__
        raise InputError(f"{name} has neither a transformer nor a unet; feed a Recorder from your loop (docs/own-sampler.md).")
    classes = [
        cls.__name__
        for cls in type(unwrapped(network)).__mro__
        if issubclass(cls, torch.nn.Module) and cls is not torch.nn.Module
    ]
    return find_probe([c for c in classes if c not in ("ModelMixin",)], probe)


def usable_device(name: str | None) -> str:
    """`name`, after a number went there and came back; without one the first CUDA device where there is one, else the CPU."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        advice = "Choose cpu, or leave --device out."
        raise InputError(f"--device {name} cannot be used: {reason}. {advice}") from error
    return name


def _torch_dtype(dtype: str | None, device: str) -> torch.dtype | str:
    if dtype is None:
        return torch.float32 if torch.device(device).type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype} is unknown; legal: {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _refuse_hub_options(name: str, directory: Path, options: ModelOptions) -> None:
    """Options that a directory on disk would silently ignore."""
    variant = options.variant
    if options.revision is not None:
        raise InputError(f"--revision has no effect on {name}, a local model. Leave it out.")
    if variant is not None and not any(f".{variant}." in file.name for file in directory.rglob(f"*.{variant}*")):
        raise InputError(f"--variant {variant}: {name} holds no weights of that name. Leave it out.")


def _load_pipeline(name: str, directory: Path | None, dtype: torch.dtype | str, options: ModelOptions) -> Any:
    from diffusers import DiffusionPipeline

    import janoscope.demo.vae  # noqa: F401  the bundled models, and copies that were saved of them, name its classes

    refuse_no_directory(name, directory)
    named = {"revision": options.revision, "variant": options.variant}
    named = {key: value for key, value in named.items() if value is not None}
    try:
        return DiffusionPipeline.from_pretrained(directory or name, dtype=dtype, **named)
    except Exception as error:  # what diffusers trips over lies in files that the user chose, and it raises all kinds
        raise not_loaded(name, directory, f"{type(error).__name__}: {error}") from error


def _other_scheduler(pipe: Pipeline, name: str) -> object:
    import diffusers

    scheduler_class = getattr(diffusers, name, None)
    if scheduler_class is None or not hasattr(scheduler_class, "from_config") or not hasattr(scheduler_class, "set_timesteps"):
        raise InputError(f"--scheduler {name}: diffusers has no such scheduler; try for example FlowMatchEulerDiscreteScheduler.")
    config, flow = pipe.scheduler.config, predicts_flow(pipe.scheduler)
    parameters = inspect.signature(scheduler_class.__init__).parameters
    changes: dict[str, object] = {}
    shift = config.get("flow_shift", config.get("shift"))  # solvers and Euler have two names for one thing
    if flow and "use_flow_sigmas" in parameters:
        changes = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", **({"flow_shift": shift} if shift else {})}
    elif flow and "shift" in parameters and shift:
        changes = {"shift": shift}
    other = scheduler_class.from_config(config, **changes)
    if predicts_flow(other) != flow:
        words = ("flow matching", "epsilon or v") if flow else ("epsilon or v", "flow matching")
        raise InputError(f"--scheduler {name} is for {words[1]} prediction and this model does {words[0]}; choose another.")
    return other


def _revision(pipe: Pipeline) -> str:
    return str(getattr(getattr(pipe, "config", None), "_commit_hash", None) or UNKNOWN)
