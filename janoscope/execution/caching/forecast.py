"""What stands for a token that is not computed: its last value, or the line through its last two, corrected afterwards or not."""

import math
from typing import Protocol

import torch

from ...capture.layout import prediction_of, with_prediction
from ...capture.noise_level import first_step, noise_levels
from ...capture.protocols import Scheduler
from ...grid import TokenGrid


class Kept(Protocol):
    """Values of all tokens of a sequence, the last computed of each. `at` is the forecast coordinate of the step."""

    @property
    def bytes(self) -> int:
        """What this holds on its device."""
        ...

    def store(self, at: float, values: torch.Tensor) -> None:
        """Take new values of all tokens."""

    def update(self, at: float, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Take new values of the tokens at `rows`, in their order."""

    def read(self, at: float) -> torch.Tensor:
        """What all tokens are taken to be at this step. The buffer itself, or a new tensor: not to be written to."""
        ...


class Held:
    """The last computed values, as they were. `axis` is the token axis."""

    def __init__(self, axis: int):
        self._axis, self._values = axis, torch.empty(0)

    @property
    def bytes(self) -> int:
        return self._values.numel() * self._values.element_size()

    def store(self, at: float, values: torch.Tensor) -> None:
        # copied: with fused projections keys and values are views of a tensor three times their size
        if self._values.shape == values.shape and self._values.dtype == values.dtype and self._values.device == values.device:
            self._values.copy_(values)
        else:
            self._values = values.clone()

    def update(self, at: float, rows: torch.Tensor, values: torch.Tensor) -> None:
        self._values.index_copy_(self._axis, rows, values)

    def read(self, at: float) -> torch.Tensor:
        return self._values


class Forecast:
    """The line through each token's last two computed values; its last value while it has only one.

    Kept as value and slope, so that reading costs one multiply-add. Slopes are formed in float32 and kept in the values' dtype.
    """

    def __init__(self, axis: int):
        self._axis, self._last = axis, Held(axis)
        self._slope = self._computed_at = torch.empty(0)

    @property
    def bytes(self) -> int:
        return self._last.bytes + self._slope.numel() * self._slope.element_size()

    def store(self, at: float, values: torch.Tensor) -> None:
        previous = self._last.read(at)
        if previous.shape == values.shape:
            self._slope.copy_(_slope(values, previous, at - self._along(self._computed_at, values)))
            self._computed_at.fill_(at)
        else:
            self._slope = torch.zeros_like(values)
            self._computed_at = torch.full((values.shape[self._axis],), at, dtype=torch.float32, device=values.device)
        self._last.store(at, values)

    def update(self, at: float, rows: torch.Tensor, values: torch.Tensor) -> None:
        previous = self._last.read(at).index_select(self._axis, rows)
        gap = at - self._along(self._computed_at.index_select(0, rows), values)
        self._slope.index_copy_(self._axis, rows, _slope(values, previous, gap))
        self._computed_at.index_fill_(0, rows, at)
        self._last.update(at, rows, values)

    def read(self, at: float) -> torch.Tensor:
        last = self._last.read(at)
        return torch.addcmul(last.float(), self._slope.float(), at - self._along(self._computed_at, last)).to(last.dtype)

    def handed_over(self, at: float, weight: float) -> torch.Tensor:
        """What the sampler is handed for all tokens; asked for once a step, after the step's values were taken.

        weight: change of the final latent for one unit of output at this step.
        """
        return self.read(at)

    def _along(self, per_token: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """(token,) shaped to broadcast along the token axis of `like`."""
        shape = [1] * like.ndim
        shape[self._axis] = -1
        return per_token.reshape(shape)


class Corrected(Forecast):
    """A forecast that is corrected when the token is computed again: a predictor and its corrector.

    Over the skipped steps the sampler was handed the line through the two values before them. Now the value behind them is known
    too, and the line between the values on either side is the better one. The steps' weights times the difference of the two
    lines, over this step's own weight, is added to what is handed over: with a sampler that is linear in the newest output the
    latent comes to lie where the better line would have led it. Both lines leave the last value together, so all that a token has
    to remember is the weighted sum of the distances from it. What is kept and drawn through is the value as computed.
    """

    def __init__(self, axis: int):
        super().__init__(axis)
        self._moment = torch.empty(0)  # (token,): weight times distance from the last value, summed over the steps skipped since
        self._owed: torch.Tensor | None = None  # as the values, float32: to be added at the computed step, times its weight

    def store(self, at: float, values: torch.Tensor) -> None:
        before = self._slope.clone()
        super().store(at, values)
        self._owed = None
        if before.shape == values.shape:
            self._owed = self._along(self._moment, values) * (self._slope.float() - before.float())
        self._moment = torch.zeros_like(self._computed_at)

    def update(self, at: float, rows: torch.Tensor, values: torch.Tensor) -> None:
        before = self._slope.index_select(self._axis, rows)
        super().update(at, rows, values)
        turned = self._slope.index_select(self._axis, rows).float() - before.float()
        owed = self._along(self._moment.index_select(0, rows), values) * turned
        self._owed = torch.zeros_like(self._slope, dtype=torch.float32).index_copy_(self._axis, rows, owed)
        self._moment.index_fill_(0, rows, 0.0)

    def handed_over(self, at: float, weight: float) -> torch.Tensor:
        self._moment += weight * (at - self._computed_at)  # nothing for the tokens computed at this very step
        values, owed, self._owed = self.read(at), self._owed, None
        if owed is None or weight == 0:  # a step that moves nothing (a sigma given twice) can make up for nothing
            return values
        return (values.float() + owed / weight).to(values.dtype)


def _slope(values: torch.Tensor, previous: torch.Tensor, gap: torch.Tensor) -> torch.Tensor:
    # a sampler that evaluates one point twice (Heun) gives no line
    slope = torch.where(gap == 0, 0.0, (values.float() - previous.float()) / gap)
    return slope.to(values.dtype)


def forecast_coordinates(scheduler: Scheduler) -> list[float]:
    """Where each step lies on the axis that forecasts run along: the sampler's own sigma, else sqrt(1 - abar) / sqrt(abar).

    One value a step to come; call once `set_timesteps` has run.
    """
    sigmas = getattr(scheduler, "sigmas", None)
    _, alpha, sigma = noise_levels(scheduler)
    if sigmas is not None:
        begin = first_step(scheduler)
        return [float(s) for s in sigmas[begin : begin + len(sigma)]]
    return [s / a for a, s in zip(alpha, sigma, strict=True)]


class OutputTokens:
    """The network's prediction as (item, token, channel) and back; a learned variance counts as channels."""

    def __init__(self, layout: str, grid: TokenGrid):
        self._layout, self._grid = layout, grid

    def split(self, output: object) -> torch.Tensor:
        prediction = prediction_of(output)
        if prediction.ndim == 3:
            return prediction
        cells = self._as_cells(prediction)
        return TokenGrid(cells.shape[1], self._grid.cells, self._grid.patch).pack(cells)

    def join(self, tokens: torch.Tensor, like: object) -> object:
        """A return value shaped as `like` with these tokens in the place of its prediction."""
        prediction = prediction_of(like)
        if prediction.ndim == 3:
            return with_prediction(like, tokens)
        channels = tokens.shape[-1] // math.prod(self._grid.patch)
        cells = TokenGrid(channels, self._grid.cells, self._grid.patch).unpack(tokens)
        if prediction.ndim == 4:
            return with_prediction(like, cells[:, :, 0])
        return with_prediction(like, cells.permute(0, 2, 1, 3, 4) if self._layout == "BFCHW" else cells)

    def _as_cells(self, latent: torch.Tensor) -> torch.Tensor:
        """(item, channel, frame, row, col)."""
        if latent.ndim == 4:
            return latent[:, :, None]
        return latent.permute(0, 2, 1, 3, 4) if self._layout == "BFCHW" else latent
