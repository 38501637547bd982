"""Losses: functions of a model's output and the target that return a scalar tensor.

Each is a function ``f(output, target, reduction="mean")``; its formula, and that of its gradient, is the op's of PyTorch's
name in `quernel.ops`. Common to all:

- ``reduction``: "mean" over all losses, "sum", or "none", which returns a loss for each sample (for each element, where
  output and target have one shape).
- ``sample_weight``: (N,), a factor for the losses of each sample. "mean" then divides by the number of losses, not by the sum
  of the weights, as Keras does: a sample of weight 2 counts like two, and a batch of light samples has a small loss.
- Shapes never broadcast: (N, 1) against (N,) is an error, not an (N, N) mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from quernel import ops
from quernel.errors import ArgumentError, ShapeError
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Loss = Callable[[Tensor, Tensor], Tensor]

_IGNORED = -100


def cross_entropy(
    output: TensorLike,
    target: TensorLike,
    reduction: str = "mean",
    *,
    weight: TensorLike | None = None,
    ignore_index: int = _IGNORED,
    label_smoothing: float = 0.0,
    sample_weight: TensorLike | None = None,
) -> Tensor:
    """Cross-entropy of a softmax: the mean of ``-log(softmax(output)[label])``; see `ops.cross_entropy`.

    Args:
        output: (..., C) scores, not normalized.
        target: (...) whole numbers from 0 to C - 1, of any integer dtype; or (..., C) floats, a distribution over the classes
            for each sample.
        reduction: "mean", "sum" or "none". With class weights the mean is weighted, ``sum(losses) / sum(weight[label])``.
        weight: (C,), a factor for the losses of each class.
        ignore_index: samples with this label have loss 0 and do not count in the mean.
        label_smoothing: share of each label that is spread evenly over all classes.
        sample_weight: a factor for each sample; the mean then divides by the number of samples that are not ignored, and class
            weights are factors only.

    Raises:
        ShapeError: shapes do not fit.
        DTypeError: labels are floats.
        ArgumentError: a label is out of range, or a target distribution leaves [0, 1].

    Example:
        >>> round(losses.cross_entropy(np.zeros((3, 10), np.float32), np.array([1, 2, 3])).item(), 4)
        2.3026
    """
    target = _whole(target)
    if sample_weight is None:
        return ops.cross_entropy(output, target, reduction, weight, ignore_index, label_smoothing)
    each = ops.cross_entropy(output, target, "none", weight, ignore_index, label_smoothing)
    return _weighted("cross_entropy", each, sample_weight, reduction, _kept(target, each, ignore_index))


def nll(
    output: TensorLike,
    target: TensorLike,
    reduction: str = "mean",
    *,
    weight: TensorLike | None = None,
    ignore_index: int = _IGNORED,
    sample_weight: TensorLike | None = None,
) -> Tensor:
    """Negative log-likelihood: the mean of ``-output[label]`` for logarithms of probabilities; see `ops.nll_loss`.

    The arguments are those of `cross_entropy`.
    """
    target = _whole(target)
    if sample_weight is None:
        return ops.nll_loss(output, target, reduction, weight, ignore_index)
    each = ops.nll_loss(output, target, "none", weight, ignore_index)
    return _weighted("nll", each, sample_weight, reduction, _kept(target, each, ignore_index))


def binary_cross_entropy(
    output: TensorLike,
    target: TensorLike,
    reduction: str = "mean",
    *,
    sample_weight: TensorLike | None = None,
) -> Tensor:
    """Mean of ``-(target log(output) + (1 - target) log(1 - output))``; see `ops.binary_cross_entropy`.

    Args:
        output: probabilities. Logarithms below -100 count as -100; `binary_cross_entropy_with_logits` needs no such limit.
        target: of the same shape, in [0, 1].
        reduction: "mean", "sum" or "none".
        sample_weight: a factor for each sample.

    Raises:
        ShapeError: the shapes differ.
        ArgumentError: a number leaves [0, 1].

    Example:
        >>> round(losses.binary_cross_entropy(np.array([0.5, 0.5]), np.array([1, 0])).item(), 4)
        0.6931
    """
    return _of_pairs(ops.binary_cross_entropy, output, target, reduction, sample_weight)


def binary_cross_entropy_with_logits(
    output: TensorLike,
    target: TensorLike,
    reduction: str = "mean",
    *,
    pos_weight: TensorLike | None = None,
    sample_weight: TensorLike | None = None,
) -> Tensor:
    """`binary_cross_entropy` of ``sigmoid(output)``, exact for large logits; see `ops.binary_cross_entropy_with_logits`.

    Args:
        output: logits.
        target: of the same shape, in [0, 1].
        reduction: "mean", "sum" or "none".
        pos_weight: factor of the losses of positive targets; broadcasts to the shape of the output.
        sample_weight: a factor for each sample.

    Raises:
        ShapeError: the shapes differ.
        ArgumentError: a target leaves [0, 1].

    Example:
        >>> losses.binary_cross_entropy_with_logits(np.array([100.0]), np.array([0])).item()
        100.0
    """
    return _of_pairs(
        ops.binary_cross_entropy_with_logits, output, target, reduction, sample_weight, pos_weight=pos_weight
    )


def mse(
    output: TensorLike,
    target: TensorLike,
    reduction: str = "mean",
    *,
    sample_weight: TensorLike | None = None,
) -> Tensor:
    """Mean of ``(output - target)²``; both have one shape; see `ops.mse_loss`.

    Example:
        >>> losses.mse(np.array([1.0, 2.0]), np.array([1.0, 4.0])).item()
        2.0
    """
    return _of_pairs(ops.mse_loss, output, target, reduction, sample_weight)


def mae(
    output: TensorLike,
    target: TensorLike,
    reduction: str = "mean",
    *,
    sample_weight: TensorLike | None = None,
) -> Tensor:
    """Mean of ``|output - target|``; both have one shape; see `ops.l1_loss`.

    Example:
        >>> losses.mae(np.array([1.0, 2.0]), np.array([1.0, 4.0])).item()
        1.0
    """
    return _of_pairs(ops.l1_loss, output, target, reduction, sample_weight)


def huber(
    output: TensorLike,
    target: TensorLike,
    reduction: str = "mean",
    *,
    delta: float = 1.0,
    sample_weight: TensorLike | None = None,
) -> Tensor:
    """Mean of ``d² / 2`` where ``d = |output - target| < delta``, else ``delta (d - delta / 2)``; see `ops.huber_loss`.

    Example:
        >>> losses.huber(np.array([0.5, 3.0]), np.array([0.0, 0.0])).item()
        1.3125
    """
    return _of_pairs(ops.huber_loss, output, target, reduction, sample_weight, delta=delta)


def smooth_l1(
    output: TensorLike,
    target: TensorLike,
    reduction: str = "mean",
    *,
    beta: float = 1.0,
    sample_weight: TensorLike | None = None,
) -> Tensor:
    """`huber` with ``delta = beta``, divided by beta; `mae` for 0; see `ops.smooth_l1_loss`.

    Example:
        >>> losses.smooth_l1(np.array([0.5, 3.0]), np.array([0.0, 0.0])).item()
        1.3125
    """
    return _of_pairs(ops.smooth_l1_loss, output, target, reduction, sample_weight, beta=beta)


def focal(
    output: TensorLike,
    target: TensorLike,
    reduction: str = "mean",
    *,
    gamma: float = 2.0,
    alpha: TensorLike | None = None,
    sample_weight: TensorLike | None = None,
) -> Tensor:
    """Focal loss, ``-alpha (1 - p)^gamma log(p)`` of the target's probability p: easy samples count little.

    Lin et al., arXiv 1708.02002; see `ops.focal_loss` and `ops.sigmoid_focal_loss`.

    Args:
        output: logits (..., C) of classes, or logits of independent yes-or-no decisions.
        target: labels (...); or of the shape of the output, in [0, 1].
        reduction: "mean" (over the samples, whatever alpha is), "sum" or "none".
        gamma: not negative; 0 gives the cross-entropy.
        alpha: of classes: a number, or one for each; of decisions: factor of the positive ones, 1 - alpha that of the others.
        sample_weight: a factor for each sample.

    Example:
        >>> round(losses.focal(np.zeros((2, 4)), np.array([0, 3])).item(), 4)
        0.7798
    """
    target = _whole(target)
    if ops.as_tensor(output).shape != ops.as_tensor(target).shape:
        return _of_pairs(ops.focal_loss, output, target, reduction, sample_weight, alpha=alpha, gamma=gamma)
    return _of_pairs(
        ops.sigmoid_focal_loss, output, target, reduction, sample_weight, alpha=alpha, gamma=gamma
    )


def kl_divergence(
    output: TensorLike,
    target: TensorLike,
    reduction: str = "batchmean",
    *,
    log_target: bool = False,
    sample_weight: TensorLike | None = None,
) -> Tensor:
    """Kullback-Leibler divergence of the model's distributions from the target's; see `ops.kl_div`.

    Args:
        output: logarithms of probabilities, as from `ops.log_softmax`.
        target: probabilities of the same shape, or their logarithms.
        reduction: "batchmean", the divergence of a sample, is the default here (PyTorch's is "mean", over all elements, and
            warns); "sum" or "none".
        log_target: whether the target holds logarithms.
        sample_weight: a factor for each sample.

    Example:
        >>> p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
        >>> round(losses.kl_divergence(np.log(q), p).item(), 4)
        0.1438
    """
    return _of_pairs(ops.kl_div, output, target, reduction, sample_weight, log_target=log_target)


def ctc(
    output: TensorLike | tuple[TensorLike, TensorLike],
    target: TensorLike,
    reduction: str = "mean",
    *,
    input_lengths: TensorLike | None = None,
    target_lengths: TensorLike | None = None,
    blank: int = 0,
    zero_infinity: bool = False,
    sample_weight: TensorLike | None = None,
) -> Tensor:
    """Connectionist temporal classification, for labels without places; see `ops.ctc_loss`.

    Args:
        output: (N, T, classes), logarithms of probabilities, as from `ops.log_softmax`; or a pair of them and input_lengths, so
            that a model which returns ``log_probs, lengths`` is trained by ``compile(loss="ctc")``.
        target: (N, labels), whole numbers, each row filled up with -1.
        reduction: "mean" over rows of the loss per label, "sum" or "none".
        input_lengths: (N,), the steps of each row; None: all.
        target_lengths: (N,), the labels of each row; None: those that are not negative.
        blank: the class of the blank.
        zero_infinity: whether rows that no alignment spells count as 0.
        sample_weight: a factor for each row. "mean" then is over rows of the loss, not divided by the number of labels.

    Example:
        >>> output = qn.ops.log_softmax(np.zeros((1, 3, 2), np.float32))
        >>> round(losses.ctc(output, np.array([[1, -1]])).item(), 4)
        0.2877
    """
    if isinstance(output, tuple):
        if len(output) != 2 or input_lengths is not None:
            raise ArgumentError(
                f"[ctc] output is log_probs, or a pair (log_probs, input_lengths), got {len(output)} items"
                + (" and input_lengths beside them" if input_lengths is not None else "")
            )
        output, input_lengths = output
    options = (_whole(target), input_lengths, target_lengths, blank)
    if sample_weight is None:
        return ops.ctc_loss(output, *options, reduction, zero_infinity)
    return _weighted("ctc", ops.ctc_loss(output, *options, "none", zero_infinity), sample_weight, reduction)


def _whole(target: TensorLike) -> TensorLike:
    """Labels in a dtype that tensors have: there are no 16-bit and no unsigned 32-bit and 64-bit integers."""
    if isinstance(target, np.ndarray) and target.dtype.kind in "iu":
        return target.astype(np.int64, copy=False)
    return target


def _of_pairs(
    loss: Callable[..., Tensor],
    output: TensorLike,
    target: TensorLike,
    reduction: str,
    sample_weight: TensorLike | None,
    **options: Any,
) -> Tensor:
    target = _whole(target)
    if sample_weight is None:
        return loss(output, target, reduction, **options)
    return _weighted(loss.__name__, loss(output, target, "none", **options), sample_weight, reduction)


def _kept(target: TensorLike, each: Tensor, ignore_index: int) -> Tensor | None:
    """How many labels are not ignored."""
    labels = ops.as_tensor(target)
    return ops.cast(ops.ne(labels, ignore_index), each.dtype).sum() if labels.shape == each.shape else None


def _weighted(
    name: str, each: Tensor, sample_weight: TensorLike, reduction: str, count: Tensor | None = None
) -> Tensor:
    """Losses times the weights of their samples, reduced; `count` replaces the number of losses."""
    weights = ops.cast(ops.as_tensor(sample_weight), each.dtype)
    if weights.shape not in (each.shape[:1], each.shape):
        raise ShapeError(f"[{name}] sample_weight has shape {weights.shape}, expected {each.shape[:1]}")
    weights = weights.reshape(weights.shape + (1,) * (each.ndim - weights.ndim))
    each = ops.mul(each, weights)
    if reduction == "batchmean":
        return ops.div(each.sum(), float(each.shape[0]) if each.ndim else 1.0)
    if reduction == "mean" and count is not None:
        return ops.div(each.sum(), count)
    return ops.loss.reduce_losses(name, each, reduction)


LOSSES: dict[str, Loss] = {
    "ctc": ctc,
    "cross_entropy": cross_entropy,
    "nll": nll,
    "bce": binary_cross_entropy,
    "bce_with_logits": binary_cross_entropy_with_logits,
    "mse": mse,
    "mae": mae,
    "huber": huber,
    "smooth_l1": smooth_l1,
    "focal": focal,
    "kl_div": kl_divergence,
}
