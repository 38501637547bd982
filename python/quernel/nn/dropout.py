"""Dropout."""

from __future__ import annotations

from quernel import ops
from quernel.nn.checks import in_unit_interval
from quernel.nn.module import Module
from quernel.tensor import Tensor


class Dropout(Module):
    """In training, zeroes each element with probability `p` and scales the others by 1 / (1 - p); else y = x.

    The draws come from the library's random stream (`qn.seed`): they do not depend on threads, on the instruction set,
    or on whether the step runs eagerly or as a plan.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = in_unit_interval("dropout", "p", p)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"
