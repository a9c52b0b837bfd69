"""Write a trained checkpoint as a diffusers model directory: weights, held-out data, training record, README."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import torch

from .card import draw_loss_curve, draw_samples, write_readme
from .held_out import draw_held_out, held_out_loss
from .recipes import RECIPES, Pipeline, Recipe

MODELS = Path(__file__).parents[1] / "models"


def trained_pipeline(recipe: Recipe, checkpoint: Path) -> Pipeline:
    """The recipe's pipeline with the checkpoint's averaged weights, single precision."""
    averaged = torch.load(checkpoint, weights_only=True)["ema"]
    pipe = recipe.build()
    for name in recipe.trained:
        module = getattr(pipe, name)
        weights = {key.removeprefix(name + "."): value for key, value in averaged.items() if key.startswith(name + ".")}
        missing, unexpected = module.load_state_dict(weights, strict=False)
        learned = [key for key in missing if key in dict(module.named_parameters())]
        assert not unexpected, (name, unexpected)
        assert not learned, (name, learned)
        module.eval()
    return pipe


def default_call(model: str) -> dict[str, Any]:
    """The `[call]` table of the model's janoscope.toml: keyword arguments of the pipeline."""
    return tomllib.loads((MODELS / model / "janoscope.toml").read_text())["call"]


def export_model(model: str, checkpoint: Path, output: Path | None = None) -> Path:
    """Export `checkpoint`; a janoscope.toml of the bundled directory is copied along when `output` is another one."""
    directory, recipe = output or MODELS / model, RECIPES[model]()
    directory.mkdir(parents=True, exist_ok=True)
    pipe = trained_pipeline(recipe, checkpoint)
    # the text encoders stay single precision: LattePipeline gives its latents the text's dtype
    pipe.transformer.half()
    pipe.save_pretrained(directory)
    _name_vae(directory, type(pipe.vae).__name__)
    pipe.transformer.float()
    if directory != MODELS / model:
        shutil.copy(MODELS / model / "janoscope.toml", directory)
    shutil.copy(checkpoint.with_name("loss.json"), directory)
    draw_held_out(recipe, directory / "held_out.npz")
    loss = held_out_loss(recipe, pipe, directory / "held_out.npz")
    (directory / "held_out.json").write_text(json.dumps({"loss": round(loss, 6)}) + "\n")
    draw_loss_curve(directory)
    draw_samples(pipe, default_call(model), model, directory)
    write_readme(model, recipe, pipe, directory)
    return directory


def _name_vae(directory: Path, name: str) -> None:
    # by the package, not the module: diffusers resolves it on a package that is imported, and `import janoscope` is enough
    index = directory / "model_index.json"
    content = json.loads(index.read_text())
    content["vae"] = ["janoscope", name]
    index.write_text(json.dumps(content, indent=2) + "\n")
