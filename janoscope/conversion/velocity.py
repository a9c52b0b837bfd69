"""Predictions <-> flow velocity, x0 and noise, through the pair (x0, eps) that every prediction determines.

Eq. (1) of the JANO supplement (arXiv 2603.00519), v = (a'/a) x + (s' - a' s/a) eps, is v = a' x0 + s' eps with x0 eliminated. The
pair form is used throughout: it is the same number, holds for every kind of prediction, and has no 1/a for a v-prediction.
"""

import numpy as np
from array_api_compat import array_namespace, device

from ..array_api import AnyArray, Array, Operand
from ..errors import InputError
from .noise_path import PathPoint, Values, point_columns

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow", "inverted_flow")


def to_flow_velocity(output: Array, sample: Array, *, prediction: str, point: PathPoint) -> Array:
    """Flow velocity dx/dt = alpha' x0 + sigma' eps of a network output, pointing to noise, per unit of the path's time.

    A `flow` prediction is returned as it is, untouched: JANO reads the raw output of flow models. An `inverted_flow` prediction
    is negated, in its own dtype.

    Args:
        output, sample: the network's output and its noisy input, of one shape, any; the first axis is the step where `point`
            has arrays (step,).
        prediction: one of `PREDICTIONS`, or diffusers' `flow_prediction`.
        point: alpha, sigma and their rates, from `NoisePath.at`.

    Returns:
        The velocity, of the same shape and on the same device; computed in float64, in the wider dtype of the two (at least
        float32).

    Raises:
        InputError: the output says nothing about x0 (epsilon at alpha = 0) or about eps (x0 at sigma = 0).

    Eq. (1) of the supplement of arXiv 2603.00519. With `NoisePath.at(step)`, i.e. backward differences, velocity * gap is
    x - x_next of DDIM with eta 0, exactly, for every prediction and any gap.

    >>> from janoscope.conversion import NoisePath
    >>> path = NoisePath([999.0, 499.0], [0.6, 0.8], [0.8, 0.6])
    >>> to_flow_velocity(np.ones(1), np.ones(1), prediction="epsilon", point=path.at(0)) * 500
    array([0.13333333])
    """
    kind = _checked_kind(prediction)
    if kind in ("flow", "inverted_flow"):
        return output if kind == "flow" else -output
    alpha_rate, sigma_rate = (_aligned(value, output) for value in point_columns(point, ("alpha_rate", "sigma_rate")))
    x0, epsilon = _pair(output, sample, prediction, point)
    return _narrowed(alpha_rate * x0 + sigma_rate * epsilon, output, sample)


def is_flow(prediction: str) -> bool:
    """Whether a network of this kind predicts the flow velocity itself: `flow`, or diffusers' `flow_prediction`."""
    return prediction in ("flow", "flow_prediction")


def to_x0(output: Array, sample: Array, *, prediction: str, point: PathPoint) -> Array:
    """The network's estimate of the clean latent; shapes, dtypes and errors as in `to_flow_velocity`, no rates needed."""
    return _narrowed(_pair(output, sample, prediction, point, want="x0")[0], output, sample)


def to_epsilon(output: Array, sample: Array, *, prediction: str, point: PathPoint) -> Array:
    """The network's estimate of the noise; shapes, dtypes and errors as in `to_flow_velocity`, no rates needed."""
    return _narrowed(_pair(output, sample, prediction, point, want="epsilon")[1], output, sample)


def to_prediction(flow_velocity: Array, sample: Array, *, prediction: str, point: PathPoint) -> Array:
    """What a network of this kind would have returned for a flow velocity: the inverse of `to_flow_velocity`.

    Raises:
        InputError: alpha sigma' = sigma alpha', so the velocity only rescales x and says no more than x.
    """
    kind = _checked_kind(prediction)
    if kind in ("flow", "inverted_flow"):
        return flow_velocity if kind == "flow" else -flow_velocity
    names = ("alpha", "sigma", "alpha_rate", "sigma_rate")
    alpha, sigma, alpha_rate, sigma_rate = (_aligned(value, flow_velocity) for value in point_columns(point, names))
    turn = alpha * sigma_rate - sigma * alpha_rate
    _refuse_zero(turn, "the velocity only rescales the sample (alpha sigma' = sigma alpha')")
    velocity, x = _float64(flow_velocity), _float64(sample)
    x0, epsilon = (sigma_rate * x - sigma * velocity) / turn, (alpha * velocity - alpha_rate * x) / turn
    predictions = {"sample": lambda: x0, "epsilon": lambda: epsilon, "v_prediction": lambda: alpha * epsilon - sigma * x0}
    return _narrowed(predictions[prediction](), flow_velocity, sample)


def _pair(output: Array, sample: Array, prediction: str, point: PathPoint, want: str = "both") -> tuple[Array, Array]:
    """(x0, eps) in float64 from x = alpha x0 + sigma eps and the output. Only `want` is sure to be valid."""
    kind = _checked_kind(prediction)
    alpha, sigma = (_aligned(value, output) for value in point_columns(point, ("alpha", "sigma")))
    y, x = _float64(output), _float64(sample)
    if kind == "epsilon":
        if want == "epsilon":
            return y, y
        _refuse_zero(alpha, "alpha is 0, so an epsilon prediction says nothing about x0")
        return (x - sigma * y) / alpha, y
    if kind == "sample":
        if want == "x0":
            return y, y
        _refuse_zero(sigma, "sigma is 0, so an x0 prediction says nothing about the noise")
        return y, (x - alpha * y) / sigma
    if kind in ("flow", "inverted_flow"):  # output = eps - x0, or x0 - eps
        y = y if kind == "flow" else -y
        scale = alpha + sigma
        return (x - sigma * y) / scale, (x + alpha * y) / scale
    scale = alpha * alpha + sigma * sigma  # output = alpha eps - sigma x0; 1 up to rounding, divided out to keep x exact
    return (alpha * x - sigma * y) / scale, (sigma * x + alpha * y) / scale


def _checked_kind(prediction: str) -> str:
    kind = "flow" if is_flow(prediction) else prediction
    if kind not in PREDICTIONS:
        raise InputError(f"prediction type {prediction!r} is unknown; choose one of {', '.join(PREDICTIONS)}.")
    return kind


def _refuse_zero(values: Operand, what: str) -> None:
    at = np.flatnonzero(np.asarray(values if isinstance(values, float) else values.tolist()).ravel() == 0)
    if at.size:
        where = "" if isinstance(values, float) else f" at step {at[0]} of {values.shape[0]}"
        raise InputError(f"cannot convert{where}: {what}; drop that step.")


def _aligned(value: Values, like: AnyArray) -> Operand:
    """A float as it is; (step,) as (step, 1, 1, ...) in the namespace and on the device of `like`."""
    if np.ndim(value) == 0:
        return float(value)
    # a copy: the arrays of a path are read-only, which torch cannot share
    column = np.array(value, dtype=np.float64)
    if column.ndim != 1 or column.shape[0] != like.shape[0]:
        raise InputError(
            f"path point of {column.shape} steps does not fit output {tuple(like.shape)}; its first axis must be the step."
        )
    xp = array_namespace(like)
    return xp.asarray(column.reshape(-1, *[1] * (like.ndim - 1)), device=device(like))


def _float64(values: Array) -> Array:
    xp = array_namespace(values)
    return xp.astype(values, xp.float64)


def _narrowed(values: Array, *sources: AnyArray) -> Array:
    """float64 if a source is, else float32."""
    xp = array_namespace(*sources)
    return values if any(source.dtype == xp.float64 for source in sources) else xp.astype(values, xp.float32)
