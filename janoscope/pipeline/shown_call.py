"""What a pipeline's call in progress shows of itself: prompt, seed, size and guidance, where the family takes them by name.

Read from the frame of the pipeline's own `__call__`, below which every hook runs: Python looks `__call__` up on the class, so no
patch of an instance could see it, and a patch of the class would be seen by other pipelines.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..capture.protocols import Pipeline
from ..probe import Probe

UNKNOWN = "unknown"
# argument of a pipeline -> what janoscope calls it
SIZES = {"height": "height", "width": "width", "num_frames": "frames", "video_length": "frames"}
_COUNTS = ("num_inference_steps", *SIZES)


@dataclass(frozen=True)
class ShownCall:
    """Of a call; `unknown`, or left out of `arguments`, where it does not show.

    arguments: steps, height and width in pixels, and frames, by the pipeline's own names.
    """

    prompt: str = UNKNOWN
    negative_prompt: str | None = UNKNOWN
    seed: int | str = UNKNOWN
    guidance: float | str | None = UNKNOWN
    arguments: Mapping[str, int] = field(default_factory=dict)


def shown_call(pipe: Pipeline, probe: Probe) -> ShownCall:
    """What the call that `pipe` is making shows; nothing where it makes none, or is driven by a loop of the user's own."""
    arguments = _arguments_in_progress(pipe)
    prompt = _text(arguments.get("prompt"))
    if prompt is None:
        prompt = _class_label(arguments.get("class_labels"))
    name = guidance_argument(probe, _config(pipe, probe))
    scale = arguments.get(name, UNKNOWN) if name else UNKNOWN
    negative = arguments.get("negative_prompt", UNKNOWN)
    return ShownCall(
        prompt=UNKNOWN if prompt is None else prompt,
        negative_prompt=_text(negative) if negative is None or _text(negative) is not None else UNKNOWN,
        seed=_seed(arguments.get("generator")),
        guidance=scale if isinstance(scale, int | float | None) else UNKNOWN,
        arguments={name: value for name in _COUNTS if isinstance(value := arguments.get(name), int)},
    )


def guidance_argument(probe: Probe, config: Mapping[str, object]) -> str | None:
    """The pipeline argument that sets the guidance scale of a model. config: its network's."""
    guidance = probe.guidance
    if guidance.embedded_if and config.get(guidance.embedded_if):
        return guidance.embedded_argument
    return guidance.argument


def _arguments_in_progress(pipe: Pipeline) -> Mapping[str, object]:
    """The variables of the innermost `__call__` of this pipeline on the stack; defaults that it has filled in are among them."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is pipe:
            return dict(frame.f_locals)
        frame = frame.f_back  # type: ignore[assignment]  # None at the end of the stack
    return {}


def _config(pipe: Pipeline, probe: Probe) -> Mapping[str, object]:
    config = getattr(getattr(pipe, probe.tap.components[0], None), "config", None)
    return config if isinstance(config, Mapping) else {}


def _text(value: object) -> str | None:
    """A text, or that of a list of one: of several no one prompt could be said."""
    only = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    return only if isinstance(only, str) else None


def _class_label(value: object) -> str | None:
    """The class of a class-conditional pipeline that makes one image, as `-p` takes it."""
    tolist = getattr(value, "tolist", None)  # DiT's own `__call__` makes a tensor of it
    labels = tolist() if callable(tolist) else value
    label = labels[0] if isinstance(labels, list | tuple) and len(labels) == 1 else labels
    return str(label) if isinstance(label, int) else None


def _seed(generator: object) -> int | str:
    """What the generator was seeded with."""
    if isinstance(generator, list | tuple) and len(generator) == 1:
        generator = generator[0]
    initial_seed = getattr(generator, "initial_seed", None)
    return int(initial_seed()) if callable(initial_seed) else UNKNOWN
