"""Pooling of images (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import attach
from quernel.errors import ArgumentError, ShapeError, UnsupportedError
from quernel.ops.create import as_tensor
from quernel.ops.layout import reshape
from quernel.ops.op import Spec, op
from quernel.ops.shapes import check_floating, check_rank, pair, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Pair = tuple[int, int]
Size = int | Sequence[int]


def _geometry(
    op: str, x: Spec, kernel_size: Size, stride: Size | None, padding: Size
) -> tuple[Pair, Pair, Pair, Spec]:
    check_rank(op, "x", x.shape, 4, "(N, H, W, C)")
    check_floating(op, "x", x.dtype)
    n, h, w, channels = x.shape
    kh, kw = kernel = pair(op, "kernel_size", kernel_size, 1)
    sh, sw = steps = kernel if stride is None else pair(op, "stride", stride, 1)
    ph, pw = pad = pair(op, "padding", padding, 0)
    if 2 * ph > kh or 2 * pw > kw:
        raise ArgumentError(f"[{op}] padding must be at most half the kernel size {kernel}, got {pad}")
    if h + 2 * ph < kh or w + 2 * pw < kw:
        raise ShapeError(
            f"[{op}] kernel_size {kernel} exceeds the padded image {h + 2 * ph} x {w + 2 * pw} (x: {x.shape}, NHWC)"
        )
    out = (n, (h + 2 * ph - kh) // sh + 1, (w + 2 * pw - kw) // sw + 1, channels)
    return kernel, steps, pad, Spec(out, x.dtype)


def _max_rule(x: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Spec:
    return _geometry("max_pool2d", spec_of(x), kernel_size, stride, padding)[3]


@op(shape=_max_rule)
def max_pool2d(x: TensorLike, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Tensor:
    """Returns the largest element in each window; NaN if there is one. The gradient goes to the first of equals.

    Args:
        x: (N, H, W, C).
        kernel_size: Of the window; one number, or (height, width), here and below.
        stride: Step of the window, by default its size.
        padding: Border of -inf around the image, at most half the window.

    Raises:
        ShapeError: ``x`` has another rank, or the window exceeds the padded image.
        ArgumentError: A size, step or padding that there cannot be.

    Example:
        >>> qn.ops.max_pool2d(qn.ones((1, 28, 28, 3)), 2).shape
        (1, 14, 14, 3)
    """
    a = as_tensor(x)
    kernel, steps, pad, _ = _geometry("max_pool2d", spec_of(a), kernel_size, stride, padding)
    y, index = _core.max_pool2d(a._t, kernel, steps, pad)
    shape = a._t.shape

    def backward(g: Tensor, index: Tensor) -> tuple[Tensor]:
        return (Tensor(_core.max_pool2d_grad(g._t, index._t, shape, kernel, steps, pad)),)

    return attach(y, (a,), backward, (index,))


def _avg_rule(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    count_include_pad: bool = True,  # noqa: ARG001
) -> Spec:
    return _geometry("avg_pool2d", spec_of(x), kernel_size, stride, padding)[3]


@op(shape=_avg_rule)
def avg_pool2d(
    x: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """Returns the mean of each window.

    Args:
        x: (N, H, W, C).
        kernel_size: Of the window; one number, or (height, width), here and below.
        stride: Step of the window, by default its size.
        padding: Border of zeros around the image, at most half the window.
        count_include_pad: Whether the zeros of the border count in the mean.

    Raises:
        ShapeError: ``x`` has another rank, or the window exceeds the padded image.
        ArgumentError: A size, step or padding that there cannot be.
    """
    a = as_tensor(x)
    kernel, steps, pad, _ = _geometry("avg_pool2d", spec_of(a), kernel_size, stride, padding)
    y = _core.avg_pool2d(a._t, kernel, steps, pad, count_include_pad)
    shape = a._t.shape

    def backward(g: Tensor) -> tuple[Tensor]:
        return (Tensor(_core.avg_pool2d_grad(g._t, shape, kernel, steps, pad, count_include_pad)),)

    return attach(y, (a,), backward)


def _global_rule(x: Any) -> Spec:
    spec = spec_of(x)
    check_rank("global_avg_pool2d", "x", spec.shape, 4, "(N, H, W, C)")
    check_floating("global_avg_pool2d", "x", spec.dtype)
    return Spec((spec.shape[0], spec.shape[3]), spec.dtype)


@op(shape=_global_rule)
def global_avg_pool2d(x: TensorLike) -> Tensor:
    """Returns the mean over height and width: (N, H, W, C) -> (N, C).

    Raises:
        ShapeError: ``x`` has another rank.
    """
    a = as_tensor(x)
    _global_rule(a)
    n, h, w, channels = shape = a._t.shape

    def backward(g: Tensor) -> tuple[Tensor]:
        share = _core.div(g._t, float(h * w)).reshape((n, 1, 1, channels))
        return (Tensor(_core.broadcast_to(share, shape)),)

    return attach(_core.mean(a._t, [1, 2]), (a,), backward)


def adaptive_avg_pool2d(x: TensorLike, output_size: Size) -> Tensor:
    """PyTorch's name for `global_avg_pool2d`, keeping the dimensions: (N, H, W, C) -> (N, 1, 1, C).

    Raises:
        UnsupportedError: Any ``output_size`` but 1.
    """
    if pair("adaptive_avg_pool2d", "output_size", output_size, 1) != (1, 1):
        raise UnsupportedError(
            f"[adaptive_avg_pool2d] only output_size=1 is supported, got {output_size}; use avg_pool2d"
        )
    pooled = global_avg_pool2d(x)
    return (
        reshape(pooled, (-1, 1, 1, pooled.shape[-1]))
        if pooled.shape[0]
        else reshape(pooled, (0, 1, 1, pooled.shape[-1]))
    )
