"""Train a bundled model: `python -m janoscope.demo.training.train image|video|latte --work DIR`.

What is learned is in `recipes`. Two processes of one thread each share every batch: two OpenMP threads in one process were
several times slower on a shared machine. Every batch is a function of (seed, rank, step), so a run that is stopped and
resumed is the run that was never stopped.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from .recipes import RECIPES, Stage, draw_batch

RANKS = 2
EMA_DECAY = 0.998
CHECKPOINT_EVERY = 200


def learning_rate(stage: Stage, step: int) -> float:
    """Warm-up over 60 steps, flat to 30 %, then a cosine to 2 % of the peak."""
    progress = max(0.0, (step / stage.steps - 0.3) / 0.7)
    return stage.peak * min(1.0, (step + 1) / 60) * (0.98 * 0.5 * (1 + math.cos(math.pi * progress)) + 0.02)


def is_block_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether Muon learns it: the linear layers inside the transformer's blocks, modulation excepted."""
    return parameter.ndim == 2 and "blocks." in name and "norm" not in name and "scale_shift_table" not in name


class PlainAttention(TorchFunctionMode):
    """Attention as two bfloat16 products: at 16 to 512 tokens two to four times faster on a CPU than the fused kernel."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        changed = kwargs.get("attn_mask") is not None or kwargs.get("is_causal") or kwargs.get("scale") is not None
        if func is not F.scaled_dot_product_attention or changed:
            return func(*args, **kwargs)
        q, k, v = (tensor.bfloat16() for tensor in (args or (kwargs["query"], kwargs["key"], kwargs["value"]))[:3])
        with torch.autocast("cpu", enabled=False):
            return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1) @ v


class Trainer:
    def __init__(self, model: str, seed: int, rank: int):
        torch.manual_seed(seed)
        self.seed, self.rank, self.recipe = seed, rank, RECIPES[model]()
        self.pipe = self.recipe.build()
        self.modules = torch.nn.ModuleDict({name: getattr(self.pipe, name) for name in self.recipe.trained})
        self.parameters = dict(self.modules.named_parameters())
        matrices = {name for name, parameter in self.parameters.items() if is_block_matrix(name, parameter)}
        in_blocks = [self.parameters[name] for name in sorted(matrices)]
        others = [parameter for name, parameter in self.parameters.items() if name not in matrices]
        self.optimizers = [
            (1e-3, torch.optim.AdamW(others, betas=(0.9, 0.98))),
            (2e-3, torch.optim.Muon(in_blocks, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")),
        ]
        self.ema = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.step = 0
        self.log: list[tuple[int, float, float]] = []  # step, seconds, smoothed loss

    def train_step(self, stage: Stage, step_in_stage: int) -> float:
        """One update; returns this process's plain (unweighted) loss."""
        rng = np.random.default_rng([self.seed, self.rank, self.step])
        batch = draw_batch(self.recipe, rng, stage.sizes[step_in_stage % len(stage.sizes)])
        with torch.autocast("cpu", torch.bfloat16), PlainAttention():
            error = self.recipe.error(self.pipe, batch)
        (error * self.recipe.weight(batch.time)).mean().backward()
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for base, optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = base * learning_rate(stage, step_in_stage)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - decay)
        self.step += 1
        return error.mean().item()

    def _average_gradients(self) -> None:
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters.values()]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        pieces = (flat / RANKS).split([g.numel() for g in gradients])
        for parameter, piece in zip(self.parameters.values(), pieces, strict=True):
            parameter.grad = piece.view_as(parameter).clone()

    def save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "log": self.log,
            "modules": self.modules.state_dict(),
            "ema": self.ema,
            "optimizers": [optimizer.state_dict() for _, optimizer in self.optimizers],
        }
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step, self.log, self.ema = state["step"], state["log"], state["ema"]
        self.modules.load_state_dict(state["modules"])
        for (_, optimizer), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def _run_rank(rank: int, model: str, work: Path, seed: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    trainer = Trainer(model, seed, rank)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        trainer.resume(checkpoint)
    stages = trainer.recipe.stages
    total = sum(stage.steps for stage in stages)
    bar = tqdm(total=total, initial=trainer.step, disable=rank != 0, mininterval=10, unit="step")
    _, before_s, smooth = trainer.log[-1] if trainer.log else (0, 0.0, None)
    started = time.monotonic() - before_s
    first = 0
    for stage in stages:
        for step_in_stage in range(max(0, trainer.step - first), stage.steps):
            loss = trainer.train_step(stage, step_in_stage)
            smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
            bar.update()
            bar.set_postfix_str(f"{stage.name} loss {smooth:.4f}", refresh=False)
            if trainer.step % 20 == 0:
                trainer.log.append((trainer.step, round(time.monotonic() - started, 1), round(smooth, 5)))
            if rank == 0 and (trainer.step % CHECKPOINT_EVERY == 0 or trainer.step == total):
                trainer.save(checkpoint)
                (work / "loss.json").write_text(json.dumps(trainer.log))
        first += stage.steps
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Train a bundled model from nothing, then write it as a model directory."""
    parser = argparse.ArgumentParser(prog="python -m janoscope.demo.training.train", description=main.__doc__)
    parser.add_argument("model", choices=list(RECIPES))
    parser.add_argument("--work", type=Path, help="checkpoints; a rerun resumes here [default: demo-work/MODEL]")
    parser.add_argument("-o", "--output", type=Path, help="model directory to write [default: the bundled one]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=29561, help="loopback port on which the two processes meet")
    options = parser.parse_args()
    from .export import export_model

    work = options.work or Path("demo-work") / options.model
    work.mkdir(parents=True, exist_ok=True)
    mp.spawn(_run_rank, (options.model, work, options.seed, options.port), nprocs=RANKS)
    print("Wrote", export_model(options.model, work / "checkpoint.pt", options.output))


if __name__ == "__main__":
    main()
