"""How a recording prints itself."""

from typing import Any, TypedDict

from ...grid import GridJson
from ..provenance import UNKNOWN
from .stored import StoredRecording

SCHEMA = "janoscope-recording-summary/1"
WIDEST = 110  # characters of a provenance section


class SignalSummary(TypedDict):
    """Sizes, dtypes and counts of one signal."""

    tokens: int
    channels: int
    dtype: str
    source_dtype: str
    nonfinite: int
    nonfinite_created: int
    storage_loss: float
    maps: int


class RecordingSummary(TypedDict):
    """What `inspect --json` prints."""

    schema: str
    path: str
    file_bytes: int
    created: str
    complete: bool
    end_reason: str
    steps: int
    planned_steps: int | None
    items: int
    branches: list[str]
    grid: GridJson
    prediction_type: str
    skipped_share: float | None
    signals: dict[str, SignalSummary]
    provenance: dict[str, dict[str, Any]]


def summary(recording: StoredRecording) -> RecordingSummary:
    """The same as JSON data, with sizes in bytes and counts that `describe` leaves out."""
    signals: dict[str, SignalSummary] = {}
    for name in recording.signals:
        spec = recording.spec(name)
        signals[name] = {
            "tokens": spec.tokens,
            "channels": spec.channels,
            "dtype": spec.stored,
            "source_dtype": spec.source,
            "nonfinite": recording.nonfinite(name),
            "nonfinite_created": recording.nonfinite_created(name),
            "storage_loss": recording.storage_loss(name),
            "maps": int(recording.present(name).sum()),
        }
    skipped = recording.skipped
    return {
        "schema": SCHEMA,
        "path": recording.path.name,
        "file_bytes": recording.path.stat().st_size,
        "created": recording.created,
        "complete": recording.complete,
        "end_reason": recording.end_reason,
        "steps": recording.steps,
        "planned_steps": recording.planned_steps,
        "items": recording.items,
        "branches": list(recording.branches),
        "grid": recording.grid.to_json(),
        "prediction_type": recording.prediction_type,
        "skipped_share": None if skipped is None else float(skipped.mean()),
        "signals": signals,
        "provenance": {section: dict(fields) for section, fields in recording.provenance.items()},
    }


def describe(recording: StoredRecording) -> str:
    """Dims, sizes and provenance in a few lines."""
    planned = f" of {recording.planned_steps}" if recording.planned_steps else ""
    state = "complete" if recording.complete else f"NOT complete: {recording.end_reason}"
    frames, rows, cols = recording.grid.tokens
    lines = [
        f"<janoscope.Recording {recording.path.name}> {state}",
        f"  steps {recording.steps}{planned}, items {recording.items}, branches {', '.join(recording.branches)}",
        f"  tokens {recording.tokens} = {frames} x {rows} x {cols} (frame, row, col), {recording.token_channels} channels each "
        f"(latent {recording.channels} x {recording.grid.cells}, patch {recording.grid.patch})",
        f"  prediction_type {recording.prediction_type}",
        "Signals:",
    ]
    for name in recording.signals:
        spec = recording.spec(name)
        dims = ("step", "item", "branch") if spec.branched else ("step", "item")
        sizes = (recording.steps, *spec.lead(recording.items, len(recording.branches)), spec.tokens, spec.channels)
        was = f" (source {spec.source})" if spec.cast else ""
        axes = ", ".join(f"{dim}: {size}" for dim, size in zip((*dims, "token", "channel"), sizes, strict=True))
        lines.append(f"  {name}  ({axes})  {spec.stored}{was}")
    if recording.skipped is not None:
        lines.append(
            f"An accelerated run: {recording.skipped.mean():.1%} of the tokens were not computed at their step (`skipped`)."
        )
    lines.append("Provenance:")
    for section, fields in recording.provenance.items():
        text = ", ".join(f"{key}={value!r}" for key, value in fields.items() if value != UNKNOWN)
        if text:
            lines.append(f"  {section}: {text if len(text) <= WIDEST else text[: WIDEST - 3] + '...'}")
    return "\n".join(lines)
