"""What a pipeline says of its guidance, and whether guided is what its branches and that scale give."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..probe import Guidance
from .protocols import Pipeline

_CLASSIFIER_FREE, _PERTURBED = "do_classifier_free_guidance", "do_perturbed_attention_guidance"
# how far guided may be from its branches, of its own size: rounding of the dtype in which the pipeline adds them up
_TOLERANCE = {"float64": 1e-3, "float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}
_NEAR = 0.02  # of a fitted scale to the one that is meant, relative


@dataclass(frozen=True)
class PipelineGuidance:
    """What a pipeline says it does now; None where it does not say.

    scale: of classifier-free guidance. others: kinds of guidance that add rows or calls of a meaning that no probe knows.
    """

    classifier_free: bool | None = None
    perturbed: bool = False
    scale: float | None = None
    others: tuple[str, ...] = ()


def pipeline_guidance(pipe: Pipeline, guidance: Guidance) -> PipelineGuidance:
    """Read off the properties with which diffusers' pipelines steer their own loops; call it while the pipeline runs."""
    # do_classifier_free_guidance is about guidance_scale; where the probe names another argument it says nothing
    by_scale = guidance.argument == "guidance_scale"
    scale = _property(pipe, guidance.argument) if guidance.argument else None
    names = [name for name in dir(type(pipe)) if name.startswith("do_") and name.endswith("_guidance")]
    return PipelineGuidance(
        classifier_free=_property(pipe, _CLASSIFIER_FREE) if by_scale else None,
        perturbed=bool(_property(pipe, _PERTURBED)),
        scale=float(scale) if isinstance(scale, int | float) else None,
        others=tuple(name for name in names if name not in (_CLASSIFIER_FREE, _PERTURBED) and _property(pipe, name)),
    )


def _property(pipe: Pipeline, name: str) -> Any:
    try:
        return getattr(pipe, name, None)
    except TypeError:  # compares a scale that is None with a number
        return None


def check_guided(outputs: Mapping[str, np.ndarray], scale: float, dtype: str) -> None:
    """Compare guided with uncond + s (cond - uncond), with whatever s fits best, all (token, channel). dtype: the network's.

    Warns in one line where no s does: the pipeline does more to its guidance. Raises InputError where the s that fits is that of
    exchanged branches, 1 - scale (or -scale where a pipeline extrapolates from cond).
    """
    guided, cond, uncond = (outputs[name].astype(np.float64) for name in ("guided", "cond", "uncond"))
    apart, guide, size = cond - uncond, guided - uncond, float(np.linalg.norm(guided))
    if not (np.isfinite([apart, guide]).all() and apart.any() and size):
        return  # nothing can be told from it
    fitted = float((guide * apart).sum() / (apart * apart).sum())
    off = float(np.linalg.norm(guide - fitted * apart)) / size
    if off > _TOLERANCE.get(dtype, max(_TOLERANCE.values())):
        warnings.warn(
            f"guided is not uncond + {scale:g} (cond - uncond) at the first step, off by {off:.1%} of its size: the "
            "pipeline rescales or adds to its guidance. The recording holds what the network and the sampler were given.",
            RuntimeWarning,
            stacklevel=2,
        )
    elif _near(fitted, 1 - scale) or _near(fitted, -scale):
        raise InputError(
            f"guided is uncond + {fitted:.3g} (cond - uncond) and the pipeline's scale is {scale:g}: the probe has "
            "cond and uncond the wrong way round. Exchange them in its [guidance] branches."
        )
    elif not _near(fitted, scale) and not _near(fitted, scale + 1):
        warnings.warn(
            f"guided is uncond + {fitted:.3g} (cond - uncond) at the first step, and the pipeline's scale is {scale:g}.",
            RuntimeWarning,
            stacklevel=2,
        )


def _near(value: float, meant: float) -> bool:
    return abs(value - meant) <= _NEAR * max(1.0, abs(meant))
