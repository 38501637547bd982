"""Connectionist temporal classification: a loss for labels whose places in a sequence nobody has marked.

A model gives, for each time step, the logarithms of the probabilities of all labels and of a blank. An alignment is a label or
blank for each step; it spells what is left when repeats are merged and blanks removed. The loss is that of all alignments
together that spell the target (Graves et al., Connectionist Temporal Classification, ICML 2006). `quernel.text` decodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from quernel import _core
from quernel.autograd import Gradients, needs_grad, put_on_tape
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.ops.compare import eq, ge
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import INTEGER
from quernel.ops.elementwise import div, maximum, where
from quernel.ops.loss import reduce_losses, reduced_spec
from quernel.ops.op import Spec, op
from quernel.ops.operands import cast, native
from quernel.ops.shapes import check_floating, check_lengths, check_rank, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


def _rule(
    log_probs: Any, targets: Any, input_lengths: Any = None, target_lengths: Any = None, blank: Any = 0,
    reduction: str = "mean", **_: Any,
) -> Spec:  # fmt: skip
    a, wanted = spec_of(log_probs), spec_of(targets)
    check_rank("ctc_loss", "log_probs", a.shape, 3, "(N, T, classes)")
    check_floating("ctc_loss", "log_probs", a.dtype)
    n, steps, classes = a.shape
    if steps == 0 or classes == 0:
        raise ShapeError(f"[ctc_loss] log_probs has no time steps or no classes: {a.shape}, (N, T, classes)")
    if len(wanted.shape) != 2 or wanted.shape[0] != n:
        raise ShapeError(
            f"[ctc_loss] targets has shape {wanted.shape}, expected (N, labels) = ({n}, labels), rows filled up to one length "
            f"(log_probs: {a.shape})"
        )
    if wanted.dtype not in INTEGER:
        raise DTypeError(f"[ctc_loss] targets are whole numbers, got {wanted.dtype}")
    for name, lengths in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        check_lengths("ctc_loss", name, lengths, n, f"log_probs: {a.shape}")
    if not isinstance(blank, int | np.integer) or isinstance(blank, bool) or not 0 <= blank < classes:
        raise ArgumentError(
            f"[ctc_loss] blank is one of the {classes} classes, 0 to {classes - 1}, got {blank!r}"
        )
    return reduced_spec("ctc_loss", Spec((n,), a.dtype), reduction)


@op(shape=_rule)
def ctc_loss(
    log_probs: TensorLike,
    targets: TensorLike,
    input_lengths: TensorLike | None = None,
    target_lengths: TensorLike | None = None,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Returns ``-log(sum over alignments that spell the target of prod_t p_t)``; see the module.

    A row whose target is longer than its sequence (equal neighbours need a blank between) has no alignment: its loss is
    infinite and its gradient 0, where PyTorch's is NaN.

    Args:
        log_probs: (N, T, classes), logarithms of probabilities, as from `log_softmax`. PyTorch wants (T, N, classes).
        targets: (N, labels), whole numbers; what lies behind a row's length is not looked at.
        input_lengths: (N,), the steps of each row, at least 1; None: all T.
        target_lengths: (N,), the labels of each row; None: those that are not negative, so that -1 fills rows up.
        blank: the class of the blank.
        reduction: "sum", "none", or "mean", which divides each loss by the row's number of labels first, as PyTorch does.
        zero_infinity: whether infinite losses count as 0.

    Raises:
        ShapeError, DTypeError: The operands do not fit.
        ArgumentError: A label, or a number of steps or labels, out of range, a blank among the labels, an unknown reduction.

    Example:
        >>> log_probs = qn.ops.log_softmax(qn.zeros((1, 3, 2)))     # all 8 alignments are equally likely,
        >>> round(qn.ops.ctc_loss(log_probs, [[1]]).item(), 4)      # 6 spell "1": 1--, -1-, --1, 11-, -11, 111
        0.2877
    """
    a = as_tensor(log_probs)
    _rule(a, targets, input_lengths, target_lengths, blank, reduction)
    wanted = cast(as_tensor(targets), "int64")
    steps = None if input_lengths is None else cast(as_tensor(input_lengths), "int64")
    counted = cast(ge(wanted, 0), "int64").sum(1) if target_lengths is None else as_tensor(target_lengths)
    labels = cast(counted, "int64")
    losses = _losses(a, wanted, steps, labels, blank)
    if zero_infinity:
        losses = where(eq(losses, float("inf")), 0.0, losses)
    if reduction == "mean":
        losses = div(losses, maximum(cast(labels, losses.dtype), 1.0))
    return reduce_losses("ctc_loss", losses, reduction)


def _losses(a: Tensor, targets: Tensor, steps: Tensor | None, labels: Tensor, blank: int) -> Tensor:
    losses, grad = _core.ctc_loss(a._t, targets._t, native(steps), labels._t, blank, needs_grad(a))
    if grad is None:
        return Tensor(losses)

    def backward(g: Tensor, slope: Tensor) -> Gradients:
        return (slope * g.reshape(-1, 1, 1),)

    return put_on_tape(losses, (a,), backward, (grad,))
