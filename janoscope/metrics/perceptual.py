"""LPIPS, where the optional package and its weights are at hand."""

from collections.abc import Callable

import numpy as np

from ..errors import InputError
from .pixels import Image, mean_over_frames

Lpips = Callable[[Image, Image], float]


def load_lpips() -> Lpips:
    """A measure (reference, other) -> LPIPS, 0 identical: AlexNet, version 0.1, inputs scaled to [-1, 1], mean over frames.

    Loads the network once, on the CPU; keep the returned function. Raises InputError with the reason where the package or its
    weights are missing.
    """
    try:
        import lpips
        import torch

        network = lpips.LPIPS(net="alex", version="0.1", verbose=False).eval()
    except ImportError as error:
        raise InputError(f"LPIPS needs the optional package lpips ({error}); pip install 'janoscope[lpips]'.") from error
    except OSError as error:  # includes URLError: the AlexNet weights are fetched on first use
        raise InputError(f"LPIPS cannot load its AlexNet weights ({error}); connect once, or leave it out.") from error

    def measure(a: np.ndarray, b: np.ndarray) -> float:
        with torch.no_grad():
            first, second = (torch.from_numpy(x.transpose(2, 0, 1)[None] * 2 - 1).float() for x in (a, b))
            return float(network(first, second))

    return lambda reference, other: mean_over_frames(measure, reference, other)
