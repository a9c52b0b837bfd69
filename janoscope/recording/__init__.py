"""Second in the flow: takes arrays, gives `run.h5` and a lazy, validated `Recording` of it.

It is the only package that knows HDF5. It must not know torch, pipelines, or what becomes of the numbers.
"""

from .diff import FieldDiff, RecordingDiff, SignalDiff, diff
from .export import export
from .layout import TapAxes, generation_path, partial_path
from .reading.reader import RecordedStep, Recording, open_recording
from .writing.destination import prepare_destination
from .writing.writer import Recorder, RecorderOptions

__all__ = [
    "FieldDiff",
    "RecordedStep",
    "Recorder",
    "RecorderOptions",
    "Recording",
    "RecordingDiff",
    "SignalDiff",
    "TapAxes",
    "diff",
    "export",
    "generation_path",
    "open_recording",
    "partial_path",
    "prepare_destination",
]
