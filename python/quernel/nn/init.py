"""Initialization of parameters, in place, from the library's own random stream (`qn.seed`).

Weights are laid out (outputs, ..., inputs): Linear (O, I), Conv2d (O, KH, KW, I/groups). The number of inputs of one
output element is ``fan_in`` (I, or KH·KW·I/groups); ``fan_out`` is O, or O·KH·KW.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel import ops
from quernel.autograd import no_grad
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.create import as_tensor, full
from quernel.suggest import suggestion
from quernel.tensor import Tensor

Array = NDArray[Any]


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight."""
    if tensor.ndim < 2:
        raise ShapeError(
            f"[init] fan_in and fan_out need at least 2 dimensions, the tensor is {tensor.shape}"
        )
    outputs, *taps, inputs = tensor.shape
    receptive = math.prod(taps)
    return inputs * receptive, outputs * receptive


_GAINS = {"tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 0.75}
_LINEAR = (
    "linear",
    "identity",
    "sigmoid",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
)
_LEAKY = "leaky_relu"


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through an activation, as ``torch.nn.init.calculate_gain``.

    Args:
        nonlinearity: "linear", "sigmoid" and the names of convolutions (1), "tanh" (5/3), "relu" (√2), "leaky_relu"
            (√(2 / (1 + param²))) or "selu" (3/4).
        param: negative slope of "leaky_relu"; None: 0.01.

    Example:
        >>> nn.init.calculate_gain("selu")
        0.75
    """
    if nonlinearity == _LEAKY:
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity in _LINEAR:
        return 1.0
    if nonlinearity not in _GAINS:
        known = [*_LINEAR, *_GAINS, _LEAKY]
        raise ArgumentError(f"[init] unknown nonlinearity {nonlinearity!r}{suggestion(nonlinearity, known)}")
    return _GAINS[nonlinearity]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fills with draws from [a, b)."""
    return _write(tensor, ops.uniform(tensor.shape, a, b, tensor.dtype))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fills with normal draws."""
    return _write(tensor, ops.normal(tensor.shape, mean, std, tensor.dtype))


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Fills with one value."""
    return _write(tensor, full(tensor.shape, value, tensor.dtype, device=tensor.device))


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
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3.0 / max(1, _fan(tensor, mode)))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Normal with standard deviation gain / sqrt(fan) (He et al. 2015)."""
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(max(1, _fan(tensor, mode))))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform in ±gain·sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    bound = gain * math.sqrt(6.0 / max(1, sum(fans(tensor))))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with standard deviation gain·sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / max(1, sum(fans(tensor)))))


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """Normal draws, of which those outside [a, b] are drawn again.

    Raises:
        ArgumentError: there is nothing between a and b, or std is not positive.
    """
    if not (a < b and std > 0 and math.isfinite(mean)):
        raise ArgumentError(f"[trunc_normal_] expects a < b and std > 0, got a={a!r}, b={b!r}, std={std!r}")
    low, high = (a - mean) / std, (b - mean) / std
    values = np.empty(tensor.size)
    empty = np.arange(tensor.size)
    while empty.size:
        drawn, kept = _proposals(empty.size, low, high)
        values[empty[kept]] = drawn[kept]
        empty = empty[~kept]
    # A value just inside may round to one just outside.
    bounded = (mean + std * values).astype(tensor.dtype).clip(a, b)
    return _write(tensor, as_tensor(bounded.reshape(tensor.shape)))


def _proposals(count: int, low: float, high: float) -> tuple[Array, Array]:
    """Draws, and which of them to keep, such that those are normal within [low, high]."""
    if 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) > 0.2:
        drawn = ops.normal((count,), dtype="float64").numpy()
        return drawn, (drawn >= low) & (drawn <= high)
    # In a tail, or in a narrow interval, too few would do: keep uniform draws as often as they are likely. Ten standard
    # deviations beyond the likeliest point there is nothing.
    peak = min(max(low, 0.0), high)
    low, high = max(low, peak - 10), min(high, peak + 10)
    drawn = ops.uniform((count,), low, high, "float64").numpy()
    chance = ops.uniform((count,), dtype="float64").numpy()
    return drawn, chance < np.exp((peak * peak - drawn * drawn) / 2)


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """A random matrix with orthonormal rows, or columns if there are fewer, times `gain` (Saxe et al. 2013).

    A weight of more dimensions counts as (outputs, everything else). The decomposition is LAPACK's: the last bits may
    differ between machines.
    """
    rows = _rows("orthogonal_", tensor)
    columns = tensor.size // max(1, rows)
    if not tensor.size:
        return tensor
    flat = ops.normal((max(rows, columns), min(rows, columns)), dtype="float64").numpy()
    q, r = np.linalg.qr(flat)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # else not all matrices would be as likely (Mezzadri 2007)
    if rows < columns:
        q = q.T
    return _write(tensor, as_tensor((gain * q).astype(tensor.dtype).reshape(tensor.shape)))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01) -> Tensor:
    """Normal draws in a matrix, of each column of which the share `sparsity` is 0 (Martens 2010).

    Args:
        tensor: (outputs, inputs).
        sparsity: between 0 and 1; the number of zeros in a column is rounded up.
        std: of the others.
    """
    if tensor.ndim != 2:
        raise ShapeError(f"[sparse_] expects 2 dimensions, the tensor is {tensor.shape}")
    if not 0 <= sparsity <= 1:
        raise ArgumentError(f"[sparse_] sparsity lies between 0 and 1, got {sparsity!r}")
    rows, _ = tensor.shape
    values = ops.normal(tensor.shape, 0.0, std, tensor.dtype).numpy().copy()
    order = np.argsort(ops.uniform(tensor.shape, dtype="float64").numpy(), axis=0)
    np.put_along_axis(values, order[: math.ceil(sparsity * rows)], 0, axis=0)
    return _write(tensor, as_tensor(values))


def eye_(tensor: Tensor) -> Tensor:
    """The identity, of a matrix: a Linear passes on its inputs."""
    if tensor.ndim != 2:
        raise ShapeError(f"[eye_] expects 2 dimensions, the tensor is {tensor.shape}")
    return _write(tensor, as_tensor(np.eye(tensor.shape[0], tensor.shape[1], dtype=tensor.dtype)))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The identity, of a convolution's weight (O, KH, KW, I/groups) or (O, K, I/groups): channels are passed on.

    Args:
        tensor: the weight.
        groups: of the convolution; each passes on as many channels as it can.
    """
    if not 3 <= tensor.ndim <= 5:
        raise ShapeError(f"[dirac_] expects a convolution's weight of 3 to 5 dimensions, got {tensor.shape}")
    outputs, *taps, inputs = tensor.shape
    if groups < 1 or outputs % groups:
        raise ArgumentError(f"[dirac_] {outputs} outputs cannot be divided into {groups} groups")
    values = np.zeros(tensor.shape, tensor.dtype)
    middle = tuple(size // 2 for size in taps)
    for group in range(groups):
        for channel in range(min(outputs // groups, inputs)):
            values[(group * (outputs // groups) + channel, *middle, channel)] = 1
    return _write(tensor, as_tensor(values))


def _rows(name: str, tensor: Tensor) -> int:
    if tensor.ndim < 2:
        raise ShapeError(f"[{name}] expects at least 2 dimensions, the tensor is {tensor.shape}")
    return tensor.shape[0]


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError(f"[init] mode is 'fan_in' or 'fan_out', got {mode!r}")
    return fans(tensor)[mode == "fan_out"]


def _write(tensor: Tensor, values: Tensor) -> Tensor:
    with no_grad():
        tensor[...] = values
    return tensor
