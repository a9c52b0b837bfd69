"""First in the flow: reads a live diffusers pipeline through a probe sheet, gives arrays per step.

Arrays are (token, channel), named by signal, step, item and branch, pushed into a `Sink`. Knows nothing of HDF5 or analysis.
"""

from .attachments import Attachment, AttachmentKind, attachments_of, unwrapped
from .capture import Capture
from .identity import describe_scheduler, describe_transformer
from .sink import Generation, Sink, StepFacts, TapSize
from .taps import Tap, parse_tap
from .watch import Watch

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
