"""A made-up comparison on disk: its file and its images."""

import json

import numpy as np
from PIL import Image

LABELS = ("full", "jano", "uniform:k=2", "uniform:k=3", "uniform:k=9")
FIGURES = {"jano": (0.5, 40.0), "uniform:k=2": (0.6, 42.0), "uniform:k=3": (0.4, 31.0), "uniform:k=9": (0.5, 20.0)}


def row(label):
    compute, psnr = FIGURES.get(label, (1.0, None))
    figures = {"compute": compute, "speedup": 1.5, "psnr": psnr, "ssim": 0.9, "ms_ssim": None, "lpips": None, "wall_s": 1.0}
    run = {"prompt": "a cat", "seed": 0, "cache_bytes": 2**20, "peak_bytes": None, "identical": label == "uniform:k=2", **figures}
    return {
        "label": label,
        "method": label.partition(":")[0],
        "options": {},
        "front": label.partition(":")[0],
        "on_front": label != "uniform:k=9",
        "runs": [run],
        "mean": {**figures, "efficiency": 0.75, "cpu_s": 1.0},
        "interval": {"psnr": None if psnr is None else [psnr - 1, psnr + 1]},
        "note": "",
    }


def write(folder, frames=1, size=24, complete=True):
    """A comparison with pictures; the second method differs from the full run in one corner."""
    failed = {**row("dbcache"), "runs": [], "note": "failed: InputError: DBCache needs the optional package", "on_front": False}
    failed["mean"] = dict.fromkeys(failed["mean"])
    pair = {"first": "jano", "second": "uniform:k=2", "measure": "psnr", "value": -2.0, "low": -3.0, "high": -1.0, "runs": 1}
    (folder / "pictures").mkdir()
    names = {}
    for at, label in enumerate(LABELS):
        picture = np.full((frames, size, size, 3), 100, np.uint8)
        picture += np.arange(frames, dtype=np.uint8)[:, None, None, None]
        picture[:, :4, :4] += np.uint8(20 * at)
        names[label] = f"pictures/{at:02d}.png"
        images = [Image.fromarray(frame) for frame in picture]
        images[0].save(folder / names[label], save_all=frames > 1, append_images=images[1:], duration=125)
    facts = {
        "schema": "janoscope-comparison/1",
        "model": "demo",
        "device": "cpu (1 threads)",
        "dtype": "float32",
        "steps": 50,
        "complete": complete,
        "missing": {"lpips": "its weights could not be loaded"},
        "rows": [*(row(label) for label in LABELS), failed],
        "paired": [pair, {**pair, "first": "full", "second": "jano", "value": 5.0, "low": 4.0, "high": 7.0}],
        "equal_compute": [{"row": "jano", "against": "uniform", "measure": "psnr", "value": 3.5, "low": 3, "high": 4, "runs": 1}],
        "pictures": names,
    }
    (folder / "comparison.json").write_text(json.dumps(facts))
    return folder
