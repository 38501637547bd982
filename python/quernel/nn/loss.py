"""Losses as modules."""

from __future__ import annotations

from typing import Any

from quernel import losses
from quernel.errors import ArgumentError
from quernel.nn.module import Module
from quernel.tensor import Tensor


class _Loss(Module):
    """A loss with its way of combining samples."""

    takes_integers = True

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in ("mean", "sum", "none"):
            raise ArgumentError(
                f"[{type(self).__name__}] reduction is 'mean', 'sum' or 'none', got {reduction!r}"
            )
        self.reduction = reduction

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}" if self.reduction != "mean" else ""


class CrossEntropyLoss(_Loss):
    """Cross-entropy of a softmax; see `losses.cross_entropy`.

    Args:
        reduction: "mean", "sum" or "none".

    Shapes:
        logits (N, C), labels (N,) whole numbers -> (), or (N,) with "none".

    Example:
        >>> round(nn.CrossEntropyLoss()(np.zeros((3, 10), np.float32), np.array([1, 2, 3])).item(), 4)
        2.3026
    """

    def forward(self, logits: Tensor, labels: Any) -> Tensor:
        """The loss."""
        return losses.cross_entropy(logits, labels, self.reduction)


class MSELoss(_Loss):
    """Mean squared error; see `losses.mse`.

    Args:
        reduction: "mean", "sum" or "none".

    Shapes:
        output and target of one shape -> (), or that shape with "none".

    Example:
        >>> nn.MSELoss()(np.array([1.0, 2.0]), np.array([1.0, 4.0])).item()
        2.0
    """

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss."""
        return losses.mse(output, target, self.reduction)
