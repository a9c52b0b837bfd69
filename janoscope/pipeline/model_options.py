"""How a model is loaded, as the user says it and recipes keep it. Knows neither torch nor diffusers."""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

from ..probe import Probe

ProbeSource = Probe | str | Path  # a probe, or the path of its file


@dataclass(frozen=True)
class ModelOptions:
    """How a model is loaded; None leaves the default.

    Args:
        device: torch device; the first CUDA device where there is one, else the CPU.
        dtype: float32, float16 or bfloat16; float32 on the CPU, else the dtype of the stored weights.
        revision: of a hub model, a branch, tag or commit.
        variant: of the weight files, for example fp16.
        scheduler: class name of another diffusers scheduler, built from the pipeline's scheduler config.
        probe: a probe, or the path of its file, instead of the bundled ones.
    """

    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    variant: str | None = None
    scheduler: str | None = None
    probe: ProbeSource | None = None

    def to_json(self, name: str) -> dict[str, object]:
        """As recipes of runs keep it, with the MODEL that was named; a probe that is no file by its content."""
        facts: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.probe, Probe):
            facts["probe"] = f"{self.probe.family} {hashlib.sha256(repr(self.probe).encode()).hexdigest()[:16]}"
        return facts | {"name": name}
