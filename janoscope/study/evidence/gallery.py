"""Gallery reports: every call in full and accelerated, the pictures kept side by side."""

from ...results.writing import write_json
from ..apply import apply_model
from ..generate import save_frames
from ..prompts import Prompt
from .task import Made, Task

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
