"""Softmax, its logarithm, and the losses of classes, which are built on it.

Names, arguments and definitions are PyTorch's, but classes lie along the last axis, as images are NHWC.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, attach, needs_grad, put_on_tape
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.ops.compare import eq
from quernel.ops.create import arange, as_tensor
from quernel.ops.dtypes import FLOATING, INTEGER
from quernel.ops.elementwise import add, mul, where
from quernel.ops.layout import permute, unsqueeze
from quernel.ops.loss import check_gamma, constant, pair_loss, reduce_losses, reduced_spec
from quernel.ops.op import Spec, op
from quernel.ops.operands import cast, native
from quernel.ops.reduce import sum
from quernel.ops.shapes import check_floating, normalize_axis, spec_of
from quernel.ops.unary import neg
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


# ---- losses ---------------------------------------------------------------------------------------------------------


def _class_rule(name: str, distributions: bool) -> Callable[..., Spec]:
    def rule(
        logits: Any,
        labels: Any,
        reduction: str = "mean",
        weight: Any = None,
        label_smoothing: float = 0.0,
        **_: Any,
    ) -> Spec:
        scores, wanted = spec_of(logits), spec_of(labels)
        check_floating(name, "logits", scores.dtype)
        if wanted.dtype not in INTEGER and not (
            distributions and wanted.dtype in FLOATING and wanted.shape == scores.shape
        ):
            either = f", or probabilities of the logits' shape {scores.shape}" if distributions else ""
            raise DTypeError(
                f"[{name}] labels are class numbers, whole numbers{either}; got {wanted.dtype} of shape {wanted.shape}; "
                "cast with .astype('int64')"
            )
        if not scores.shape or (wanted.dtype in INTEGER and scores.shape[:-1] != wanted.shape):
            raise ShapeError(
                f"[{name}] logits (..., classes) of shape {scores.shape} need labels of shape {scores.shape[:-1]}, "
                f"got {wanted.shape}"
            )
        if weight is not None and spec_of(weight).shape != scores.shape[-1:]:
            raise ShapeError(
                f"[{name}] weight is one number for each class, of shape {scores.shape[-1:]}, got {spec_of(weight).shape}"
            )
        if not 0.0 <= label_smoothing <= 1.0:
            raise ArgumentError(f"[{name}] label_smoothing lies in [0, 1], got {label_smoothing!r}")
        return reduced_spec(name, Spec(scores.shape[:-1], scores.dtype), reduction)

    return rule


_cross_entropy_rule = _class_rule("cross_entropy", distributions=True)
_nll_rule = _class_rule("nll_loss", distributions=False)
_focal_rule = _class_rule("focal_loss", distributions=False)


@op(shape=_cross_entropy_rule)
def cross_entropy(
    logits: TensorLike,
    labels: TensorLike,
    reduction: str = "mean",
    weight: TensorLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Returns the mean of ``-log(softmax(logits)[label])``, computed without overflow.

    With class weights w, smoothing e and C classes, a loss is ``-sum_c w_c ((1 - e) t_c + e / C) log(softmax(logits)_c)``,
    where t is the one-hot label or a distribution (Szegedy et al., arXiv 1512.00567, section 7).

    Args:
        logits: (..., classes), or (classes,) for one label; not normalised.
        labels: (...), whole numbers from 0 to classes - 1; or floats (..., classes), a distribution over the classes in each
            row.
        reduction: "sum", "none", or "mean". The mean over labels is weighted, ``sum(losses) / sum(weight[label])``, and
            leaves out ignored labels; it is NaN if all are ignored. That over distributions divides by their number.
        weight: (classes,), a factor for the losses of each class.
        ignore_index: labels of this value have loss 0.
        label_smoothing: e.

    Raises:
        ShapeError: The shapes do not fit.
        DTypeError: Labels that are no integers, logits that are not floating.
        ArgumentError: A label out of range, a target outside [0, 1], an empty batch (with "mean"), an unknown reduction.

    Example:
        >>> qn.ops.cross_entropy(qn.tensor([[0.0, 0.0]]), [1])
        tensor(0.6931472, dtype=float32)
    """
    a, target = as_tensor(logits), as_tensor(labels)
    _cross_entropy_rule(a, target, reduction, weight, label_smoothing)
    if target._t.dtype in INTEGER:
        return _of_labels(a, target, reduction, weight, ignore_index, label_smoothing, False)
    if needs_grad(target):
        return _of_learned(a, target, reduction, weight, label_smoothing)
    return _of_distributions(a, target, reduction, weight, label_smoothing)


@op(shape=_nll_rule)
def nll_loss(
    logits: TensorLike,
    labels: TensorLike,
    reduction: str = "mean",
    weight: TensorLike | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Returns the mean of ``-logits[label]``; with `log_softmax` before it, this is `cross_entropy`.

    The arguments are those of `cross_entropy`, but ``logits`` are logarithms of probabilities and labels whole numbers.

    Example:
        >>> qn.ops.nll_loss(qn.tensor([[-0.5, -1.0], [-2.0, -0.25]]), [0, 1])
        tensor(0.375, dtype=float32)
    """
    a, target = as_tensor(logits), as_tensor(labels)
    _nll_rule(a, target, reduction, weight)
    return _of_labels(a, target, reduction, weight, ignore_index, 0.0, True)


def _class_weights(weight: TensorLike | None, dtype: str) -> _core.Tensor | None:
    return None if weight is None else cast(constant("cross_entropy", "weight", weight), dtype)._t


def _of_labels(
    a: Tensor,
    labels: Tensor,
    reduction: str,
    weight: TensorLike | None,
    ignore_index: int,
    smoothing: float,
    normalized: bool,
) -> Tensor:
    shape, out_shape = a._t.shape, labels._t.shape
    rows = math.prod(out_shape)
    scores = a._t.reshape((rows, shape[-1]))
    numbers = (labels._t if labels._t.dtype == "int64" else _core.cast(labels._t, "int64")).reshape((rows,))
    w = _class_weights(weight, a._t.dtype)
    losses = _core.cross_entropy(scores, numbers, w, smoothing, ignore_index, normalized)
    divisor = None
    if reduction == "none":
        out = losses.reshape(out_shape)
    elif reduction == "sum":
        out = _core.sum(losses, [0])
    else:
        out, divisor = _core.cross_entropy_mean(losses, numbers, shape[-1], w, ignore_index)
    if not needs_grad(a):
        return Tensor(out)

    def backward(g: Tensor, scores: Tensor, numbers: Tensor, w: Any, divisor: Any) -> Gradients:
        each = g._t.reshape((rows,)) if reduction == "none" else g._t
        grad = _core.cross_entropy_grad(
            scores._t, numbers._t, each, native(divisor), native(w), smoothing, ignore_index, normalized
        )
        return (Tensor(grad.reshape(shape)),)

    return put_on_tape(out, (a,), backward, (scores, numbers, w, divisor))


def _of_distributions(
    a: Tensor, target: Tensor, reduction: str, weight: TensorLike | None, smoothing: float
) -> Tensor:
    shape = a._t.shape
    rows = math.prod(shape[:-1])
    scores = a._t.reshape((rows, shape[-1]))
    wanted = cast(target, a._t.dtype)._t.reshape((rows, shape[-1]))
    w = _class_weights(weight, a._t.dtype)
    losses = _core.cross_entropy(scores, wanted, w, smoothing)
    if reduction == "none":
        out = losses.reshape(shape[:-1])
    else:
        out = _core.mean(losses, [0]) if reduction == "mean" else _core.sum(losses, [0])
    if not needs_grad(a):
        return Tensor(out)

    def backward(g: Tensor, scores: Tensor, wanted: Tensor, w: Any) -> Gradients:
        each = g._t.reshape((rows,)) if reduction == "none" else g._t
        grad = _core.cross_entropy_grad(
            scores._t,
            wanted._t,
            each,
            None,
            native(w),
            smoothing,
            scale=1 / rows if reduction == "mean" else 1.0,
        )
        return (Tensor(grad.reshape(shape)),)

    return put_on_tape(out, (a,), backward, (scores, wanted, w))


def _of_learned(
    a: Tensor, target: Tensor, reduction: str, weight: TensorLike | None, smoothing: float
) -> Tensor:
    """For distributions that want a gradient themselves, of plain ops."""
    wanted = cast(target, a._t.dtype)
    if smoothing:
        wanted = add(mul(wanted, 1.0 - smoothing), smoothing / a.shape[-1])
    if weight is not None:
        wanted = mul(wanted, cast(as_tensor(weight), a._t.dtype))
    return reduce_losses("cross_entropy", neg(sum(mul(wanted, log_softmax(a)), -1)), reduction)


@op(shape=_focal_rule)
def focal_loss(
    logits: TensorLike,
    labels: TensorLike,
    reduction: str = "mean",
    alpha: TensorLike | None = None,
    gamma: float = 2.0,
) -> Tensor:
    """Returns the mean of ``-alpha (1 - p)^gamma log p``, where p is the softmax's probability of the label.

    Lin et al., "Focal Loss for Dense Object Detection", arXiv 1708.02002, for several classes.

    Args:
        logits: (..., classes), not normalised.
        labels: (...), whole numbers from 0 to classes - 1.
        reduction: "mean" (over the labels, whatever alpha is), "sum" or "none".
        alpha: a number, or one for each class, (classes,); None is 1.
        gamma: not negative; 0 gives `cross_entropy`.

    Example:
        >>> qn.ops.focal_loss(qn.tensor([[0.0, 0.0]]), [1])
        tensor(0.1732868, dtype=float32)
    """
    a, target = as_tensor(logits), as_tensor(labels)
    _focal_rule(a, target, reduction)
    check_gamma("focal_loss", gamma)
    entropy = cross_entropy(a, target, "none")
    losses = pair_loss("focal_loss", entropy, None, "none", a=gamma)
    if alpha is not None:
        factors = cast(as_tensor(alpha), a._t.dtype)
        if factors.shape == a.shape[-1:]:
            is_label = eq(unsqueeze(target, -1), arange(a.shape[-1], device=a.device))
            factors = sum(where(is_label, factors, 0.0), -1)
        elif factors.shape:
            raise ShapeError(
                f"[focal_loss] alpha is a number or one for each class, {a.shape[-1:]}, got shape {factors.shape}"
            )
        losses = mul(losses, factors)
    return reduce_losses("focal_loss", losses, reduction)
