"""How a recording prints itself."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .reader import Recording


def summary(recording: "Recording") -> dict[str, Any]:
    """The same as JSON data, with sizes in bytes and counts that `describe` leaves out."""
    signals = {}
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
        "schema": "janoscope-recording-summary/1",
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


def describe(recording: "Recording") -> str:
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
        known = {key: value for key, value in fields.items() if value != "unknown"}
        if known:
            text = ", ".join(f"{key}={value!r}" for key, value in known.items())
            lines.append(f"  {section}: {text if len(text) <= 110 else text[:107] + '...'}")
    return "\n".join(lines)
