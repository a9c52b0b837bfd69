"""What a calibration is to reach, a compute, a speedup or a PSNR, and how much it may spend on that."""

from dataclasses import dataclass
from typing import Literal

from ...errors import InputError
from .search import Band

COMPUTE_TOLERANCE = 0.03  # a policy for compute 0.5 computes 0.47 to 0.53
AROUND = 0.12  # on both sides of the target, where the search distinguishes costs
FIT_SHARE = 0.4  # of the prompts; the others are held out, since the prediction interval stands on them
CANDIDATES = 4  # validated on every held-out prompt
TRIALS = 3000  # policies scored on recordings
FIT_RUNS = 24  # under a policy, for the surrogate
VALIDATION_SHARE = 0.6  # of what is left after the full runs
Kind = Literal["compute", "speedup", "psnr", "pareto"]


@dataclass(frozen=True)
class Target:
    """The target that the policy has to meet. value: a fraction of FLOPs, a factor of wall time, dB; unused for `pareto`."""

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


@dataclass(frozen=True)
class Budget:
    """fit, held_out: prompts (a full run each). candidates: validated on every held-out prompt. fit_runs: under a policy."""

    fit: int
    held_out: int
    candidates: int
    fit_runs: int

    @property
    def runs(self) -> int:
        return self.fit + self.held_out * (1 + self.candidates) + self.fit_runs

    @classmethod
    def of(cls, prompts: int, max_runs: int | None, most_candidates: int = CANDIDATES) -> "Budget":
        """Two in five prompts are recorded and fitted on; the others are held out.

        Raises InputError for fewer than two prompts, and for too few runs for one candidate.
        """
        if prompts < 2:
            raise InputError(f"{prompts} prompt cannot be both fitted on and held out; give two prompts or more (16 are better).")
        fit = max(1, round(FIT_SHARE * prompts))
        held_out = prompts - fit
        if max_runs is None:
            return cls(fit, held_out, most_candidates, FIT_RUNS)
        left = max_runs - prompts
        if left < held_out:
            raise InputError(
                f"--max-runs {max_runs} is too few for {prompts} prompts: {prompts} full runs and one candidate on {held_out} "
                f"held-out prompts take {prompts + held_out}. Give more runs or fewer prompts."
            )
        candidates = min(most_candidates, max(1, int(VALIDATION_SHARE * left / held_out)))
        return cls(fit, held_out, candidates, min(FIT_RUNS, left - candidates * held_out))


@dataclass(frozen=True)
class Effort:
    """How much is spent.

    max_runs: generations in all, None for the usual number. candidates: policies validated on every held-out prompt. trials:
    policies scored on recordings. seed: of the search, of what is drawn, and of the first prompt's generation; the others count
    up. ray: address of a cluster.
    """

    max_runs: int | None = None
    candidates: int = CANDIDATES
    trials: int = TRIALS
    seed: int = 0
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"--trials {self.trials} searches nothing; give 1 or more.")
