"""Gallery reports: every call in full and accelerated, images side by side."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ...pipeline.prompts import Prompt
from ...report.comparison.figures import strip
from ...report.drawing.error_scale import error_map
from ...report.drawing.style import ERROR_CMAP, MUTED
from ...report.page import number
from ...results.files import read_json
from ...results.images import read_image, save_frames
from ...results.writing import write_json
from ...workflows.apply.session import apply_model
from ..page import Figures, Section, SubjectResults, share, table, value
from ..provenance import AGAIN, Extra
from ..recipe import Recipe
from ..task import Task

PANEL_IN = 1.35
PER_FIGURE = 5


FILE = "gallery.json"
SCHEMA = "janoscope-gallery/1"


class Pair(TypedDict, total=False):
    """File names of a call's two images; one that could not be decoded is absent."""

    full: str
    accelerated: str


class RunFacts(TypedDict):
    """A call, accelerated against its full run. compute: fraction of FLOPs; psnr in dB, null where it is not defined."""

    prompt: str
    seed: int
    pictures: Pair
    compute: float | None
    psnr: float | None
    ssim: float | None


class GalleryFacts(TypedDict):
    """gallery.json."""

    schema: str
    policy: str
    runs: list[RunFacts]


def make(task: Task) -> Extra:
    """gallery.json, and for every call its two images (videos as animated PNG)."""
    policy, runs = task.policy(), list[dict[str, object]]()
    for index, call in enumerate(task.calls):
        applied = apply_model(task.model, call, policy=policy, reference=True)
        stem, images = Prompt(index, call.prompt).stem, {}
        for name, generated in (("full", applied.reference), ("accelerated", applied.generated)):
            if generated is not None and generated.frames is not None:
                images[name] = save_frames(generated.frames, task.folder / f"{stem}-{name}.png").name
        figures = {key: figure for key, figure in applied.to_json().items() if key not in ("schema", "account")}
        runs.append({"prompt": call.prompt, "seed": call.seed, "pictures": images, **figures})
        task.on_step(index + 1, len(task.calls))
    write_json(task.folder / FILE, {"schema": SCHEMA, "policy": policy.name, "runs": runs})
    return {"policy": policy.name}


def draw(recipe: Recipe, results: SubjectResults, figures: Figures) -> Section:
    """Images five prompts a figure; of a video the first, middle and last frame. Raises InputError for damaged results."""
    facts: GalleryFacts = read_json(results.folder / FILE, GalleryFacts, "gallery", AGAIN, schema=SCHEMA)
    runs, blocks = facts["runs"], []
    for first in range(0, len(runs), PER_FIGURE):
        group = runs[first : first + PER_FIGURE]
        pairs = [[_image(results, run["pictures"][name]) for name in ("full", "accelerated")] for run in group]
        figure = gallery_figure([run["prompt"] for run in group], pairs)
        alt = "Full run above, accelerated below, difference at the foot: " + "; ".join(run["prompt"] for run in group)
        blocks.append(figures.png(figure, f"{results.name}-{first // PER_FIGURE}", alt))
    rows = [
        [run["prompt"], str(run["seed"]), value(run["compute"], ".3f"), value(run["psnr"]), value(run["ssim"], ".4f")]
        for run in runs
    ]
    blocks += [f"Policy `{facts['policy']}`:", table(("prompt", "seed", "compute", "PSNR (dB)", "SSIM"), rows)]
    return Section(_result(runs), blocks)


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


def _image(results: SubjectResults, name: str) -> np.ndarray:
    """uint8 (frame, row, col, 3)."""
    image = read_image(results.folder / name.rsplit("/", 1)[-1])
    assert image is not None  # saved as PNG, which every installation reads
    return image


def _result(runs: Sequence[RunFacts]) -> str:
    measured = [(run["psnr"], run["ssim"], run["compute"]) for run in runs if number(run["psnr"]) is not None]
    if not measured:
        return ""
    (low, high), (least, most), (cheap, dear) = (_ends(column) for column in zip(*measured, strict=True))
    return f"PSNR {low:.1f} to {high:.1f} dB, SSIM {least:.3f} to {most:.3f} at {100 * cheap:.0f} to {share(dear)}."


def _ends(values: Sequence[float | None]) -> tuple[float, float]:
    finite = [figure for value in values if (figure := number(value)) is not None]
    return min(finite), max(finite)
