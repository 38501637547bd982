"""Pooling of images (N, H, W, C) and sequences (N, T, C)."""

from __future__ import annotations

from collections.abc import Sequence

from quernel import ops
from quernel.errors import ArgumentError
from quernel.nn.checks import Size2, pair
from quernel.nn.module import Module
from quernel.tensor import Tensor

OutputSize = int | None | Sequence[int | None]


def _one(layer: str, name: str, value: int | Sequence[int], least: int = 1) -> int:
    """A size along a sequence."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(values) != 1:
        raise ArgumentError(f"[{layer}] {name} is one integer, got {value!r}")
    return pair(layer, name, values[0], least)[0]


def _window(kernel_size: object, stride: object, padding: object, **others: object) -> str:
    """The repr of a window: those of `others` that are not their defaults follow."""
    parts = [f"kernel_size={kernel_size}", f"stride={stride}", f"padding={padding}"]
    return ", ".join(parts + [f"{k}={v}" for k, v in others.items() if v is not None])


class MaxPool2d(Module):
    """The largest value of each window; padding never wins.

    Args:
        kernel_size: height and width of the window.
        stride: steps of the window; None is `kernel_size`.
        padding: cells on each side, at most half a window.
        dilation: distance between the cells of a window.
        ceil_mode: whether a last window may reach over the end, so that no cell is left out.

    Shapes:
        x (N, H, W, C) -> y (N, OH, OW, C), OH = (H + 2·padding - dilation·(KH - 1) - 1) // stride + 1 (rounded up with
        `ceil_mode`).

    Example:
        >>> nn.MaxPool2d(2)(np.ones((1, 8, 8, 3))).shape
        (1, 4, 4, 3)
    """

    def __init__(
        self,
        kernel_size: Size2,
        stride: Size2 | None = None,
        padding: Size2 = 0,
        dilation: Size2 = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size = pair("max_pool2d", "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair("max_pool2d", "stride", stride)
        self.padding = pair("max_pool2d", "padding", padding, least=0)
        self.dilation = pair("max_pool2d", "dilation", dilation)
        self.ceil_mode = bool(ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        dilation = None if self.dilation == (1, 1) else self.dilation
        return _window(
            self.kernel_size, self.stride, self.padding, dilation=dilation, ceil_mode=self.ceil_mode or None
        )


class MaxPool1d(Module):
    """`MaxPool2d` of sequences (N, T, C); all sizes are one number.

    Example:
        >>> nn.MaxPool1d(2)(np.ones((1, 8, 3))).shape
        (1, 4, 3)
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size = _one("max_pool1d", "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else _one("max_pool1d", "stride", stride)
        self.padding = _one("max_pool1d", "padding", padding, least=0)
        self.dilation = _one("max_pool1d", "dilation", dilation)
        self.ceil_mode = bool(ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.max_pool1d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        dilation = None if self.dilation == 1 else self.dilation
        return _window(
            self.kernel_size, self.stride, self.padding, dilation=dilation, ceil_mode=self.ceil_mode or None
        )


class AvgPool2d(Module):
    """The mean of each window.

    Args:
        kernel_size: height and width of the window.
        stride: steps of the window; None is `kernel_size`.
        padding: zeros on each side.
        ceil_mode: whether a last window may reach over the end; what it has there does not count.
        count_include_pad: whether padding counts in the mean.

    Shapes:
        x (N, H, W, C) -> y (N, OH, OW, C), OH = (H + 2·padding - KH) // stride + 1 (rounded up with `ceil_mode`).
    """

    def __init__(
        self,
        kernel_size: Size2,
        stride: Size2 | None = None,
        padding: Size2 = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size = pair("avg_pool2d", "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair("avg_pool2d", "stride", stride)
        self.padding = pair("avg_pool2d", "padding", padding, least=0)
        self.ceil_mode = bool(ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )

    def extra_repr(self) -> str:
        return _window(self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode or None)


class AvgPool1d(Module):
    """`AvgPool2d` of sequences (N, T, C); all sizes are one number."""

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size = _one("avg_pool1d", "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else _one("avg_pool1d", "stride", stride)
        self.padding = _one("avg_pool1d", "padding", padding, least=0)
        self.ceil_mode = bool(ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.avg_pool1d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )

    def extra_repr(self) -> str:
        return _window(self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode or None)


class _Adaptive2d(Module):
    """Base of the adaptive layers of images."""

    def __init__(self, output_size: OutputSize) -> None:
        values = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * 2
        pair(type(self).__name__, "output_size", [1 if v is None else v for v in values])
        self.output_size = values

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool2d(_Adaptive2d):
    """The mean over windows chosen for an output of the given size; see `ops.adaptive_avg_pool2d`.

    Args:
        output_size: height and width of the output; None keeps a side.

    Shapes:
        x (N, H, W, C) -> y (N, *output_size, C).

    Example:
        >>> nn.AdaptiveAvgPool2d(1)(np.ones((2, 7, 5, 3))).shape
        (2, 1, 1, 3)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool2d(_Adaptive2d):
    """The largest value over windows chosen for an output of the given size; see `ops.adaptive_avg_pool2d`.

    Args:
        output_size: height and width of the output; None keeps a side.

    Shapes:
        x (N, H, W, C) -> y (N, *output_size, C).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.adaptive_max_pool2d(x, self.output_size)


class _Adaptive1d(Module):
    """Base of the adaptive layers of sequences."""

    def __init__(self, output_size: int | Sequence[int]) -> None:
        self.output_size = _one(type(self).__name__, "output_size", output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive1d):
    """`AdaptiveAvgPool2d` of sequences: x (N, T, C) -> y (N, output_size, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.adaptive_avg_pool1d(x, self.output_size)


class AdaptiveMaxPool1d(_Adaptive1d):
    """`AdaptiveMaxPool2d` of sequences: x (N, T, C) -> y (N, output_size, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.adaptive_max_pool1d(x, self.output_size)


class GlobalAvgPool2d(Module):
    """The mean over height and width: (N, H, W, C) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.global_avg_pool2d(x)


class GlobalMaxPool2d(Module):
    """The largest value over height and width: (N, H, W, C) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.global_max_pool2d(x)
