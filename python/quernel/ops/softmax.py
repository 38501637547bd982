"""Softmax, its logarithm, and the loss that is built on it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, attach, needs_grad, put_on_tape
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import INTEGER
from quernel.ops.layout import permute
from quernel.ops.op import Spec, op
from quernel.ops.shapes import check_floating, normalize_axis, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


def _rule(name: str) -> Any:
    def rule(x: Any, dim: int = -1) -> Spec:
        spec = spec_of(x)
        check_floating(name, "x", spec.dtype)
        normalize_axis(name, dim, max(len(spec.shape), 1))
        return spec

    return rule


def _along_last(kernel: Any, gradient: Any, a: Tensor) -> Tensor:
    y = kernel(a._t)
    return attach(y, (a,), lambda g, y: (Tensor(gradient(y._t, g._t)),), (y,))


def _along(name: str, kernel: Any, gradient: Any, x: TensorLike, dim: int) -> Tensor:
    a = as_tensor(x)
    check_floating(name, "x", a._t.dtype)
    shape = a._t.shape
    at = normalize_axis(name, dim, max(len(shape), 1))
    if not shape:
        return _along_last(kernel, gradient, a.reshape(1)).reshape(())
    if at == len(shape) - 1:
        return _along_last(kernel, gradient, a)
    swap = list(range(len(shape)))
    swap[at], swap[-1] = swap[-1], swap[at]
    return permute(_along_last(kernel, gradient, permute(a, swap)), swap)


@op(shape=_rule("softmax"))
def softmax(x: TensorLike, dim: int = -1) -> Tensor:
    """Returns ``exp(x) / sum(exp(x))`` along one dimension, computed without overflow.

    Example:
        >>> qn.ops.softmax(qn.tensor([0.0, 0.0]))
        tensor([0.5, 0.5], dtype=float32)
    """
    return _along("softmax", _core.softmax, _core.softmax_grad, x, dim)


@op(shape=_rule("log_softmax"))
def log_softmax(x: TensorLike, dim: int = -1) -> Tensor:
    """Returns ``x - log(sum(exp(x)))`` along one dimension, computed without overflow."""
    return _along("log_softmax", _core.log_softmax, _core.log_softmax_grad, x, dim)


def _cross_entropy_rule(logits: Any, labels: Any, reduction: str = "mean") -> Spec:
    scores, wanted = spec_of(logits), spec_of(labels)
    check_floating("cross_entropy", "logits", scores.dtype)
    if wanted.dtype not in INTEGER:
        raise DTypeError(
            f"[cross_entropy] labels are class numbers, whole numbers, got {wanted.dtype}; cast with .astype('int64')"
        )
    if not scores.shape or scores.shape[:-1] != wanted.shape:
        raise ShapeError(
            f"[cross_entropy] logits (..., classes) of shape {scores.shape} need labels of shape {scores.shape[:-1]}, "
            f"got {wanted.shape}"
        )
    if reduction not in ("mean", "sum", "none"):
        raise ArgumentError(f"[cross_entropy] reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if reduction == "mean" and 0 in wanted.shape:
        raise ArgumentError(f"[cross_entropy] an empty batch has no mean loss (logits: {scores.shape})")
    return Spec(wanted.shape if reduction == "none" else (), scores.dtype)


@op(shape=_cross_entropy_rule)
def cross_entropy(logits: TensorLike, labels: TensorLike, reduction: str = "mean") -> Tensor:
    """Returns the mean of ``-log(softmax(logits)[label])``.

    Args:
        logits: (..., classes), or (classes,) for one label; not normalised.
        labels: (...), whole numbers from 0 to classes - 1.
        reduction: "mean", "sum" or "none".

    Raises:
        ShapeError: The shapes do not fit.
        DTypeError: Labels that are no integers, logits that are not floating.
        ArgumentError: A label out of range, an empty batch (with "mean"), or an unknown reduction.

    Example:
        >>> qn.ops.cross_entropy(qn.tensor([[0.0, 0.0]]), [1])
        tensor(0.6931472, dtype=float32)
    """
    a, wanted = as_tensor(logits), as_tensor(labels)
    _cross_entropy_rule(a, wanted, reduction)
    shape, out_shape = a._t.shape, wanted._t.shape
    rows = math.prod(out_shape)
    scores = a._t.reshape((rows, shape[-1]))
    numbers = (wanted._t if wanted._t.dtype == "int64" else _core.cast(wanted._t, "int64")).reshape((rows,))
    losses = _core.cross_entropy(scores, numbers)
    if reduction == "none":
        out = losses.reshape(out_shape)
    else:
        out = _core.mean(losses, [0]) if reduction == "mean" else _core.sum(losses, [0])
    if not needs_grad(a):
        return Tensor(out)

    def backward(g: Tensor, scores: Tensor, numbers: Tensor) -> Gradients:
        share = _core.div(g._t, float(rows)) if reduction == "mean" else g._t
        each = share.reshape((rows,)) if reduction == "none" else _core.broadcast_to(share, (rows,))
        return (Tensor(_core.cross_entropy_grad(scores._t, numbers._t, each).reshape(shape)),)

    return put_on_tape(out, (a,), backward, (scores, numbers))
