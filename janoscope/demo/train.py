"""Train a bundled model: `python -m janoscope.demo.train image --work DIR`.

Rectified flow, x_t = (1 - t) x0 + t eps, network target v = eps - x0. Two processes of one thread each share every batch:
two OpenMP threads in one process were several times slower on a shared machine. Every batch is a function of (seed, rank,
step), so a run that is stopped and resumed is the run that was never stopped.
"""

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tqdm import tqdm

from .pipeline import TEXT_TOKENS, image_pipeline
from .scenes import draw, load_glyphs, random_scene

RANKS = 2
EMA_DECAY = 0.998
PROMPT_DROPOUT = 0.1
CHECKPOINT_EVERY = 200


@dataclass(frozen=True)
class Stage:
    """A stretch of training with its own learning-rate cycle; `sizes` alternate, (pixels, pictures per rank)."""

    name: str
    steps: int
    peak: float
    sizes: tuple[tuple[int, int], ...]


STAGES = (
    Stage("256 tokens", 6000, 1.0, ((64, 8),)),
    Stage("1024 tokens", 600, 0.3, ((128, 3), (64, 6))),
)


def learning_rate(stage: Stage, step: int) -> float:
    """Warm-up over 60 steps, flat to 30 %, then a cosine to 2 % of the peak."""
    progress = max(0.0, (step / stage.steps - 0.3) / 0.7)
    return stage.peak * min(1.0, (step + 1) / 60) * (0.98 * 0.5 * (1 + math.cos(math.pi * progress)) + 0.02)


def sample_time(rng: np.random.Generator, count: int) -> np.ndarray:
    """Half logit-normal, half uniform: without the uniform share the velocity stays noisy in the last steps."""
    logit_normal = 1 / (1 + np.exp(-rng.standard_normal(count)))
    return np.where(rng.random(count) < 0.5, logit_normal, rng.random(count)).astype(np.float32)


class Trainer:
    def __init__(self, seed: int, rank: int):
        torch.manual_seed(seed)
        self.seed, self.rank, self.glyphs = seed, rank, load_glyphs()
        self.pipe = image_pipeline()
        self.modules = torch.nn.ModuleDict(
            {name: getattr(self.pipe, name) for name in ("transformer", "text_encoder", "text_encoder_2")}
        )
        self.parameters = dict(self.modules.named_parameters())
        matrices = {n for n, p in self.parameters.items() if p.ndim == 2 and "transformer_blocks" in n and "norm" not in n}
        self.optimizers = [
            (1e-3, torch.optim.AdamW([p for n, p in self.parameters.items() if n not in matrices], betas=(0.9, 0.98))),
            (2e-3, torch.optim.Muon([self.parameters[n] for n in sorted(matrices)], weight_decay=0.01, adjust_lr_fn="match_rms_adamw")),
        ]
        self.ema = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.step, self.log = 0, []

    def batch(self, pixels: int, count: int) -> tuple[torch.Tensor, list[str], torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, self.rank, self.step])
        scenes = [random_scene(rng) for _ in range(count)]
        pictures = np.stack([draw(scene, self.glyphs, rng, pixels) for scene in scenes])
        prompts = ["" if rng.random() < PROMPT_DROPOUT else scene.prompt(int(rng.integers(3))) for scene in scenes]
        x0 = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = self.pipe.vae.encode(x0).latents
        packed = self.pipe._pack_latents(latents, *latents.shape)
        noise = torch.from_numpy(rng.standard_normal(packed.shape, dtype=np.float32))
        return packed, prompts, noise, torch.from_numpy(sample_time(rng, count))

    def loss(self, pixels: int, count: int) -> torch.Tensor:
        x0, prompts, noise, t = self.batch(pixels, count)
        words, pooled = self.encode(prompts)
        side = pixels // 4
        x_t = (1 - t)[:, None, None] * x0 + t[:, None, None] * noise
        v = self.pipe.transformer(
            hidden_states=x_t,
            timestep=t,
            encoder_hidden_states=words,
            pooled_projections=pooled,
            txt_ids=torch.zeros(words.shape[1], 3),
            img_ids=self.pipe._prepare_latent_image_ids(count, side, side, "cpu", torch.float32),
        ).sample
        return (v.float() - (noise - x0)).square().mean()

    def encode(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = self.pipe.tokenizer(prompts, padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt").input_ids
        return self.pipe.text_encoder_2(ids)[0], self.pipe.text_encoder(ids).pooler_output

    def train_step(self, stage: Stage, step_in_stage: int) -> float:
        pixels, count = stage.sizes[step_in_stage % len(stage.sizes)]
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.loss(pixels, count)
        loss.backward()
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
        return loss.item()

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


def _run_rank(rank: int, work: Path, seed: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    trainer = Trainer(seed, rank)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        trainer.resume(checkpoint)
    total = sum(stage.steps for stage in STAGES)
    bar = tqdm(total=total, initial=trainer.step, disable=rank != 0, mininterval=10, unit="step")
    smooth, started = None, time.monotonic()
    first = 0
    for stage in STAGES:
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


@click.group()
def main() -> None:
    """Train the bundled models from nothing."""


@main.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("demo-work/image"), help="Checkpoints; a rerun resumes here.")
@click.option("--output", "-o", type=click.Path(path_type=Path), default=None, help="Model directory to write [default: the bundled one].")
@click.option("--seed", default=0)
@click.option("--port", default=29561, help="Loopback port on which the two processes meet.")
def image(work: Path, output: Path | None, seed: int, port: int) -> None:
    """The image model: FluxPipeline, 64x64 px, 256 tokens, fine-tuned at 128x128 px."""
    from .export import export_image

    work.mkdir(parents=True, exist_ok=True)
    mp.spawn(_run_rank, (work, seed, port), nprocs=RANKS)
    print("Wrote", export_image(work / "checkpoint.pt", output))


if __name__ == "__main__":
    main()
