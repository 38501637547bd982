"""Initialization of parameters, in place, from the library's own random stream (`qn.seed`).

Weights are laid out (outputs, ..., inputs): Linear (O, I), Conv2d (O, KH, KW, I/groups). The number of inputs of one
output element is ``fan_in`` (I, or KH·KW·I/groups); ``fan_out`` is O, or O·KH·KW.
"""

from __future__ import annotations

import math

from quernel import ops
from quernel.autograd import no_grad
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.create import full
from quernel.tensor import Tensor


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight."""
    if tensor.ndim < 2:
        raise ShapeError(
            f"[init] fan_in and fan_out need at least 2 dimensions, the tensor is {tensor.shape}"
        )
    outputs, *taps, inputs = tensor.shape
    receptive = math.prod(taps)
    return inputs * receptive, outputs * receptive


def gain(nonlinearity: str, param: float = math.sqrt(5)) -> float:
    """The factor that keeps the variance through an activation.

    Args:
        nonlinearity: "linear", "sigmoid", "tanh", "relu" or "leaky_relu".
        param: negative slope of "leaky_relu".
    """
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5.0 / 3,
        "relu": math.sqrt(2.0),
        "leaky_relu": math.sqrt(2.0 / (1 + param**2)),
    }
    if nonlinearity not in gains:
        raise ArgumentError(f"[init] unknown nonlinearity {nonlinearity!r}; known: {', '.join(gains)}")
    return gains[nonlinearity]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fills with draws from [a, b)."""
    return _write(tensor, ops.uniform(tensor.shape, a, b, tensor.dtype))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fills with normal draws."""
    return _write(tensor, ops.normal(tensor.shape, mean, std, tensor.dtype))


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Fills with one value."""
    return _write(tensor, full(tensor.shape, value, tensor.dtype))


def zeros_(tensor: Tensor) -> Tensor:
    """Fills with 0."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fills with 1."""
    return constant_(tensor, 1.0)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Uniform in ±gain·sqrt(3 / fan) (He et al. 2015)."""
    bound = gain(nonlinearity, a) * math.sqrt(3.0 / max(1, _fan(tensor, mode)))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Normal with standard deviation gain / sqrt(fan) (He et al. 2015)."""
    return normal_(tensor, 0.0, gain(nonlinearity, a) / math.sqrt(max(1, _fan(tensor, mode))))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform in ±gain·sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    bound = gain * math.sqrt(6.0 / max(1, sum(fans(tensor))))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with standard deviation gain·sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / max(1, sum(fans(tensor)))))


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError(f"[init] mode is 'fan_in' or 'fan_out', got {mode!r}")
    return fans(tensor)[mode == "fan_out"]


def _write(tensor: Tensor, values: Tensor) -> Tensor:
    with no_grad():
        tensor[...] = values
    return tensor
