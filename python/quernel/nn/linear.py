"""Fully connected layers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from quernel import ops
from quernel.nn import init
from quernel.nn.checks import positive
from quernel.nn.module import Module
from quernel.nn.parameter import Parameter
from quernel.nn.sized import SizedByInput, fill
from quernel.tensor import Tensor


class Linear(SizedByInput):
    """y = x·weightᵀ + bias, over the last axis.

    Weight and bias start uniform in ±1/sqrt(in_features), as in PyTorch.

    Args:
        in_features: size of the last axis of x; None takes it from the first input.
        out_features: size of the last axis of y.
        bias: whether to add one.
        precision: "bf16" multiplies in bfloat16 with float32 sums, see `ops.linear`; None in the dtype of the weight.
            `compile` sets it.

    Shapes:
        x (..., in_features), weight (out_features, in_features), bias (out_features) -> y (..., out_features).

    Example:
        >>> nn.Linear(None, 3)(np.ones((2, 5))).shape
        (2, 3)
    """

    _has_precision = True
    _size_name = "in_features"

    def __init__(
        self,
        in_features: int | None,
        out_features: int,
        bias: bool = True,
        precision: str | None = None,
    ) -> None:
        self.in_features = positive("linear", "in_features", in_features) if in_features is not None else None
        self.out_features = positive("linear", "out_features", out_features)
        self.weight = Parameter()
        self.bias = Parameter() if bias else None
        self.precision = precision
        self._size(in_features)

    def _build(self, channels: int) -> None:
        bound = 1 / math.sqrt(max(1, channels))
        fill(self.weight, (self.out_features, channels), lambda w: init.uniform_(w, -bound, bound))
        fill(self.bias, (self.out_features,), lambda b: init.uniform_(b, -bound, bound))

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        return shapes["weight"][-1]

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.linear(x, self.weight, self.bias, precision=self.precision)

    def extra_repr(self) -> str:
        bias = ", bias=False" if self.bias is None else ""
        precision = f", precision={self.precision!r}" if self.precision else ""
        return f"{self.in_features}, {self.out_features}{bias}{precision}"


class Identity(Module):
    """y = x; a place holder, such as a shortcut that changes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns x."""
        return x


class Flatten(Module):
    """Merges all axes from `start_dim` on: (N, H, W, C) -> (N, H·W·C).

    Example:
        >>> nn.Flatten()(np.ones((2, 4, 4, 3))).shape
        (2, 48)
    """

    def __init__(self, start_dim: int = 1) -> None:
        self.start_dim = start_dim

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.flatten(x, self.start_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}" if self.start_dim != 1 else ""
