"""What differs between two recordings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import layout
from .layout import GUIDED
from .reading.reader import Recording, open_recording


@dataclass(frozen=True)
class SignalDiff:
    """max_abs: float64 (step,), over items, branches, tokens and channels; inf where one side is not finite and the other is.

    first_step: int64 (token,), the step at which a token first differs, -1 if it never does.
    """

    signal: str
    max_abs: np.ndarray
    first_step: np.ndarray

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps at which anything differs."""
        return tuple(int(step) for step in np.flatnonzero(self.max_abs))

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens that differ anywhere."""
        return tuple(int(token) for token in np.flatnonzero(self.first_step >= 0))


@dataclass(frozen=True)
class FieldDiff:
    """One provenance field, root fact or schedule that differs."""

    field: str
    a: object
    b: object


@dataclass(frozen=True)
class RecordingDiff:
    """What differs between recordings a and b; `structure` holds sizes and schedules.

    Different items, branches or grid leave nothing else to compare; other schedules or lengths do.
    """

    a: Path
    b: Path
    structure: tuple[FieldDiff, ...]
    signals: tuple[SignalDiff, ...]
    provenance: tuple[FieldDiff, ...]

    @property
    def same_values(self) -> bool:
        """Whether every recorded value agrees, whatever the provenance says."""
        return not self.structure and not any(signal.steps for signal in self.signals)

    @property
    def identical(self) -> bool:
        return self.same_values and not self.provenance

    def __str__(self) -> str:
        lines = [f"{self.a.name} and {self.b.name}: " + ("identical" if self.identical else "they differ")]
        lines += [f"  {d.field}: {d.a!r} | {d.b!r}" for d in (*self.structure, *self.provenance)]
        for d in self.signals:
            if d.steps:
                lines.append(
                    f"  {d.signal}: from step {d.steps[0]}, {len(d.steps)} of {d.max_abs.size} steps, "
                    f"{len(d.tokens)} of {d.first_step.size} tokens, largest difference {d.max_abs.max():.6g}"
                )
            else:
                lines.append(f"  {d.signal}: the same")
        return "\n".join(lines)


def diff(a: Path | str, b: Path | str, *, partial: bool = False) -> RecordingDiff:
    """Compare two recordings value by value (NaN equals NaN), step by step, and their provenance field by field.

    Recordings of different length are compared over the steps both have, and the lengths reported.

    Args:
        a, b: paths of the recordings. partial: accept recordings that did not finish.

    Raises:
        RecordingError: one of them cannot be trusted.
    """
    with open_recording(a, partial=partial) as left, open_recording(b, partial=partial) as right:
        structure = _structure(left, right)
        comparable = not {difference.field for difference in structure} & {"items", "branches", "grid"}
        common = [name for name in left.signals if name in right.signals] if comparable else []
        signals = tuple(_signal(left, right, name) for name in common if _sizes(left, name) == _sizes(right, name))
        return RecordingDiff(left.path, right.path, structure, signals, _provenance(left, right))


def _sizes(recording: Recording, name: str) -> tuple[int, int]:
    return recording.spec(name).tokens, recording.spec(name).channels


def _structure(left: Recording, right: Recording) -> tuple[FieldDiff, ...]:
    differences = []
    for name in ("steps", "items", "branches", "grid", "prediction_type", "signals"):
        a, b = getattr(left, name), getattr(right, name)
        if a != b:
            differences.append(FieldDiff(name, a, b))
    for name in set(left.signals) & set(right.signals):
        if _sizes(left, name) != _sizes(right, name) and name not in layout.CORE_SIGNALS:
            differences.append(FieldDiff(name, _sizes(left, name), _sizes(right, name)))
    steps = min(left.steps, right.steps)
    for name in ("timestep", "alpha", "sigma"):
        a, b = getattr(left, name)[:steps], getattr(right, name)[:steps]
        if not np.array_equal(a, b, equal_nan=True):
            step = int(np.flatnonzero(~((a == b) | (np.isnan(a) & np.isnan(b))))[0])
            differences.append(FieldDiff(f"{name} from step {step}", float(a[step]), float(b[step])))
    return tuple(differences)


def _signal(left: Recording, right: Recording, name: str) -> SignalDiff:
    steps = min(left.steps, right.steps)
    max_abs, first = np.zeros(steps), np.full(left.spec(name).tokens, -1, np.int64)
    for step in range(steps):
        for item in range(left.items):
            for branch in left.branches if left.spec(name).branched else (GUIDED,):
                gap = _gap(left.map(name, step, item, branch), right.map(name, step, item, branch))  # (token,)
                first[(gap > 0) & (first < 0)] = step
                max_abs[step] = max(max_abs[step], gap.max())
    return SignalDiff(name, max_abs, first)


def _gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Largest absolute difference of each token, (token,) in float64."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.abs(a.astype(np.float64) - b.astype(np.float64))
    gap[~np.isfinite(gap)] = np.inf
    return np.where(same, 0.0, gap).max(axis=1)


def _provenance(left: Recording, right: Recording) -> tuple[FieldDiff, ...]:
    differences = []
    for section in layout.SECTIONS:
        a, b = left.provenance[section], right.provenance[section]
        differences += [FieldDiff(f"{section}.{field}", a[field], b[field]) for field in sorted({*a, *b}) if a[field] != b[field]]
    return tuple(differences)
