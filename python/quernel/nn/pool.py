"""Pooling of images (N, H, W, C)."""

from __future__ import annotations

from quernel import ops
from quernel.nn.checks import Size2, pair
from quernel.nn.module import Module
from quernel.tensor import Tensor


class MaxPool2d(Module):
    """The largest value of each window; padding never wins.

    Args:
        kernel_size: height and width of the window.
        stride: steps of the window; None is `kernel_size`.
        padding: cells on each side, at most half a window.

    Shapes:
        x (N, H, W, C) -> y (N, OH, OW, C), OH = (H + 2·padding - KH) // stride + 1.

    Example:
        >>> nn.MaxPool2d(2)(np.ones((1, 8, 8, 3))).shape
        (1, 4, 4, 3)
    """

    def __init__(self, kernel_size: Size2, stride: Size2 | None = None, padding: Size2 = 0) -> None:
        self.kernel_size = pair("max_pool2d", "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair("max_pool2d", "stride", stride)
        self.padding = pair("max_pool2d", "padding", padding, least=0)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.max_pool2d(x, self.kernel_size, stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(Module):
    """The mean of each window.

    Args:
        kernel_size: height and width of the window.
        stride: steps of the window; None is `kernel_size`.
        padding: zeros on each side.
        count_include_pad: whether padding counts in the mean.

    Shapes:
        x (N, H, W, C) -> y (N, OH, OW, C), OH = (H + 2·padding - KH) // stride + 1.
    """

    def __init__(
        self,
        kernel_size: Size2,
        stride: Size2 | None = None,
        padding: Size2 = 0,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size = pair("avg_pool2d", "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair("avg_pool2d", "stride", stride)
        self.padding = pair("avg_pool2d", "padding", padding, least=0)
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.avg_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            count_include_pad=self.count_include_pad,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class GlobalAvgPool2d(Module):
    """The mean over height and width: (N, H, W, C) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.global_avg_pool2d(x)
