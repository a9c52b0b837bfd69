"""How a recording prints itself."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .reader import Recording


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
