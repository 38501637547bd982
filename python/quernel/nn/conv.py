"""Convolutions. Images are (N, H, W, C), weights (O, KH, KW, I/groups)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from quernel import ops
from quernel.errors import ArgumentError, ShapeError
from quernel.nn import init
from quernel.nn.checks import Padding, Pair, Size2, pair, positive
from quernel.nn.parameter import Parameter
from quernel.nn.sized import SizedByInput, fill
from quernel.tensor import Tensor


class Conv2d(SizedByInput):
    """2-D convolution (cross-correlation) of images.

    Weight and bias start uniform in ±1/sqrt(fan_in), fan_in = in_channels/groups·KH·KW, as in PyTorch.

    Args:
        in_channels: channels of x; None takes them from the first input.
        out_channels: channels of y.
        kernel_size: height and width of the window.
        stride: steps of the window.
        padding: zeros on each side, or "same": as many as keep H and W (stride 1 only).
        dilation: steps between the taps of the window.
        groups: channel groups that do not see each other.
        bias: whether to add one.

    Shapes:
        x (N, H, W, in_channels), weight (out_channels, KH, KW, in_channels/groups), bias (out_channels) ->
        y (N, OH, OW, out_channels), OH = (H + 2·padding - dilation·(KH - 1) - 1) // stride + 1.

    Example:
        >>> nn.Conv2d(None, 8, 3, padding="same")(np.ones((2, 5, 5, 3))).shape
        (2, 5, 5, 8)
    """

    _size_name = "in_channels"

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Padding = 0,
        dilation: Size2 = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        self.in_channels = positive("conv2d", "in_channels", in_channels) if in_channels is not None else None
        self.out_channels = positive("conv2d", "out_channels", out_channels)
        self.kernel_size = pair("conv2d", "kernel_size", kernel_size)
        self.stride = pair("conv2d", "stride", stride)
        self.dilation = pair("conv2d", "dilation", dilation)
        self.padding = self._checked_padding(padding)
        self.groups = positive("conv2d", "groups", groups)
        if self.out_channels % self.groups:
            raise ArgumentError(f"[conv2d] groups={groups} does not divide out_channels={out_channels}")
        self.weight = Parameter()
        self.bias = Parameter() if bias else None
        self._size(in_channels)

    def _checked_padding(self, padding: Padding) -> Pair | Literal["same"]:
        if not isinstance(padding, str):
            return pair("conv2d", "padding", padding, least=0)
        if padding != "same":
            raise ArgumentError(f"[conv2d] padding is an integer, a pair or 'same', got {padding!r}")
        if self.stride != (1, 1):
            raise ArgumentError(
                f"[conv2d] padding='same' needs stride 1, got {self.stride}; give numbers instead"
            )
        return "same"

    def _build(self, channels: int) -> None:
        if channels % self.groups:
            raise ShapeError(f"[conv2d] groups={self.groups} does not divide the {channels} input channels")
        shape = (self.out_channels, *self.kernel_size, channels // self.groups)
        bound = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        fill(self.weight, shape, lambda w: init.uniform_(w, -bound, bound))
        fill(self.bias, (self.out_channels,), lambda b: init.uniform_(b, -bound, bound))

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        return shapes["weight"][-1] * self.groups

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        parts += [f"stride={self.stride}"] if self.stride != (1, 1) else []
        parts += [f"padding={self.padding!r}"] if self.padding != (0, 0) else []
        parts += [f"dilation={self.dilation}"] if self.dilation != (1, 1) else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        return ", ".join(parts)
