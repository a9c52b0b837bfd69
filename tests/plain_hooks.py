"""What plain hooks see of a diffusers pipeline, read with nothing but its probe: the yardstick for probes and recorders."""

import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from tiny_pipelines import VARIANTS, build
from torch import nn

from janoscope.grid import TokenGrid
from janoscope.probe import CHECKOUT, Probe, load_probe

# what makes both branches run, and the guided prediction linear in them
GUIDED = {
    "flux": {"true_cfg_scale": 2.0, "negative_prompt": "red"},
    "hunyuanvideo": {"true_cfg_scale": 2.0},
    "lumina2": {"cfg_normalization": False},
}


def probe_named(name: str) -> Probe:
    return load_probe(CHECKOUT / f"{VARIANTS.get(name, name)}.toml")


@dataclass(frozen=True)
class Call:
    """One call of the network: the component, its arguments by parameter name, and what it returned."""

    component: str
    arguments: dict[str, Any]
    returned: Any


@dataclass(frozen=True)
class Step:
    """One step of the scheduler, and the calls of the network that led to it."""

    calls: tuple[Call, ...]
    prediction: torch.Tensor
    sample: torch.Tensor


def bound(function: Any, module: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
    return dict(inspect.signature(function).bind(module, *args, **kwargs).arguments)


@contextmanager
def watched(pipeline: Any, components: tuple[str, ...]):
    steps: list[Step] = []
    calls: list[Call] = []
    scheduler = pipeline.scheduler
    plain_step = scheduler.step

    def step(*args: Any, **kwargs: Any) -> Any:
        given = bound(type(scheduler).step, scheduler, args, kwargs)
        steps.append(Step(tuple(calls), given["model_output"].clone(), given["sample"].clone()))
        calls.clear()
        return plain_step(*args, **kwargs)

    def hook(component: str) -> Any:
        def see(module: nn.Module, args: tuple, kwargs: dict, returned: Any) -> None:
            calls.append(Call(component, bound(type(module).forward, module, args, kwargs), returned))

        return see

    networks = {name: getattr(pipeline, name, None) for name in components}
    handles = [m.register_forward_hook(hook(n), with_kwargs=True) for n, m in networks.items() if m is not None]
    scheduler.step = step
    try:
        yield steps
    finally:
        del scheduler.step
        for handle in handles:
            handle.remove()


@cache
def seen(name: str, guided: bool = False) -> tuple[Any, tuple[Step, ...], dict[str, Any]]:
    """The pipeline of a family, the steps of one short call, and the call's arguments."""
    pipeline, call = build(name)
    if guided:
        call |= GUIDED.get(name, {})
        if name == "hunyuanvideo":
            call |= {f"negative_{key}": call[key].flip(1) for key in call if key.startswith(("prompt_", "pooled_"))}
    with watched(pipeline, probe_named(name).tap.components) as steps:
        pipeline(**call | {"num_inference_steps": 3}, generator=torch.Generator().manual_seed(0))
    return pipeline, tuple(steps), call


def predicted(sheet: Probe, call: Call) -> torch.Tensor:
    """The network's output as one tensor; items and branches stacked along the first axis."""
    value = call.returned[0] if sheet.output.returns == "tuple" else call.returned.sample
    return torch.stack(value) if sheet.tokens.layout == "list" else value


def channel_axis(sheet: Probe) -> int:
    return {"packed": -1, "BFCHW": 2}.get(sheet.tokens.layout, 1)


def tokens_of(sheet: Probe, module: nn.Module, arguments: dict[str, Any]) -> int:
    """How many tokens the probe finds in one call."""
    match sheet.tokens.grid:
        case "img_ids":
            ids = arguments["img_ids"].reshape(-1, arguments["img_ids"].shape[-1])
            return prod(int(ids[:, column].max()) + 1 for column in sheet.tokens.id_columns)
        case "img_shapes":
            return prod(arguments["img_shapes"][0][0])
        case "arguments":
            return prod(arguments[key] for key in ("num_frames", "height", "width"))
        case "shape":
            x = arguments[sheet.tap.input]
            x = x[0] if sheet.tokens.layout == "list" else x[0].movedim(0, 1) if sheet.tokens.layout == "BFCHW" else x[0]
            x = x[:, None] if x.ndim == 3 else x
            return TokenGrid(x.shape[0], tuple(x.shape[1:]), sheet.tokens.patch_of(module.config)).count
    raise AssertionError(sheet.tokens.grid)


def block_calls(sheet: Probe, module: nn.Module, arguments: dict[str, Any]) -> tuple[list[dict[str, Any]], list[int]]:
    """Arguments of every block in order of use, and the rows that left the output module."""
    calls: list[dict[str, Any]] = []
    rows: list[int] = []

    def enter(block: nn.Module, args: tuple, kwargs: dict) -> None:
        calls.append(bound(type(block).forward, block, args, kwargs))

    blocks = [block for name in sheet.execution.blocks for block in getattr(module, name)]
    handles = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
    output = getattr(module, sheet.execution.output)
    handles.append(output.register_forward_hook(lambda m, a, out: rows.append(out.shape[1])))
    with torch.no_grad():
        module(**arguments)
    for handle in handles:
        handle.remove()
    assert [call["self"] for call in calls] == blocks
    return calls, rows
