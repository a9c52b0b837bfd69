"""A stand-in for a pipeline of any size on an accelerator: the host sleeps while the network would compute."""

import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from ...grid import TokenGrid
from ...probe import Probe, parse_probe

_SHEET = {
    "family": "simulated",
    "title": "Simulated transformer",
    "match": {"transformer": ["SimulatedTransformer"]},
    "tap": {},
    "tokens": {"layout": "packed", "patch": [1, 1, 1], "grid": "arguments"},
    "output": {"prediction": "flow"},
    "guidance": {"calls": "sequential", "branches": ["cond", "uncond"]},
}


def simulated_probe() -> Probe:
    return parse_probe(_SHEET, "the simulated sheet")


class SimulatedTransformer(nn.Module):
    """Returns one of a few random outputs, (1, token, channel), after `call_s` seconds of idling host."""

    def __init__(self, grid: TokenGrid, call_s: float, dtype: torch.dtype):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shape = (1, grid.count, grid.token_channels)
        self.outputs = [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]
        self.weight = nn.Parameter(torch.zeros(1, dtype=dtype))
        self.config: dict[str, Any] = {}
        self._call_s, self._calls = call_s, 0

    def forward(
        self, hidden_states: torch.Tensor, timestep: torch.Tensor, num_frames: int, height: int, width: int
    ) -> tuple[torch.Tensor]:
        time.sleep(self._call_s)
        self._calls += 1
        return (self.outputs[self._calls % len(self.outputs)],)


class SimulatedPipeline:
    """Samples with a real scheduler. guided: which steps make a second, unconditional call."""

    def __init__(self, grid: TokenGrid, *, call_s: float = 0.0, dtype: torch.dtype = torch.float32):
        self.grid, self.dtype = grid, dtype
        self.transformer = SimulatedTransformer(grid, call_s, dtype)
        self.scheduler: Any = FlowMatchEulerDiscreteScheduler()

    @torch.no_grad()
    def __call__(self, steps: int, guided: Callable[[int], bool] = lambda step: True, scale: float = 3.0) -> torch.Tensor:
        frames, rows, cols = self.grid.tokens
        self.scheduler.set_timesteps(steps)
        self.scheduler.set_begin_index(0)
        shape = (1, self.grid.count, self.grid.token_channels)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.dtype)
        for step, timestep in enumerate(self.scheduler.timesteps):
            (prediction,) = self.transformer(latents, timestep, num_frames=frames, height=rows, width=cols)
            if guided(step):
                (uncond,) = self.transformer(latents, timestep, num_frames=frames, height=rows, width=cols)
                prediction = uncond + scale * (prediction - uncond)
            latents = self.scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        return latents
