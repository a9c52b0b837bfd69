"""Between devices: what is computed where it lies, and what comes to the host.

A tensor on the CPU is read as the NumPy array that shares its memory, so a plan made from a recording and one made in the middle
of a generation are the same bits. A tensor on an accelerator stays there, without synchronising, until a small map comes back.
"""

import numpy as np
from array_api_compat import is_torch_array, to_device

from ..array_api import Operand


def as_numpy_on_cpu(array: Operand) -> Operand:
    """A CPU tensor as NumPy without a copy (16-bit floats are widened to float32 first); anything else as it is."""
    if not is_torch_array(array):
        return array
    array = array.detach()
    if array.device.type != "cpu":
        return array
    return np.asarray(array.float() if array.itemsize < 4 else array)


def to_host(array: Operand) -> np.ndarray:
    """Any array as NumPy on the host, at least 32 bits wide; waits for the device."""
    if is_torch_array(array):
        array = as_numpy_on_cpu(to_device(array.detach(), "cpu"))
    host = np.asarray(array)
    return host.astype(np.float32) if host.dtype == np.float16 else host
