"""Layer norm and RMS norm: each row is normalized by its own numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quernel import _core
from quernel.autograd import Gradients, needs_grad, put_on_tape
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.op import Spec, op
from quernel.ops.shapes import check_floating, check_params, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


def _check(
    op: str, x: Any, normalized_shape: int | Sequence[int], params: dict[str, Any], eps: float
) -> Spec:
    spec = spec_of(x)
    check_floating(op, "x", spec.dtype)
    given: tuple[Any, ...] = (
        tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
    )
    if not given or not all(isinstance(n, int | np.integer) and n >= 0 for n in given):
        raise ArgumentError(f"[{op}] normalized_shape is one or several sizes, got {normalized_shape!r}")
    if spec.shape[-len(given) :] != given:
        raise ShapeError(
            f"[{op}] normalized_shape {given} must be the last dimensions of x, whose shape is {spec.shape}"
        )
    check_params(op, spec, given, params)
    if not eps > 0:
        raise ArgumentError(f"[{op}] eps must be positive, got {eps}")
    return spec


def _normalized(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, size: int, eps: float, rms: bool
) -> Tensor:
    w, b = (None if t is None else t._t for t in (weight, bias))
    y, mean, rstd = _core.layer_norm(x._t, size, w, b, eps, rms)
    if not needs_grad(x, weight, bias):
        return Tensor(y)
    wanted = [t is not None and bool(t._requires_grad) for t in (weight, bias)]

    def backward(g: Tensor, x: Tensor, w: Tensor | None, mean: Tensor | None, rstd: Tensor) -> Gradients:
        center, factor = (None if t is None else t._t for t in (mean, w))
        found = _core.layer_norm_grad(x._t, g._t, size, factor, center, rstd._t, rms, *wanted)
        dweight, dbias = (None if t is None else Tensor(t.reshape(shape)) for t in found[1:])
        return Tensor(found[0]), dweight, dbias

    shape = next((t._t.shape for t in (weight, bias) if t is not None), ())
    return put_on_tape(y, (x, weight, bias), backward, (x._t, w, mean, rstd))


def _layer_rule(
    x: Any, normalized_shape: int | Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Spec:
    return _check("layer_norm", x, normalized_shape, {"weight": weight, "bias": bias}, eps)


@op(shape=_layer_rule)
def layer_norm(
    x: TensorLike,
    normalized_shape: int | Sequence[int],
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Returns ``(x - mean) / sqrt(var + eps) * weight + bias``, mean and (biased) variance over the last dimensions.

    Ba, Kiros and Hinton, "Layer Normalization", arXiv 1607.06450.

    Args:
        x: (..., *normalized_shape), floating.
        normalized_shape: The last dimensions of ``x``, over which each mean and variance goes.
        weight: Of that shape, 1 if None.
        bias: Likewise, 0 if None.
        eps: Added to the variance.

    Raises:
        ShapeError: ``normalized_shape`` is not how the shape of ``x`` ends, or a parameter has another shape.
        ArgumentError: No sizes, or an ``eps`` that is not positive.

    Example:
        >>> qn.ops.layer_norm(qn.tensor([[1.0, 3.0]]), 2, eps=1e-12).tolist()
        [[-1.0, 1.0]]
    """
    a = as_tensor(x)
    w, b = (None if t is None else as_tensor(t) for t in (weight, bias))
    _layer_rule(a, normalized_shape, w, b, eps)
    return _normalized(a, w, b, _size(normalized_shape), eps, False)


def _rms_rule(
    x: Any, normalized_shape: int | Sequence[int], weight: Any = None, eps: float | None = None
) -> Spec:
    return _check("rms_norm", x, normalized_shape, {"weight": weight}, 1.0 if eps is None else eps)


@op(shape=_rms_rule)
def rms_norm(
    x: TensorLike,
    normalized_shape: int | Sequence[int],
    weight: TensorLike | None = None,
    eps: float | None = None,
) -> Tensor:
    """Returns ``x / sqrt(mean(x * x) + eps) * weight``, the mean over the last dimensions.

    Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467.

    Args:
        x: (..., *normalized_shape), floating.
        normalized_shape: The last dimensions of ``x``, over which each mean goes.
        weight: Of that shape, 1 if None.
        eps: Added to the mean; None means the distance from 1 to the next number of x's dtype, as in PyTorch.

    Raises:
        ShapeError: ``normalized_shape`` is not how the shape of ``x`` ends, or the weight has another shape.
        ArgumentError: No sizes, or an ``eps`` that is not positive.
    """
    a = as_tensor(x)
    w = None if weight is None else as_tensor(weight)
    _rms_rule(a, normalized_shape, w, eps)
    least = float(np.finfo(a.dtype).eps) if eps is None else eps
    return _normalized(a, w, None, _size(normalized_shape), least, True)


def _size(normalized_shape: int | Sequence[int]) -> int:
    return math.prod(normalized_shape) if isinstance(normalized_shape, Sequence) else normalized_shape
