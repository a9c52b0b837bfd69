"""What a calibration is to reach: a compute or a PSNR."""

from dataclasses import dataclass
from typing import Literal

from ...errors import InputError
from .search import Band

COMPUTE_TOLERANCE = 0.03  # a policy for compute 0.5 computes 0.47 to 0.53
AROUND = 0.12  # on both sides of the target, where the search tells costs apart
Kind = Literal["compute", "speedup", "psnr", "pareto"]


@dataclass(frozen=True)
class Target:
    """What the policy is for. value: a fraction of FLOPs, a factor of wall time, dB; unused for `pareto`."""

    kind: Kind
    value: float = 0.0

    def __post_init__(self) -> None:
        legal = {"compute": 0 < self.value < 1, "speedup": self.value > 1, "psnr": self.value > 0, "pareto": True}
        if not legal[self.kind]:
            ranges = {"compute": "between 0 and 1", "speedup": "above 1", "psnr": "above 0 dB"}
            raise InputError(f"--target-{self.kind} {self.value:g} is out of range; give a number {ranges[self.kind]}.")

    def __str__(self) -> str:
        words = {"compute": f"compute {self.value:g}", "speedup": f"speedup {self.value:g}x", "psnr": f"PSNR {self.value:g} dB"}
        return words.get(self.kind, "the whole front")

    @property
    def band(self) -> Band:
        if self.kind == "compute":
            return Band("compute", max(0.0, self.value - AROUND), min(1.0, self.value + AROUND))
        if self.kind == "speedup":
            return Band("time", max(0.0, 1 / self.value - AROUND), min(1.0, 1 / self.value + AROUND))
        return Band("compute", 0.2, 0.95)
