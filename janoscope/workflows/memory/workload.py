"""Setting: size, tokens, text and branches of a generation that nobody has run yet, from options and what was published."""

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
_PICTURES = ("packed", "BCHW")  # layouts of one frame


@dataclass(frozen=True)
class Asked:
    """What a user may say; None leaves the model's default. Sizes in pixels and frames."""

    height: int | None = None
    width: int | None = None
    frames: int | None = None
    guidance: float | None = None
    text_tokens: int | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Setting:
    """What one generation is given.

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


def setting_of(published: Published, asked: Asked) -> Setting:
    """The setting that `record` and `apply` would run with these options.

    Raises InputError naming the option for a size that nothing tells, an unknown dtype, or a size that gives no token.
    """
    defaults = _defaults(published)
    scale, notes = _latent_scale(published)
    known = {
        "height": asked.height or defaults.get("height") or _sample_size(published, scale["spatial"], "height"),
        "width": asked.width or defaults.get("width") or _sample_size(published, scale["spatial"], "width"),
        "frames": asked.frames or next((defaults[name] for name in _FRAMES if defaults.get(name)), None) or _one_frame(published),
    }
    if missing := [f"--{name}" for name, value in known.items() if not value]:
        raise InputError(f"nothing tells the size that {published.name} makes by default; pass {' and '.join(missing)}.")
    sizes = {name: int(value) for name, value in known.items() if value}
    patch = published.probe.tokens.patch_of(published.config)
    if published.probe.tokens.layout == "packed" and published.entry:
        patch = tuple(published.entry["patch"])
    tokens = entry_tokens({"latent_scale": scale, "patch": patch}, **sizes)
    if min(tokens) < 1:
        raise InputError(
            f"{sizes['height']} x {sizes['width']} pixels, {sizes['frames']} frames give no token; take a larger size."
        )
    text, text_notes = _text_tokens(published, asked, defaults)
    branches, branch_notes = _branches(published, asked, defaults)
    dtype, dtype_notes = _dtype(published, asked.dtype)
    stacked = branches if published.probe.guidance.calls == "batched" else 1
    told = (*published.notes, *notes, *text_notes, *branch_notes, *dtype_notes)
    return Setting(
        **sizes,
        tokens=tokens,
        text_tokens=text,
        branches=branches,
        stacked=stacked,
        dtype=dtype,
        is_dtype_asked=asked.dtype is not None,
        notes=told,
    )


def with_guidance_parallel(setting: Setting) -> Setting:
    """What each of two processes runs with one branch of its own."""
    return replace(setting, branches=1, stacked=1)


def _defaults(published: Published) -> dict[str, Any]:
    """Of the pipeline's call: a directory's own, then the published ones, then those of the class."""
    import diffusers

    cls = getattr(diffusers, published.pipeline, None) if published.pipeline else None
    parameters = inspect.signature(cls.__call__).parameters if cls else {}
    signature = {name: p.default for name, p in parameters.items() if p.default not in (inspect.Parameter.empty, None)}
    entry = published.entry
    told = {name: entry[name] for name in ("height", "width") if name in entry}
    if "frames" in entry:
        told["num_frames"] = entry["frames"]
    return {**signature, **told, **published.call}


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
        raise InputError(
            f"{published.name} does not tell its VAE, without which pixels are no tokens; name the pipeline's directory."
        )
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
    return 1 if published.probe.tokens.layout in _PICTURES else config if isinstance(config, int) else None


def _text_tokens(published: Published, asked: Asked, defaults: Mapping[str, Any]) -> tuple[int, list[str]]:
    if asked.text_tokens is not None:
        return asked.text_tokens, []
    own = published.call.get("max_sequence_length")
    found = own or published.entry.get("text_tokens") or defaults.get("max_sequence_length")
    if isinstance(found, int):
        return found, []
    reads_text = any("text" in shape.split() for shape in published.probe.arguments.values())
    return (1, ["how many text tokens there are is not known; one is counted, pass --text-tokens."]) if reads_text else (0, [])


def _branches(published: Published, asked: Asked, defaults: Mapping[str, Any]) -> tuple[int, list[str]]:
    """With classifier-free guidance two, each with keys and values of its own."""
    guidance = published.probe.guidance
    if guidance.calls == "none" or (guidance.embedded_if and published.config.get(guidance.embedded_if)):
        return 1, []
    scale = asked.guidance if asked.guidance is not None else published.call.get(guidance.argument or "")
    if scale is None and "branches" in published.entry:
        return int(published.entry["branches"]), []
    scale = scale if scale is not None else defaults.get(guidance.argument or "")
    if isinstance(scale, int | float):
        return (len(guidance.branches) if scale > 1 else 1), []
    return len(guidance.branches), ["guidance is taken to be on; pass --guidance 1 where it is not."]


def _dtype(published: Published, asked: str | None) -> tuple[str, list[str]]:
    if asked is not None:
        if asked not in ITEMSIZE:
            raise InputError(f"--dtype {asked} is unknown; legal: {', '.join(ITEMSIZE)}.")
        return asked, []
    stored = published.networks[0].dtype
    return (stored, []) if stored else ("bfloat16", ["no weights lie beside the config; bfloat16 is taken."])
