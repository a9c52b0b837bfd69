"""First in the flow: reads a live diffusers pipeline through a probe, gives arrays per step.

Arrays are (token, channel), named by signal, step, item and branch, pushed into a `Sink`. Knows nothing of HDF5 or analysis.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attachments import Attachment, AttachmentKind, attachments_of, unwrapped
    from .capture import Capture
    from .describe import describe_scheduler, describe_transformer
    from .sink import Generation, Sink, StepFacts, TapSize
    from .taps import Tap, parse_tap
    from .watch import Watch

# loaded when asked for: what needs no torch, as an analysis, does not wait for it
_HOMES = {
    "Attachment": "attachments",
    "AttachmentKind": "attachments",
    "Capture": "capture",
    "Generation": "sink",
    "Sink": "sink",
    "StepFacts": "sink",
    "Tap": "taps",
    "TapSize": "sink",
    "Watch": "watch",
    "attachments_of": "attachments",
    "describe_scheduler": "describe",
    "describe_transformer": "describe",
    "parse_tap": "taps",
    "unwrapped": "attachments",
}

__all__ = [
    "Attachment",
    "AttachmentKind",
    "Capture",
    "Generation",
    "Sink",
    "StepFacts",
    "Tap",
    "TapSize",
    "Watch",
    "attachments_of",
    "describe_scheduler",
    "describe_transformer",
    "parse_tap",
    "unwrapped",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
