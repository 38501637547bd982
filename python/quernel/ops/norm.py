"""Batch normalization over the last dimension's channels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, needs_grad, put_on_tape
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.elementwise import add, div, mul, sub
from quernel.ops.op import Spec, op
from quernel.ops.reduce import sum
from quernel.ops.shapes import check_floating, check_params, spec_of
from quernel.ops.unary import sqrt
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


def _rule(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    batches: Any = None,
) -> Spec:
    spec = spec_of(x)
    check_floating("batch_norm", "x", spec.dtype)
    if len(spec.shape) < 2:
        raise ShapeError(
            f"[batch_norm] x must have at least 2 dimensions (N, ..., C), got shape {spec.shape}"
        )
    params = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    check_params("batch_norm", spec, spec.shape[-1:], params)
    if (running_mean is None) != (running_var is None):
        raise ArgumentError("[batch_norm] running_mean and running_var come together, or neither does")
    if not eps > 0 or not (momentum is None or 0 <= momentum <= 1):
        raise ArgumentError(
            f"[batch_norm] eps must be positive and momentum in [0, 1], got eps={eps}, momentum={momentum}"
        )
    if training and momentum is None and running_mean is not None and batches is None:
        raise ArgumentError(
            "[batch_norm] momentum=None averages over all batches and needs batches= to count them"
        )
    rows = math.prod(spec.shape[:-1])
    if training and rows < 2:
        raise ArgumentError(
            f"[batch_norm] training needs at least 2 values per channel, got {rows} (x: {spec.shape})"
        )
    return spec


@op(shape=_rule)
def batch_norm(
    x: TensorLike,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    batches: Tensor | None = None,
) -> Tensor:
    """Returns ``(x - mean) / sqrt(var + eps) * weight + bias`` with a mean and variance per channel.

    While training, mean and (biased) variance are those of the batch, and the running ones move towards them in place:
    ``running = (1 - momentum) * running + momentum * batch``, with the unbiased variance. Otherwise the running ones
    are used. Ioffe and Szegedy, "Batch Normalization", arXiv 1502.03167.

    Args:
        x: (..., C).
        running_mean: (C,), or None to use the batch's in any case.
        running_var: (C,), likewise.
        weight: (C,), 1 if None.
        bias: (C,), 0 if None.
        training: Whether to use, and to learn, the batch's statistics.
        momentum: Weight of the batch in the running statistics; None makes them the average over all batches.
        eps: Added to the variance.
        batches: With ``momentum=None``, how many batches there were, (1,) and of x's dtype; training counts in place.

    Raises:
        ShapeError: The number of channels differs.
        ArgumentError: Training with a single value per channel, or a bad ``eps`` or ``momentum``.
    """
    a = as_tensor(x)
    w = None if weight is None else as_tensor(weight)
    b = None if bias is None else as_tensor(bias)
    _rule(a, running_mean, running_var, w, b, training, momentum, eps, batches)
    if training or running_mean is None or running_var is None:
        gradient = _batch_gradient
        mean, var = _core.batch_norm_stats(a._t)
    else:
        gradient = _running_gradient
        mean, var = as_tensor(running_mean)._t, as_tensor(running_var)._t
    y = _core.batch_norm(a._t, mean, var, None if w is None else w._t, None if b is None else b._t, eps)
    if training and running_mean is not None and running_var is not None:
        rows = math.prod(a._t.shape[:-1])
        if momentum is not None:
            _core.batch_norm_update_(mean, var, running_mean._t, running_var._t, momentum, rows)
        elif batches is not None:
            _average(mean, var, running_mean._t, running_var._t, batches._t, rows)
    if not needs_grad(a, w, b):
        return Tensor(y)
    saved = (a._t, mean, var, None if w is None else w._t)
    wanted = [t is not None and bool(t._requires_grad) for t in (a, w, b)]

    def backward(g: Tensor, a: Tensor, mean: Tensor, var: Tensor, w: Tensor | None) -> Gradients:
        return [
            dt if want else None for dt, want in zip(gradient(g, a, mean, var, w, eps), wanted, strict=True)
        ]

    return put_on_tape(y, (a, w, b), backward, saved)


def _average(
    mean: _core.Tensor,
    var: _core.Tensor,
    running_mean: _core.Tensor,
    running_var: _core.Tensor,
    batches: _core.Tensor,
    rows: int,
) -> None:
    """Moves the running statistics by 1 / batches of the way to those of this batch."""
    batch_mean, batch_var = (_core.full(mean.shape, 0.0, mean.dtype, mean.device) for _ in range(2))
    _core.batch_norm_update_(mean, var, batch_mean, batch_var, 1.0, rows)  # which makes the variance unbiased
    _core.copy_into_(batches, _core.add(batches, 1.0))
    for running, batch in ((running_mean, batch_mean), (running_var, batch_var)):
        step = _core.div(_core.sub(batch, running), batches)
        _core.copy_into_(running, _core.add(running, step))


def _batch_gradient(
    g: Tensor, a: Tensor, mean: Tensor, var: Tensor, w: Tensor | None, eps: float
) -> Gradients:
    """The statistics are functions of x."""
    weight = None if w is None else w._t
    return [Tensor(t) for t in _core.batch_norm_grad(a._t, g._t, mean._t, var._t, weight, eps)]


def _running_gradient(
    g: Tensor, a: Tensor, mean: Tensor, var: Tensor, w: Tensor | None, eps: float
) -> Gradients:
    """The statistics are constants."""
    deviation = sqrt(add(var, eps))
    rows = list(range(a.ndim - 1))
    scaled = g if w is None else mul(g, w)
    return div(scaled, deviation), sum(mul(g, div(sub(a, mean), deviation)), rows), sum(g, rows)
