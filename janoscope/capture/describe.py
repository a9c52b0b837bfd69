"""What a recording or plan says it was made with, as far as a live pipeline shows it."""

import json
from collections.abc import Mapping
from typing import Any, cast

import torch

from .attachments import unwrapped
from .noise_level import final_noise_level
from .protocols import Scheduler


def public_config(config: Mapping[str, object]) -> dict[str, Any]:
    """A diffusers config as JSON data, without the keys that name versions and folders: they change nothing that is computed."""
    plain = {key: value for key, value in dict(config).items() if not key.startswith("_")}
    result: dict[str, Any] = json.loads(json.dumps(plain, default=str, sort_keys=True))
    return result


def config_of(module: torch.nn.Module) -> Mapping[str, object]:
    """A diffusers network's config; of a compiled network that of the one inside."""
    return cast(Mapping[str, object], unwrapped(module).config)


def describe_transformer(module: torch.nn.Module) -> dict[str, Any]:
    """Class and config: what two pipelines must share to share a plan. Of a compiled network, those of the one inside."""
    module = unwrapped(module)
    return {"class": type(module).__name__, "config": public_config(config_of(module))}


def describe_scheduler(scheduler: Scheduler, end: int | None = None) -> dict[str, Any]:
    """Class, config and the (alpha, sigma) in which the run ends. end: see `final_noise_level`."""
    return {
        "class": type(scheduler).__name__,
        "config": public_config(scheduler.config),
        "final": list(final_noise_level(scheduler, end)),
    }


def dtype_name(module: torch.nn.Module) -> str:
    """The dtype a network computes in, as `float32` or `bfloat16`."""
    return str(next(module.parameters()).dtype).removeprefix("torch.")
