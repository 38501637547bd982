"""Losses of pairs of elements, one pass over the operands forward and one backward; those of classes are in softmax.py.

Names, arguments and definitions are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, needs_grad, put_on_tape
from quernel.errors import ArgumentError, ShapeError, StateError
from quernel.ops.compare import gt
from quernel.ops.create import as_tensor
from quernel.ops.elementwise import add, mul, sub, where
from quernel.ops.layout import broadcast_to
from quernel.ops.op import Spec, op
from quernel.ops.operands import cast, native
from quernel.ops.reduce import mean, sum
from quernel.ops.shapes import check_floating, spec_of
from quernel.ops.unary import exp, log, neg
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Rule = Callable[..., Spec]

REDUCTIONS = ("mean", "sum", "none")


def reduced_spec(op: str, spec: Spec, reduction: str, known: tuple[str, ...] = REDUCTIONS) -> Spec:
    """What is left of losses of this shape and dtype."""
    if reduction not in known:
        names = ", ".join(repr(name) for name in known[:-1])
        raise ArgumentError(f"[{op}] reduction must be {names} or {known[-1]!r}, got {reduction!r}")
    if "mean" in reduction and 0 in spec.shape:
        raise ArgumentError(f"[{op}] an empty batch has no mean loss (losses: {spec.shape})")
    return spec if reduction == "none" else Spec((), spec.dtype)


def reduce_losses(op: str, losses: Tensor, reduction: str) -> Tensor:
    """The losses as the user wants them: their mean, their sum, or each."""
    reduced_spec(op, spec_of(losses), reduction)
    return losses if reduction == "none" else sum(losses) if reduction == "sum" else mean(losses)


def constant(op: str, name: str, value: TensorLike) -> Tensor:
    """An operand that has no gradient.

    Raises:
        StateError: One is asked for.
    """
    given = as_tensor(value)
    if needs_grad(given):
        raise StateError(f"[{op}] {name} has no gradient here; pass {name}.detach()")
    return given


def check_gamma(op: str, gamma: float) -> None:
    """Raises unless it is the exponent of a focal loss."""
    if not gamma >= 0:
        raise ArgumentError(f"[{op}] gamma is not negative, got {gamma!r}")


def _pair_rule(name: str, known: tuple[str, ...] = REDUCTIONS) -> Rule:
    def rule(x: Any, target: Any, reduction: str = "mean", pos_weight: Any = None, **_: Any) -> Spec:
        a, b = spec_of(x), spec_of(target)
        check_floating(name, "x", a.dtype)
        if a.shape != b.shape:
            raise ShapeError(f"[{name}] target has shape {b.shape}, x {a.shape}; reshape one of them")
        if pos_weight is not None:
            shape = spec_of(pos_weight).shape
            if len(shape) > len(a.shape) or any(
                n not in (1, m) for n, m in zip(shape[::-1], a.shape[::-1], strict=False)
            ):
                raise ShapeError(
                    f"[{name}] pos_weight of shape {shape} does not broadcast to the shape {a.shape} of x"
                )
        return reduced_spec(name, a, reduction, known)

    return rule


_RULES = {
    name: _pair_rule(name)
    for name in (
        "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
        "sigmoid_focal_loss",
    )
}  # fmt: skip
_RULES["kl_div"] = _pair_rule("kl_div", (*REDUCTIONS, "batchmean"))


def pair_loss(
    kind: str,
    x: Tensor,
    target: Tensor | None,
    reduction: str,
    weight: Tensor | None = None,
    a: float = 0.0,
    b: float = -1.0,
) -> Tensor:
    """A loss of pairs; `kind`, `a` and `b` are those of csrc/kernels/args/loss.h."""
    target = None if target is None else cast(target, x._t.dtype)
    t, w = native(target), native(weight)
    losses = _core.loss(kind, x._t, t, w, a, b)
    shape, scale = x._t.shape, 1.0
    axes = list(range(len(shape)))
    if reduction == "none":
        out = losses
    elif reduction == "mean":
        out, scale = _core.mean(losses, axes), 1 / math.prod(shape)
    else:
        out = _core.sum(losses, axes)
        if reduction == "batchmean":
            scale = 1 / shape[0] if shape else 1.0
            out = _core.mul(out, scale)
    if not needs_grad(x, target):
        return Tensor(out)
    of_x, of_target = x._requires_grad, target is not None and target._requires_grad

    def backward(g: Tensor, x: Tensor, t: Any, w: Any) -> Gradients:
        slope = dt = None
        if of_x or kind in _SYMMETRIC:
            slope = Tensor(_core.loss_grad(kind, x._t, native(t), native(w), g._t, a, b, scale))
        if of_target:
            if kind in _SYMMETRIC and slope is not None:
                dt = neg(slope)
            else:
                share = (
                    g if reduction == "none" else Tensor(_core.broadcast_to(_core.mul(g._t, scale), shape))
                )
                dt = mul(share, _target_slope(kind, x, t, w, a, b))
        return (slope if of_x else None, dt)

    return put_on_tape(out, (x, target), backward, (x._t, t, w))


_SYMMETRIC = ("mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss")


def _target_slope(kind: str, x: Tensor, t: Tensor, w: Tensor | None, a: float, b: float) -> Tensor:
    if kind == "kl_div":
        return where(gt(t, 0.0), sub(add(log(t), 1.0), x), 0.0)
    if kind == "kl_div_log":
        return mul(exp(t), add(sub(t, x), 1.0))
    # The others are linear in t: their slope is what they are at 1 less what they are at 0.
    ends = [
        Tensor(_core.loss(kind, x._t, _core.full(t.shape, value, t.dtype, x.device), native(w), a, b))
        for value in (1.0, 0.0)
    ]
    return sub(*ends)


@op(shape=_RULES["mse_loss"])
def mse_loss(x: TensorLike, target: TensorLike, reduction: str = "mean") -> Tensor:
    """Returns the mean of ``(x - target) ** 2`` over all elements.

    Args:
        x: Predictions, of any shape.
        target: Of the same shape: broadcasting here is nearly always a mistake.
        reduction: "mean", "sum" or "none".

    Raises:
        ShapeError: The shapes differ.
        ArgumentError: There is no such reduction, or nothing to take a mean of.
    """
    a, b = as_tensor(x), as_tensor(target)
    _RULES["mse_loss"](a, b, reduction)
    return pair_loss("mse_loss", a, b, reduction)


@op(shape=_RULES["l1_loss"])
def l1_loss(x: TensorLike, target: TensorLike, reduction: str = "mean") -> Tensor:
    """Returns the mean of ``|x - target|`` over all elements; the gradient at 0 is 0. Otherwise as `mse_loss`."""
    a, b = as_tensor(x), as_tensor(target)
    _RULES["l1_loss"](a, b, reduction)
    return pair_loss("l1_loss", a, b, reduction)


@op(shape=_RULES["huber_loss"])
def huber_loss(x: TensorLike, target: TensorLike, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Returns the mean of ``d ** 2 / 2`` where ``d = |x - target| < delta``, else ``delta (d - delta / 2)``.

    Huber, "Robust Estimation of a Location Parameter", 1964. Otherwise as `mse_loss`.

    Example:
        >>> qn.ops.huber_loss(qn.tensor([0.5, 3.0]), qn.tensor([0.0, 0.0]), "none")
        tensor([0.125, 2.5  ], dtype=float32)
    """
    a, b = as_tensor(x), as_tensor(target)
    _RULES["huber_loss"](a, b, reduction)
    if not delta > 0:
        raise ArgumentError(f"[huber_loss] delta is positive, got {delta!r}")
    return pair_loss("huber_loss", a, b, reduction, a=delta)


@op(shape=_RULES["smooth_l1_loss"])
def smooth_l1_loss(x: TensorLike, target: TensorLike, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """Returns `huber_loss` with ``delta = beta``, divided by beta; `l1_loss` for 0."""
    a, b = as_tensor(x), as_tensor(target)
    _RULES["smooth_l1_loss"](a, b, reduction)
    if not beta >= 0:
        raise ArgumentError(f"[smooth_l1_loss] beta is not negative, got {beta!r}")
    return pair_loss("smooth_l1_loss", a, b, reduction, a=beta)


@op(shape=_RULES["binary_cross_entropy"])
def binary_cross_entropy(x: TensorLike, target: TensorLike, reduction: str = "mean") -> Tensor:
    """Returns the mean of ``-(target log(x) + (1 - target) log(1 - x))``; logarithms below -100 count as -100.

    Prefer `binary_cross_entropy_with_logits`, which neither limits nor rounds what a sigmoid saturates.

    Args:
        x: Probabilities.
        target: Of the same shape, in [0, 1].
        reduction: "mean", "sum" or "none".

    Raises:
        ShapeError: The shapes differ.
        ArgumentError: A number outside [0, 1]. NaN in ``x`` makes the loss NaN.

    Example:
        >>> qn.ops.binary_cross_entropy(qn.tensor([0.5, 0.0]), qn.tensor([1.0, 1.0]), "none")
        tensor([  0.6931472, 100.       ], dtype=float32)
    """
    a, b = as_tensor(x), as_tensor(target)
    _RULES["binary_cross_entropy"](a, b, reduction)
    return pair_loss("binary_cross_entropy", a, b, reduction)


@op(shape=_RULES["binary_cross_entropy_with_logits"])
def binary_cross_entropy_with_logits(
    x: TensorLike, target: TensorLike, reduction: str = "mean", pos_weight: TensorLike | None = None
) -> Tensor:
    """Returns `binary_cross_entropy` of ``sigmoid(x)``, exact for large logits too.

    Args:
        x: Logits.
        target: Of the same shape, in [0, 1].
        reduction: "mean", "sum" or "none".
        pos_weight: Factor of the part ``target log(sigmoid(x))``; broadcasts to the shape of x.

    Raises:
        ShapeError: The shapes do not fit.
        ArgumentError: A target outside [0, 1].

    Example:
        >>> qn.ops.binary_cross_entropy_with_logits(qn.tensor([0.0, 100.0]), qn.tensor([1.0, 0.0]), "none")
        tensor([  0.6931472, 100.       ], dtype=float32)
    """
    a, b = as_tensor(x), as_tensor(target)
    _RULES["binary_cross_entropy_with_logits"](a, b, reduction, pos_weight)
    weight = None
    if pos_weight is not None:
        factors = constant("binary_cross_entropy_with_logits", "pos_weight", pos_weight)
        weight = broadcast_to(cast(factors, a.dtype), a.shape)
    return pair_loss("binary_cross_entropy_with_logits", a, b, reduction, weight)


@op(shape=_RULES["sigmoid_focal_loss"])
def sigmoid_focal_loss(
    x: TensorLike, target: TensorLike, reduction: str = "mean", alpha: float | None = None, gamma: float = 2.0
) -> Tensor:
    """Returns the mean of ``-alpha_t (1 - p_t)^gamma log(p_t)``, where p_t is the probability of the target.

    Lin et al., "Focal Loss for Dense Object Detection", arXiv 1708.02002. A target between 0 and 1 mixes the losses of 1 and
    of 0.

    Args:
        x: Logits of independent yes-or-no decisions.
        target: Of the same shape, in [0, 1].
        reduction: "mean", "sum" or "none".
        alpha: Factor of positive targets, in [0, 1]; negative ones get 1 - alpha. None: both 1.
        gamma: Not negative; 0 without alpha gives `binary_cross_entropy_with_logits`.

    Example:
        >>> qn.ops.sigmoid_focal_loss(qn.tensor([0.0, 0.0]), qn.tensor([1.0, 0.0]), "none", alpha=0.25)
        tensor([0.0433217, 0.1299651], dtype=float32)
    """
    a, b = as_tensor(x), as_tensor(target)
    _RULES["sigmoid_focal_loss"](a, b, reduction)
    check_gamma("sigmoid_focal_loss", gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ArgumentError(f"[sigmoid_focal_loss] alpha lies in [0, 1], got {alpha!r}")
    return pair_loss("sigmoid_focal_loss", a, b, reduction, a=gamma, b=-1.0 if alpha is None else alpha)


@op(shape=_RULES["kl_div"])
def kl_div(x: TensorLike, target: TensorLike, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Returns the Kullback-Leibler divergence, ``target (log(target) - x)`` of each element; 0 where the target is 0.

    Args:
        x: Logarithms of the model's probabilities.
        target: Probabilities of the same shape, or their logarithms.
        reduction: "batchmean" is the sum divided by the length of the first axis, the divergence of a sample; "mean" is that
            over all elements; "sum" or "none".
        log_target: Whether the target holds logarithms.

    Raises:
        ShapeError: The shapes differ.
        ArgumentError: A target outside [0, 1].

    Example:
        >>> x = qn.ops.log_softmax(qn.tensor([[0.0, 0.0]]))
        >>> qn.ops.kl_div(x, qn.tensor([[1.0, 0.0]]), "batchmean")
        tensor(0.6931472, dtype=float32)
    """
    a, b = as_tensor(x), as_tensor(target)
    _RULES["kl_div"](a, b, reduction)
    return pair_loss("kl_div_log" if log_target else "kl_div", a, b, reduction)
