"""Gallery reports: every call in full and accelerated, the pictures kept side by side."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ...errors import InputError
from ...pipeline.prompts import Prompt
from ...report.comparison.figures import strip
from ...report.drawing.error_scale import error_map
from ...report.drawing.style import ERROR_CMAP, MUTED
from ...report.page import number
from ...results.images import read_image, save_frames
from ...results.writing import write_json
from ...workflows.apply.session import apply_model
from ..page import Figures, Section, Shown, table, value
from ..recipe import Recipe
from ..task import Made, Task

PANEL_IN = 1.35
PER_FIGURE = 5


SCHEMA = "janoscope-gallery/1"


def make(task: Task) -> Made:
    """gallery.json, and for every call its two pictures (clips as animated PNG)."""
    policy, runs = task.policy(), []
    for index, call in enumerate(task.calls):
        applied = apply_model(task.model, call, policy=policy, reference=True)
        stem, pictures = Prompt(index, call.prompt).stem, {}
        for name, generated in (("full", applied.reference), ("accelerated", applied.generated)):
            if generated is not None and generated.frames is not None:
                pictures[name] = save_frames(generated.frames, task.folder / f"{stem}-{name}.png").name
        told = {key: value for key, value in applied.to_json().items() if key not in ("schema", "account")}
        runs.append({"prompt": call.prompt, "seed": call.seed, "pictures": pictures, **told})
        task.on_step(index + 1, len(task.calls))
    write_json(task.folder / "gallery.json", {"schema": SCHEMA, "policy": policy.name, "runs": runs})
    return {"policy": policy.name}


def draw(recipe: Recipe, shown: Shown, figures: Figures) -> Section:
    """Pictures five prompts a figure; clips one a figure, as first, middle and last frame."""
    path = shown.folder / "gallery.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        runs = facts["runs"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}. Make the results again with --remake.") from error
    blocks = []
    for first in range(0, len(runs), PER_FIGURE):
        group = runs[first : first + PER_FIGURE]
        pairs = [tuple(_picture(shown, run, name) for name in ("full", "accelerated")) for run in group]
        figure = gallery_figure([run["prompt"] for run in group], pairs)
        alt = "Full run above, accelerated below, difference at the foot: " + "; ".join(run["prompt"] for run in group)
        blocks.append(figures.png(figure, f"{shown.name}-{first // PER_FIGURE}", alt))
    rows = [
        [run["prompt"], str(run["seed"]), value(run["compute"], ".3f"), value(run["psnr"]), value(run["ssim"], ".4f")]
        for run in runs
    ]
    blocks += [f"Policy `{facts['policy']}`:", table(("prompt", "seed", "compute", "PSNR (dB)", "SSIM"), rows)]
    return Section(_found(runs), blocks)


def gallery_figure(prompts: Sequence[str], pairs: Sequence[Sequence[np.ndarray]]) -> Figure:
    """A column a prompt; pairs: (full, accelerated), each uint8 (frame, row, col, 3)."""
    strips = [(strip(full), strip(fast)) for full, fast in pairs]
    errors = [error_map(full[None], fast[None])[0] for full, fast in strips]
    most = max(float(error.max()) for error in errors) or 1.0
    rows, cols = strips[0][0].shape[:2]
    width = PANEL_IN * cols / rows
    figure = Figure(figsize=(len(pairs) * width, 3 * PANEL_IN + 0.7), layout="constrained")
    axes = figure.subplots(3, len(pairs), squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    for at, ((full, fast), error) in enumerate(zip(strips, errors, strict=True)):
        axes[0, at].imshow(full)
        axes[0, at].set_title(prompts[at] if len(prompts[at]) < 30 else prompts[at][:28] + "…", fontsize=5.5)
        axes[1, at].imshow(fast)
        # square root: small errors are seen beside large ones on one scale
        image = axes[2, at].imshow(error, cmap=ERROR_CMAP, norm=PowerNorm(0.5, 0, most))
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", fraction=0.03, aspect=60)
    bar.set_label("mean absolute difference to the full run (0..255)", color=MUTED)
    return figure


def _picture(shown: Shown, run: Mapping[str, Any], name: str) -> np.ndarray:
    found = read_image(shown.folder / str(run["pictures"][name]).rsplit("/", 1)[-1])
    assert found is not None  # saved as PNG, which every installation reads
    return found


def _found(runs: Sequence[Mapping[str, Any]]) -> str:
    known = [run for run in runs if number(run["psnr"]) is not None]
    if not known:
        return ""
    values = [(min(run[name] for run in known), max(run[name] for run in known)) for name in ("psnr", "ssim", "compute")]
    (low, high), (least, most), (cheap, dear) = values
    return f"PSNR {low:.1f} to {high:.1f} dB, SSIM {least:.3f} to {most:.3f} at compute {cheap:.2f} to {dear:.2f}."
