"""The call of a pipeline: defaults of the model, options of the user, checked against what this pipeline takes."""

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..errors import InputError
from .model import Model
from .shown_call import guidance_argument

# option -> the names pipelines have for it, first match wins
_ARGUMENTS = {
    "steps": ("num_inference_steps",),
    "height": ("height",),
    "width": ("width",),
    "frames": ("num_frames", "video_length"),
    "negative_prompt": ("negative_prompt",),
}
# pipeline argument -> the option that owns it; the guidance scale's depends on the model
_OWNERS = {name: option for option, names in _ARGUMENTS.items() for name in names} | {
    "prompt": "prompt",
    "class_labels": "prompt",
    "generator": "seed",
}
SEEDS = 2**63  # torch.Generator takes a signed 64-bit number; below 0 it would wrap
_OUTPUT_TYPES = ("pil", "np", "latent")


@dataclass(frozen=True)
class CallOptions:
    """What a user may say about a generation; None leaves the model's default.

    Raises InputError where `extra` holds what has an option of its own, or what changes the kind of thing that comes back, and
    for a seed or a guidance scale that no generation can have.
    """

    prompt: str
    seed: int = 0
    steps: int | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    extra: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < SEEDS:
            raise InputError(f"--seed {self.seed}: a whole number from 0 to 2**63 - 1 is needed.")
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise InputError(f"--guidance {self.guidance}: a finite number is needed.")
        for key, value in (self.extra or {}).items():
            if key in _OWNERS:
                _refuse_owned(key, _OWNERS[key])
            if key == "return_dict":
                raise InputError("--call return_dict: the pipeline has to return what it returns by default. Leave it out.")
            if key == "output_type" and value not in _OUTPUT_TYPES:
                raise InputError(f"--call output_type={value}: legal are {', '.join(_OUTPUT_TYPES)}.")


@dataclass(frozen=True)
class PipelineCall:
    """Keyword arguments for one generation, and what they mean. `guidance` is None where the pipeline was not told."""

    arguments: Mapping[str, object]
    prompt: str
    seed: int
    guidance: float | None
    negative_prompt: str | None
    warnings: tuple[str, ...] = ()

    @property
    def steps(self) -> int | None:
        steps = self.arguments.get("num_inference_steps")
        return steps if isinstance(steps, int) else None

    def guidance_facts(self) -> dict[str, object]:
        """What a plan's fingerprint says of guidance."""
        return {"scale": self.guidance, "negative_prompt": self.negative_prompt}


def make_call(model: Model, options: CallOptions) -> PipelineCall:
    """The pipeline call for these options.

    Raises InputError for an option that this pipeline does not take: an option without effect is refused, not ignored.
    """
    parameters = inspect.signature(type(model.pipe).__call__).parameters
    arguments = {key: value for key, value in model.call.items() if key in parameters}
    for option, names in _ARGUMENTS.items():
        value = getattr(options, option)
        if value is not None:
            arguments[_accepted(model, parameters, names, option)] = value
    argument = guidance_argument(model.probe, model.config)
    if options.guidance is not None:
        if argument is None or argument not in parameters:
            name = type(model.pipe).__name__
            raise InputError(f"--guidance has no effect on {name}: it takes no guidance scale. Leave it out.")
        arguments[argument] = options.guidance
    for key, value in (options.extra or {}).items():
        if key == argument:
            _refuse_owned(key, "guidance")
        arguments[_accepted(model, parameters, (key,), f"call {key}")] = value
    arguments |= _prompt_argument(model, parameters, options.prompt)
    scale = arguments.get(argument) if argument else None
    guidance = scale if isinstance(scale, int | float) else None
    if argument == "true_cfg_scale" and guidance is not None and guidance > 1:
        arguments.setdefault("negative_prompt", "")  # without one the pipeline silently ignores the scale
    text = arguments.get("negative_prompt") if "negative_prompt" in parameters else None
    negative = text if isinstance(text, str) else None
    if options.negative_prompt:
        _refuse_unheard_negative(model, parameters, arguments)
    arguments["generator"] = torch.Generator("cpu").manual_seed(options.seed)
    return PipelineCall(arguments, options.prompt, options.seed, guidance, negative, unknown_words(model, options.prompt))


def _refuse_owned(key: str, option: str) -> None:
    """Said twice in two ways, one would silently win; and plans and recordings would note the other."""
    flag = option.replace("_", "-")
    raise InputError(f"--call {key}: this argument has an option of its own; use --{flag}.")


def _prompt_argument(model: Model, parameters: Mapping[str, object], prompt: str) -> dict[str, object]:
    """The prompt as this pipeline takes it; class-conditional ones take a class, by number or name."""
    if "prompt" in parameters:
        return {"prompt": prompt}
    if "class_labels" not in parameters:
        raise InputError(f"{type(model.pipe).__name__} takes no prompt; use janoscope.record in Python.")
    if prompt.isdecimal():
        return {"class_labels": [int(prompt)]}
    labels = getattr(model.pipe, "labels", None) or {}
    if prompt not in labels:
        names = f" or one of its {len(labels)} names" if labels else ""
        raise InputError(f"--prompt {prompt!r} is no class of {model.name}; give a class number{names}.")
    return {"class_labels": [labels[prompt]]}


def _refuse_unheard_negative(model: Model, parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, object]) -> None:
    """A negative prompt speaks through a second branch, which needs a scale above 1 of the guidance that is not distilled."""
    name = model.probe.guidance.argument
    scale = arguments.get(name, parameters[name].default) if name and name in parameters else None
    if isinstance(scale, int | float) and scale <= 1:
        raise InputError(f"--negative-prompt has no effect while {name} is {scale}; raise it with --guidance or --call {name}=3.")


def unknown_words(model: Model, prompt: str) -> tuple[str, ...]:
    """A warning for words that every tokenizer of the pipeline turns into its unknown token."""
    tokenizers = [part for name, part in model.components.items() if name.startswith("tokenizer") and part is not None]
    words = re.findall(r"\w+", prompt)
    unknown = [word for word in words if tokenizers and all(_is_unknown(tokenizer, word) for tokenizer in tokenizers)]
    if not unknown:
        return ()
    named = ", ".join(dict.fromkeys(unknown))
    return (f"{model.name} does not know the word{'s' * (len(set(unknown)) > 1)} {named}; the image will not show it.",)


def _is_unknown(tokenizer: object, word: str) -> bool:
    unknown = getattr(tokenizer, "unk_token_id", None)
    assert callable(tokenizer)
    return unknown is not None and unknown in tokenizer(word, add_special_tokens=False).input_ids


def _accepted(model: Model, parameters: Mapping[str, object], names: tuple[str, ...], option: str) -> str:
    for name in names:
        if name in parameters:
            return name
    flag, pipeline = option.replace("_", "-"), type(model.pipe).__name__
    raise InputError(f"--{flag} has no effect on {pipeline}: it takes no {' or '.join(names)}. Leave it out.")
