"""Padding of images (N, H, W, C) and sequences (N, T, C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from quernel import ops
from quernel.errors import ArgumentError
from quernel.nn.module import Module
from quernel.tensor import Tensor

PadSize = int | Sequence[int]


class _Pad(Module):
    """Base of the padding layers: widths in PyTorch's order, from the last axis to the first."""

    _mode: ClassVar[str]
    _axes: ClassVar[int]  # padded, of the axes between the batch and the channels
    _layout: ClassVar[str]
    value: float = 0.0

    def __init__(self, padding: PadSize) -> None:
        count = 2 * self._axes
        widths = tuple(padding) if isinstance(padding, Sequence) else (padding,) * count
        name = type(self).__name__
        if len(widths) != count:
            raise ArgumentError(f"[{name}] padding is one integer or {count} {self._layout}, got {padding!r}")
        for width in widths:
            if isinstance(width, bool) or not hasattr(width, "__index__") or int(width) < 0:
                raise ArgumentError(f"[{name}] padding holds integers from 0 on, got {padding!r}")
        self.padding = tuple(int(width) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        pairs = [self.padding[i : i + 2] for i in range(0, len(self.padding), 2)]
        widths = [(0, 0), *reversed(pairs), (0, 0)]
        return ops.pad(x, widths, mode=self._mode, value=self.value)

    def extra_repr(self) -> str:
        return str(self.padding)


class _Pad1d(_Pad):
    _axes = 1
    _layout = "(before, after)"


class _Pad2d(_Pad):
    _axes = 2
    _layout = "(left, right, top, bottom)"


class _Constant(_Pad):
    _mode = "constant"

    def __init__(self, padding: PadSize, value: float) -> None:
        super().__init__(padding)
        self.value = float(value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad2d(_Constant, _Pad2d):
    """Surrounds images with a number.

    Args:
        padding: pixels on each side, or (left, right, top, bottom).
        value: what they hold.

    Shapes:
        x (N, H, W, C) -> y (N, H + top + bottom, W + left + right, C).

    Example:
        >>> nn.ConstantPad2d((1, 2, 0, 0), 5.0)(np.ones((1, 4, 4, 3))).shape
        (1, 4, 7, 3)
    """


class ConstantPad1d(_Constant, _Pad1d):
    """Surrounds sequences with a number: x (N, T, C) -> y (N, T + before + after, C).

    Args:
        padding: steps on each side, or (before, after).
        value: what they hold.
    """


class ZeroPad2d(_Pad2d):
    """Surrounds images (N, H, W, C) with zeros.

    Args:
        padding: pixels on each side, or (left, right, top, bottom).

    Example:
        >>> nn.ZeroPad2d(1)(np.ones((1, 4, 4, 3))).shape
        (1, 6, 6, 3)
    """

    _mode = "constant"


class ReflectionPad2d(_Pad2d):
    """Surrounds images (N, H, W, C) with their mirror image; the edge itself is not repeated.

    Args:
        padding: pixels on each side, or (left, right, top, bottom); each less than the image.
    """

    _mode = "reflect"


class ReplicationPad2d(_Pad2d):
    """Surrounds images (N, H, W, C) with their edge.

    Args:
        padding: pixels on each side, or (left, right, top, bottom).
    """

    _mode = "replicate"


class CircularPad2d(_Pad2d):
    """Surrounds images (N, H, W, C) with their opposite side, as if they tiled the plane.

    Args:
        padding: pixels on each side, or (left, right, top, bottom); each no more than the image.
    """

    _mode = "circular"


class ZeroPad1d(_Pad1d):
    """Surrounds sequences (N, T, C) with zeros.

    Args:
        padding: steps on each side, or (before, after).

    Example:
        >>> nn.ZeroPad1d((2, 0))(np.ones((1, 4, 3))).shape
        (1, 6, 3)
    """

    _mode = "constant"


class ReflectionPad1d(_Pad1d):
    """Surrounds sequences (N, T, C) with their mirror image; the ends themselves are not repeated.

    Args:
        padding: steps on each side, or (before, after); each less than the sequence.
    """

    _mode = "reflect"


class ReplicationPad1d(_Pad1d):
    """Surrounds sequences (N, T, C) with their ends.

    Args:
        padding: steps on each side, or (before, after).
    """

    _mode = "replicate"


class CircularPad1d(_Pad1d):
    """Surrounds sequences (N, T, C) with their opposite end.

    Args:
        padding: steps on each side, or (before, after); each no more than the sequence.
    """

    _mode = "circular"
