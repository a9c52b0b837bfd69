"""Write a trained checkpoint as a diffusers model directory, half precision, with its default call."""

import json
import shutil
from pathlib import Path

import torch

from .pipeline import image_pipeline

MODELS = Path(__file__).parent / "models"


def export_image(checkpoint: Path, output: Path | None = None) -> Path:
    """The averaged weights of `checkpoint` as a model directory; its hand-written files (call, README) are kept."""
    directory = output or MODELS / "image"
    state = torch.load(checkpoint, weights_only=True)
    pipe = image_pipeline()
    for name in ("transformer", "text_encoder", "text_encoder_2"):
        prefix = name + "."
        module = getattr(pipe, name)
        weights = {k.removeprefix(prefix): v for k, v in state["ema"].items() if k.startswith(prefix)}
        missing, unexpected = module.load_state_dict(weights, strict=False)
        learned = [key for key in missing if key in dict(module.named_parameters())]
        assert not unexpected and not learned, (name, learned, unexpected)
        module.half()
    pipe.save_pretrained(directory)
    _name_vae_module(directory)
    shutil.copy(checkpoint.with_name("loss.json"), directory / "loss.json")
    return directory


def _name_vae_module(directory: Path) -> None:
    # diffusers writes only the top package of a foreign class; loading needs the module that holds it
    index = directory / "model_index.json"
    content = json.loads(index.read_text())
    content["vae"] = ["janoscope.demo.vae", "PixelShuffleVAE"]
    index.write_text(json.dumps(content, indent=2) + "\n")


