"""Rebuild the inputs of the `jano_*` golden files from their seeds; the recipe is the one they were made with."""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"


def jano_signals(golden):
    """(signal, channel, frame, row, col) float32: still background, a textured ring that emerges and moves, fading noise."""
    p = json.loads(str(golden["params"]))
    c, t, h, w, k = (p[name] for name in "CTHWK")
    rng = np.random.default_rng(p["seed"])
    phase, shift = rng.uniform(0, 2 * np.pi, (c, 2)), rng.uniform(0, 2 * np.pi)
    texture, noise = rng.standard_normal((c, h, w)), rng.standard_normal((k, c, t, h, w))
    y, x = ((np.arange(h) + 0.5) / h)[:, None], ((np.arange(w) + 0.5) / w)[None, :]
    ground = np.sin(2 * np.pi * y + phase[:, 0, None, None]) * np.cos(2 * np.pi * x + phase[:, 1, None, None])
    gain = 0.55 + 0.45 * np.sin(2 * np.pi * (1.3 * y + 0.7 * x) + shift)
    signals = np.empty((k, c, t, h, w), dtype=np.float32)
    for frame in range(t):
        turn = 2 * np.pi * frame / t
        away = np.sqrt((y - 0.5 - 0.06 * np.cos(turn)) ** 2 + (x - 0.5 - 0.06 * np.sin(turn)) ** 2)
        moving = np.roll(texture, 2 * frame % w, axis=2) * gain * ((away >= 0.16) & (away <= 0.33))
        for step in range(k):
            part = step / (k - 1) if k > 1 else 0.0
            fading = p["noise0"] * (1 - 0.3 * part) * noise[step, :, frame]
            signals[step, :, frame] = (0.4 + 0.6 * part) * ground + 2 * part * moving + fading
    return signals


def same_as_stored(signals, golden):
    """Whether a rebuilt input is the one the golden file was computed from."""
    probe = signals.ravel()[:: max(1, signals.size // 64)][:64]
    total, absolute = signals.sum(dtype=np.float64), np.abs(signals).sum(dtype=np.float64)
    return (
        np.allclose(probe, golden["features_probe"], rtol=0, atol=1e-6)
        and np.isclose(total, golden["features_sum"], rtol=0, atol=1e-2)
        and np.isclose(absolute, golden["features_abs_sum"], rtol=1e-7)
    )
