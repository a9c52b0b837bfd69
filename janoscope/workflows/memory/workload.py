"""Workload: size, tokens, text and branches of a generation before it is run, from options and published configs."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import InputError
from ...grid import Triple
from ...pipeline.model_configs import Part, Published
from ...plan import entry_tokens
from ...plan.facts import ITEMSIZE

_FRAMES = ("num_frames", "video_length")
_IMAGES = ("packed", "BCHW")  # layouts of one frame


@dataclass(frozen=True)
class WorkloadOptions:
    """What a user may say of a generation; None leaves the model's default. Sizes in pixels and frames."""

    height: int | None = None
    width: int | None = None
    frames: int | None = None
    guidance: float | None = None
    text_tokens: int | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Workload:
    """What one generation computes on.

    tokens: (frames, rows, cols). branches: guidance branches, each with a cache; stacked: those in one network call.
    dtype: of the network and its cache; of everything where `is_dtype_asked`. notes: what had to be assumed.
    """

    height: int
    width: int
    frames: int
    tokens: Triple
    text_tokens: int
    branches: int
    stacked: int
    dtype: str
    is_dtype_asked: bool = False
    notes: tuple[str, ...] = ()

    @property
    def token_count(self) -> int:
        frames, rows, cols = self.tokens
        return frames * rows * cols


def workload_of(published: Published, options: WorkloadOptions) -> Workload:
    """The workload that `record` and `apply` would run with these options.

    Raises InputError naming the option for a size without a default, an unknown dtype, or a size that gives no token.
    """
    defaults = _defaults(published)
    scale, notes = _latent_scale(published)
    size_or_none = {
        "height": options.height or defaults.get("height") or _sample_size(published, scale["spatial"], "height"),
        "width": options.width or defaults.get("width") or _sample_size(published, scale["spatial"], "width"),
        "frames": options.frames
        or next((defaults[name] for name in _FRAMES if defaults.get(name)), None)
        or _one_frame(published),
    }
    if missing := [f"--{name}" for name, value in size_or_none.items() if not value]:
        raise InputError(f"{published.name} has no default size; pass {' and '.join(missing)}.")
    height, width, frames = (int(value or 0) for value in size_or_none.values())
    patch = published.probe.tokens.patch_of(published.config)
    if published.probe.tokens.layout == "packed" and published.entry:
        patch = tuple(published.entry["patch"])
    tokens = entry_tokens({"latent_scale": scale, "patch": patch}, height=height, width=width, frames=frames)
    if min(tokens) < 1:
        raise InputError(f"{height} x {width} pixels, {frames} frames give no token; take a larger size.")
    text, text_notes = _text_tokens(published, options, defaults)
    branches, branch_notes = _branches(published, options, defaults)
    dtype, dtype_notes = _dtype(published, options.dtype)
    stacked = branches if published.probe.guidance.calls == "batched" else 1
    all_notes = (*published.notes, *notes, *text_notes, *branch_notes, *dtype_notes)
    return Workload(
        height=height,
        width=width,
        frames=frames,
        tokens=tokens,
        text_tokens=text,
        branches=branches,
        stacked=stacked,
        dtype=dtype,
        is_dtype_asked=options.dtype is not None,
        notes=all_notes,
    )


def with_guidance_parallel(workload: Workload) -> Workload:
    """What each of two processes runs with one branch of its own."""
    return replace(workload, branches=1, stacked=1)


def _defaults(published: Published) -> dict[str, Any]:
    """Of the pipeline's call: a directory's own, then the published ones, then those of the class."""
    import diffusers

    cls = getattr(diffusers, published.pipeline, None) if published.pipeline else None
    parameters = inspect.signature(cls.__call__).parameters if cls else {}
    signature = {name: p.default for name, p in parameters.items() if p.default not in (inspect.Parameter.empty, None)}
    entry = published.entry
    typical = {name: entry[name] for name in ("height", "width") if name in entry}
    if "frames" in entry:
        typical["num_frames"] = entry["frames"]
    return {**signature, **typical, **published.call}


def _latent_scale(published: Published) -> tuple[Mapping[str, int], list[str]]:
    """Pixels a latent cell, and frames; by the VAE's config, as pipelines find it, else as published for the family."""
    vae = next((part for part in published.others if part.name == "vae"), None)
    if published.entry:
        scale: Mapping[str, int] = published.entry["latent_scale"]
        return scale, []
    if vae is not None:
        return _scale_of_vae(vae), []
    entries = list(published.probe.models.values())
    if not entries:
        raise InputError(f"{published.name} names no VAE, without which pixels are no tokens; name the pipeline's directory.")
    return entries[0]["latent_scale"], ["latent cells as in the family's published models."]


def _scale_of_vae(vae: Part) -> dict[str, int]:
    config = vae.config
    spatial = config.get("scale_factor_spatial") or config.get("spatial_compression_ratio")
    temporal = config.get("scale_factor_temporal") or config.get("temporal_compression_ratio") or 1
    if vae.class_name in ("AutoencoderKLWan", "AutoencoderKLQwenImage"):  # their configs leave defaults out
        spatial, temporal = spatial or 8, config.get("scale_factor_temporal") or 4
    return {"spatial": int(spatial or 2 ** (len(config.get("block_out_channels", (0,) * 4)) - 1)), "temporal": int(temporal)}


def _sample_size(published: Published, spatial: int, axis: str) -> int | None:
    """diffusers' rule where the call has no default: the transformer's sample_size, in latent cells."""
    size = published.config.get(f"sample_{axis}") or published.config.get("sample_size")
    return int(size) * spatial if isinstance(size, int) else None


def _one_frame(published: Published) -> int | None:
    config = published.config.get("video_length")  # Latte's
    return 1 if published.probe.tokens.layout in _IMAGES else config if isinstance(config, int) else None


def _text_tokens(published: Published, options: WorkloadOptions, defaults: Mapping[str, Any]) -> tuple[int, list[str]]:
    if options.text_tokens is not None:
        return options.text_tokens, []
    own = published.call.get("max_sequence_length")
    count = own or published.entry.get("text_tokens") or defaults.get("max_sequence_length")
    if isinstance(count, int):
        return count, []
    reads_text = any("text" in shape.split() for shape in published.probe.arguments.values())
    return (1, ["how many text tokens there are is not known; one is counted, pass --text-tokens."]) if reads_text else (0, [])


def _branches(published: Published, options: WorkloadOptions, defaults: Mapping[str, Any]) -> tuple[int, list[str]]:
    """With classifier-free guidance two, each with keys and values of its own."""
    guidance = published.probe.guidance
    if guidance.calls == "none" or (guidance.embedded_if and published.config.get(guidance.embedded_if)):
        return 1, []
    scale = options.guidance if options.guidance is not None else published.call.get(guidance.argument or "")
    if scale is None and "branches" in published.entry:
        return int(published.entry["branches"]), []
    scale = scale if scale is not None else defaults.get(guidance.argument or "")
    if isinstance(scale, int | float):
        return (len(guidance.branches) if scale > 1 else 1), []
    return len(guidance.branches), ["guidance is taken to be on; pass --guidance 1 where it is not."]


def _dtype(published: Published, dtype: str | None) -> tuple[str, list[str]]:
    if dtype is not None:
        if dtype not in ITEMSIZE:
            raise InputError(f"--dtype {dtype} is unknown; legal: {', '.join(ITEMSIZE)}.")
        return dtype, []
    stored = published.networks[0].dtype
    return (stored, []) if stored else ("bfloat16", ["no weights lie beside the config; bfloat16 is taken."])
