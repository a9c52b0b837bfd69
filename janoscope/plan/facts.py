"""ModelFacts: the sizes that decide FLOPs and cache bytes, from a transformer's config or a probe's `[models]` entry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..grid import Triple
from ..probe import Execution

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
TEXT_MODES = ("joint", "cross", "none")

# the names under which diffusers configs hold a size, in the order they are tried; layer counts add up (Flux has two lists)
LAYER_KEYS = ("num_layers", "num_single_layers")
FEED_FORWARD_KEYS = ("ffn_dim",)
DUAL_KEY = "dual_attention_layers"  # a list of block indices
FEED_FORWARD_RATIO = 4.0  # of the width, where the config names no size; true of every family executed so far but Wan


@dataclass(frozen=True)
class ModelFacts:
    """What prediction needs to know of a model.

    layers: blocks with self- or joint attention. width: hidden channels. feed_forward: hidden channels of the MLP.
    text: `joint` (text tokens stand among the attention's and are always computed), `cross` (a cross-attention's keys) or `none`.
    itemsize: bytes a cached value. branches: guidance branches with a cache of their own (2 with classifier-free guidance).
    dual_layers: blocks with a second, image-only attention (Stable Diffusion 3.5 medium).
    heads: attention heads of a layer. stacked: branches that share one network call (2 where guidance is batched).
    """

    layers: int
    width: int
    feed_forward: int
    text: str = "none"
    text_tokens: int = 0
    itemsize: int = 2
    branches: int = 1
    dual_layers: int = 0
    heads: int = 1
    stacked: int = 1

    @property
    def attentions(self) -> int:
        """Attentions that keep something: one a block, two in dual blocks."""
        return self.layers + self.dual_layers

    @property
    def joint_text(self) -> int:
        """Text tokens that run through the blocks beside the image's."""
        return self.text_tokens if self.text == "joint" else 0

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        text: str,
        text_tokens: int,
        dtype: str = "bfloat16",
        branches: int = 1,
        stacked: int = 1,
    ) -> "ModelFacts":
        """Facts from a diffusers transformer config (a dict, or its `config.json`).

        text: see the class; `joint` where the probe's [execution] text is first or last. dtype: a name such as "bfloat16".
        Raises InputError naming the config keys that are missing.

        >>> config = {"num_layers": 1, "num_single_layers": 5, "num_attention_heads": 6, "attention_head_dim": 32}
        >>> facts = ModelFacts.from_config(config, text="joint", text_tokens=8)
        >>> facts.layers, facts.width, facts.feed_forward
        (6, 192, 768)
        """
        layers = sum(int(config[key]) for key in LAYER_KEYS if config.get(key))
        needed = ("num_attention_heads", "attention_head_dim")
        missing = [key for key in needed if not config.get(key)] + ([] if layers else [LAYER_KEYS[0]])
        if missing:
            raise InputError(
                f"this transformer config lacks {', '.join(missing)}, from which FLOPs and cache bytes are predicted; "
                "name a model of a probe's [models] table instead."
            )
        if text not in TEXT_MODES or dtype not in ITEMSIZE:
            raise InputError(f"text = {text!r}, dtype = {dtype!r}; legal: {', '.join(TEXT_MODES)} and {', '.join(ITEMSIZE)}.")
        heads = int(config["num_attention_heads"])
        width = heads * int(config["attention_head_dim"])
        feed_forward = next((int(config[key]) for key in FEED_FORWARD_KEYS if config.get(key)), 0)
        feed_forward = feed_forward or round(float(config.get("mlp_ratio") or FEED_FORWARD_RATIO) * width)
        dual_layers = len(config.get(DUAL_KEY) or ())
        itemsize = ITEMSIZE[dtype]
        return cls(layers, width, feed_forward, text, text_tokens, itemsize, branches, dual_layers, heads, stacked)

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> "ModelFacts":
        """Facts from one entry of a probe's `[models]` table."""
        return cls.from_config(
            entry["config"],
            text=entry["text"],
            text_tokens=entry["text_tokens"],
            dtype=entry["dtype"],
            branches=entry["branches"],
        )


def run_facts(
    execution: Execution | None, config: Mapping[str, Any], *, dtype: str, text_tokens: int, branches: int, stacked: int = 1
) -> ModelFacts | None:
    """Facts of a run that was seen, live or recorded; None where its family or config does not tell them.

    execution: the probe's section, which says whether the text stands among the attention's tokens. stacked: see the class.
    """
    if execution is None or dtype not in ITEMSIZE:
        return None
    text = "joint" if execution.text != "none" else "cross" if text_tokens else "none"
    try:
        sizes = {"text_tokens": text_tokens, "branches": branches, "stacked": stacked}
        return ModelFacts.from_config(config, text=text, dtype=dtype, **sizes)
    except InputError:
        return None


def entry_tokens(
    entry: Mapping[str, Any], height: int | None = None, width: int | None = None, frames: int | None = None
) -> Triple:
    """Tokens (frames, rows, cols) of a `[models]` entry at a size in pixels and frames; its own default where none is given."""
    spatial, temporal = entry["latent_scale"]["spatial"], entry["latent_scale"]["temporal"]
    cells = (
        ((frames or entry["frames"]) - 1) // temporal + 1,  # video VAEs keep the first frame by itself
        (height or entry["height"]) // spatial,
        (width or entry["width"]) // spatial,
    )
    # a last, incomplete patch is padded (CogVideoX 1.5: 21 latent frames, patch 2)
    nf, nr, nc = (-(-cell // patch) for cell, patch in zip(cells, entry["patch"], strict=True))
    return nf, nr, nc
