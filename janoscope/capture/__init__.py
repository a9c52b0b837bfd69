"""First in the flow: reads a live diffusers pipeline through a probe sheet, gives arrays per step.

Arrays are (token, channel), named by signal, step, item and branch, pushed into a `Sink`. Knows nothing of HDF5 or analysis.
"""

from .capture import Capture, Generation, Sink, StepFacts
from .identity import describe_scheduler, describe_transformer
from .watch import Watch

__all__ = ["Capture", "Generation", "Sink", "StepFacts", "Watch", "describe_scheduler", "describe_transformer"]
