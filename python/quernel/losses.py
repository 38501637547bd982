"""Losses: functions of a model's output and the target that return a scalar tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from quernel import ops
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: TensorLike, labels: TensorLike, reduction: str = "mean") -> Tensor:
    """Cross-entropy of a softmax: the mean of ``-log(softmax(logits)[label])``; see `ops.cross_entropy`.

    Args:
        logits: (N, C) scores, not normalized.
        labels: (N,) whole numbers from 0 to C - 1, of any integer dtype.
        reduction: "mean", "sum" or "none".

    Example:
        >>> round(losses.cross_entropy(np.zeros((3, 10), np.float32), np.array([1, 2, 3])).item(), 4)
        2.3026
    """
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
        labels = labels.astype(np.int64, copy=False)  # tensors have no 16-bit integers
    return ops.cross_entropy(logits, labels, reduction)


def mse(output: TensorLike, target: TensorLike, reduction: str = "mean") -> Tensor:
    """Mean of ``(output - target)²``; both have one shape; see `ops.mse_loss`.

    Example:
        >>> losses.mse(np.array([1.0, 2.0]), np.array([1.0, 4.0])).item()
        2.0
    """
    return ops.mse_loss(output, target, reduction)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mse}
