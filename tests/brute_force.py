"""An executor by another way: the whole network at every step, with stale keys, values and outputs put in by hand.

Independent of `janoscope.execution`, of the analysis and of the plan: the map, the cut and the step rule are written out here for
pictures and clips without enhancement or padding. Only for networks whose attention goes through torch's
scaled_dot_product_attention, which is replaced while the network runs.
"""

import numpy as np
import torch.nn.functional as F


def distances(points):
    """(point, channel) -> pairwise Euclidean distances."""
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def tile_map(signals, tile, weight):
    """(signal, channel, frame, row, col) -> min-max scaled mean change of the distances inside each tile."""
    signals = np.asarray(signals, dtype=np.float64)
    count, _, frames, rows, cols = signals.shape
    lag = count // 2
    grid = [range(0, size, step) for size, step in zip((frames, rows, cols), tile, strict=True)]
    raw = np.zeros([len(axis) for axis in grid])
    for a, f in enumerate(grid[0]):
        for b, r in enumerate(grid[1]):
            for c, k in enumerate(grid[2]):
                box = signals[:, :, f : f + tile[0], r : r + tile[1], k : k + tile[2]]
                flat = box.reshape(count, box.shape[1], box.shape[2], -1)  # (signal, channel, frame, place)
                spatial = [[distances(flat[n, :, t].T) for t in range(flat.shape[2])] for n in range(count)]
                temporal = [[distances(flat[n, :, :, p].T) for p in range(flat.shape[3])] for n in range(count)]
                change = [np.mean(np.abs(np.array(d[lag:]) - np.array(d[: count - lag]))) for d in (spatial, temporal)]
                raw[a, b, c] = (1 - weight) * change[0] + weight * change[1]
    return (raw - raw.min()) / (raw.max() - raw.min())


def token_levels(scores, tile, patch, cells, static, moderate):
    """Levels 1, 2, 3 of tokens in order; tiles must hold whole tokens."""
    tokens = [cell // size for cell, size in zip(cells, patch, strict=True)]
    level = 1 + (scores > static) + (scores > moderate)
    place = np.indices(tokens).reshape(3, -1) * np.array(patch)[:, None] // np.array(tile)[:, None]
    return level[tuple(place)].astype(np.int8)


def step_kinds(steps, warmup, cooldown, static, moderate, active):
    """Least level computed at each step: 1 for full steps, 4 where nothing is."""
    least = []
    for step in range(steps):
        d = step - warmup
        full = d < 0 or step >= steps - cooldown or d % static == 0
        least.append(1 if full else 2 if d % moderate == 0 else 3 if d % active == 0 else 4)
    return least


def line(points, at):
    """Through the last two of [(coordinate, value)], or the last one."""
    if len(points) < 2:
        return points[-1][1]
    (s0, v0), (s1, v1) = points[-2:]
    return v1 + (v1 - v0) / (s1 - s0) * (at - s1)


class Tokens:
    """History of computed values a token, and what is served for those that were not computed now."""

    def __init__(self, forecast):
        self._forecast, self._history, self._skipped = forecast, {}, {}

    def correct(self, computed, at, weight, served, axis):
        """`served` with, for tokens computed now, what their last skipped steps lacked to the line between both sides."""
        rows = served.movedim(axis, 0).clone()
        for token, fresh in enumerate(computed):
            if not fresh:
                self._skipped.setdefault(token, []).append((at, weight, rows[token].clone()))
                continue
            owed = self._skipped.pop(token, [])
            if owed:
                (first, low), (_, high) = self._history[token][-2:]
                for s, w, used in owed:
                    rows[token] += w / weight * (low + (high - low) * (s - first) / (at - first) - used)
        return rows.movedim(0, axis)

    def serve(self, computed, at, values, axis, remember=True):
        """`values` with the skipped tokens' rows replaced; `computed` is a bool a token."""
        rows = values.movedim(axis, 0)
        out = rows.clone()
        for token, fresh in enumerate(computed):
            points = self._history.setdefault(token, [])
            if fresh and remember:
                points.append((at, rows[token].clone()))
            elif not fresh:
                out[token] = line(points, at) if self._forecast else points[-1][1]
        return out.movedim(0, axis)


class BruteForce:
    """Replaces `transformer.forward` and `scheduler.step` of a pipeline while it is open.

    policy: warmup, cooldown, tile, weight, static, moderate (thresholds), intervals (static, moderate, active), output ("hold",
    "forecast" or "corrected"), keys ("hold" or "forecast"). text_first: text tokens before the image's in every hooked
    attention's keys.
    """

    def __init__(self, pipe, grid, steps, policy, to_grid, text_first=True, hooked=lambda key: True):
        self.pipe, self.grid, self.p, self._to_grid = pipe, grid, policy, to_grid
        self.least = step_kinds(steps, policy["warmup"], policy["cooldown"], *policy["intervals"])
        self.levels, self._step, self._call = None, 0, 0
        self._text_first, self._hooked = text_first, hooked
        self._keys, self._outputs, self._last, self._signals = {}, {}, {}, []
        self.computed = []  # a bool array a step

    def __enter__(self):
        self._forward, self._scheduler_step = self.pipe.transformer.forward, self.pipe.scheduler.step
        self.pipe.transformer.forward, self.pipe.scheduler.step = self.forward, self.step
        return self

    def __exit__(self, *_):
        del self.pipe.transformer.forward, self.pipe.scheduler.step

    def now(self):
        count = self.grid.count
        return np.ones(count, bool) if self.levels is None else self.levels >= self.least[self._step]

    def at(self):
        return float(self.pipe.scheduler.sigmas[self._step])

    def stores(self):
        """Keys and values are kept from the last warm-up step on (it is the first point of a line), not in the cool-down."""
        return self.p["warmup"] - 1 <= self._step < len(self.least) - self.p["cooldown"]

    def forward(self, *args, **kwargs):
        computed, call, layer = self.now(), self._call, 0
        original = F.scaled_dot_product_attention

        def attention(query, key, value, *rest, **more):
            nonlocal layer
            if self._hooked(key) and self.stores():
                text = key.shape[2] - self.grid.count
                fresh = np.concatenate([np.ones(text, bool), computed] if self._text_first else [computed, np.ones(text, bool)])
                for name, given in (("key", key), ("value", value)):
                    tokens = self._keys.setdefault((call, layer, name), Tokens(self.p["keys"] == "forecast"))
                    served = tokens.serve(fresh, self.at(), given, axis=2)
                    key, value = (served, value) if name == "key" else (key, served)
                layer += 1
            return original(query, key, value, *rest, **more)

        F.scaled_dot_product_attention = attention
        try:
            if computed.any():
                self._last[call] = self._forward(*args, **kwargs)[0]
        finally:
            F.scaled_dot_product_attention = original
        rows = self._to_grid(self._last[call], self.grid)  # (item, token, channel)
        outputs = self._outputs.setdefault(call, Tokens(self.p["output"] != "hold"))
        served = outputs.serve(computed, self.at(), rows, axis=1)
        if self.p["output"] == "corrected":  # flow matching with Euler steps: a step weighs as much as sigma falls
            gap = self.at() - float(self.pipe.scheduler.sigmas[self._step + 1])
            served = outputs.correct(computed, self.at(), gap, served, axis=1)
        self._call += 1
        return (self._from_grid(served, self._last[call]),)

    def _from_grid(self, tokens, like):
        return tokens if like.ndim == 3 else self.grid.unpack(tokens)

    def step(self, model_output, timestep, sample, *args, **kwargs):
        self.computed.append(self.now())
        if self._step < self.p["warmup"]:
            given = [sample] if self._step == 0 else []
            self._signals += [self.grid.unpack(self._to_grid(x.clone(), self.grid))[0].numpy() for x in (*given, model_output)]
        if self._step == self.p["warmup"] - 1:
            scores = tile_map(self._signals, self.p["tile"], self.p["weight"])
            cut = (self.p["static"], self.p["moderate"])
            self.levels = token_levels(scores, self.p["tile"], self.grid.patch, self.grid.cells, *cut)
        self._step, self._call = self._step + 1, 0
        return self._scheduler_step(model_output, timestep, sample, *args, **kwargs)
