"""Pooling of images (N, H, W, C) and, as images of one column, of sequences (N, T, C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quernel import _core
from quernel.autograd import attach, needs_grad, put_on_tape
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.layout import squeeze, unsqueeze
from quernel.ops.op import Spec, op
from quernel.ops.shapes import check_floating, check_rank, pair, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Pair = tuple[int, int]
Size = int | Sequence[int]
OutputSize = int | None | Sequence[int | None]


class _Window(NamedTuple):
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool


def _geometry(
    op: str,
    x: Spec,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[_Window, Spec]:
    check_rank(op, "x", x.shape, 4, "(N, H, W, C)")
    check_floating(op, "x", x.dtype)
    kernel = pair(op, "kernel_size", kernel_size, 1)
    steps = kernel if stride is None else pair(op, "stride", stride, 1)
    pads, gaps = pair(op, "padding", padding, 0), pair(op, "dilation", dilation, 1)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, gaps, strict=True)]
    if any(2 * p > span for p, span in zip(pads, spans, strict=True)):
        raise ArgumentError(f"[{op}] padding must be at most half the kernel size {kernel}, got {pads}")
    out = []
    for n, span, step, p in zip(x.shape[1:3], spans, steps, pads, strict=True):
        room = n + 2 * p - span + (step - 1 if ceil_mode else 0)
        if room < 0:
            h, w = (n + 2 * p for n, p in zip(x.shape[1:3], pads, strict=True))
            over = f" (dilated {tuple(spans)})" if gaps != (1, 1) else ""
            raise ShapeError(
                f"[{op}] kernel_size {kernel}{over} exceeds the padded image {h} x {w} (x: {x.shape}, NHWC)"
            )
        count = room // step + 1
        out.append(count - 1 if ceil_mode and (count - 1) * step >= n + p else count)
    window = _Window(kernel, steps, pads, gaps, bool(ceil_mode))
    return window, Spec((x.shape[0], *out, x.shape[3]), x.dtype)


def _max_rule(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Spec:
    return _geometry("max_pool2d", spec_of(x), kernel_size, stride, padding, dilation, ceil_mode)[1]


@op(shape=_max_rule)
def max_pool2d(
    x: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Returns the largest element in each window; NaN if there is one. The gradient goes to the first of equals.

    Args:
        x: (N, H, W, C).
        kernel_size: Of the window; one number, or (height, width), here and below.
        stride: Step of the window, by default its size.
        padding: Border of -inf around the image, at most half the window.
        dilation: Distance between the elements of a window.
        ceil_mode: Whether there is a last window that begins inside the image (or its left border) and reaches over
            its end; otherwise what is left there is dropped.

    Raises:
        ShapeError: ``x`` has another rank, or the window exceeds the padded image.
        ArgumentError: A size, step or padding that there cannot be.

    Example:
        >>> qn.ops.max_pool2d(qn.ones((1, 28, 28, 3)), 2).shape
        (1, 14, 14, 3)
    """
    a = as_tensor(x)
    window, _ = _geometry("max_pool2d", spec_of(a), kernel_size, stride, padding, dilation, ceil_mode)
    taped = needs_grad(a)
    y, index = _core.max_pool2d(a._t, *window, taped)
    if not taped:
        return Tensor(y)
    shape = a._t.shape

    def backward(g: Tensor, index: Tensor) -> tuple[Tensor]:
        return (Tensor(_core.max_pool2d_grad(g._t, index._t, shape, *window)),)

    return put_on_tape(y, (a,), backward, (index,))


def _avg_rule(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,  # noqa: ARG001
) -> Spec:
    return _geometry("avg_pool2d", spec_of(x), kernel_size, stride, padding, ceil_mode=ceil_mode)[1]


@op(shape=_avg_rule)
def avg_pool2d(
    x: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Returns the mean of each window.

    Args:
        x: (N, H, W, C).
        kernel_size: Of the window; one number, or (height, width), here and below.
        stride: Step of the window, by default its size.
        padding: Border of zeros around the image, at most half the window.
        ceil_mode: As in `max_pool2d`. What such a window has beyond the border never counts.
        count_include_pad: Whether the zeros of the border count in the mean.

    Raises:
        ShapeError: ``x`` has another rank, or the window exceeds the padded image.
        ArgumentError: A size, step or padding that there cannot be.
    """
    a = as_tensor(x)
    window, _ = _geometry("avg_pool2d", spec_of(a), kernel_size, stride, padding, ceil_mode=ceil_mode)
    kernel, steps, pad, _, ceil = window
    y = _core.avg_pool2d(a._t, kernel, steps, pad, ceil, count_include_pad)
    shape = a._t.shape

    def backward(g: Tensor) -> tuple[Tensor]:
        return (Tensor(_core.avg_pool2d_grad(g._t, shape, kernel, steps, pad, ceil, count_include_pad)),)

    return attach(y, (a,), backward)


def _output_size(op: str, x: Spec, output_size: OutputSize) -> Pair:
    check_rank(op, "x", x.shape, 4, "(N, H, W, C)")
    check_floating(op, "x", x.dtype)
    sizes = list(output_size) if isinstance(output_size, Sequence) else [output_size] * 2
    if len(sizes) == 2:
        sizes = [have if n is None else n for n, have in zip(sizes, x.shape[1:3], strict=True)]
    if 0 in x.shape[1:3]:
        raise ShapeError(f"[{op}] an image without pixels cannot be pooled (x: {x.shape}, NHWC)")
    return pair(op, "output_size", sizes, 1)  # type: ignore[arg-type] # which pair() checks


def _adaptive_rule(op: str) -> Any:
    def rule(x: Any, output_size: OutputSize) -> Spec:
        spec = spec_of(x)
        return Spec((spec.shape[0], *_output_size(op, spec, output_size), spec.shape[3]), spec.dtype)

    return rule


@op(shape=_adaptive_rule("adaptive_avg_pool2d"))
def adaptive_avg_pool2d(x: TensorLike, output_size: OutputSize) -> Tensor:
    """Returns means over windows that are chosen so that the output has the given size.

    Window ``i`` of ``n`` covers ``floor(i * H / n)`` up to, not including, ``ceil((i + 1) * H / n)``, as in PyTorch.

    Args:
        x: (N, H, W, C).
        output_size: (height, width), or one number for both; None keeps a side.

    Raises:
        ShapeError: ``x`` has another rank or no pixels.
        ArgumentError: A size below 1.

    Example:
        >>> qn.ops.adaptive_avg_pool2d(qn.ones((1, 7, 9, 3)), (2, None)).shape
        (1, 2, 9, 3)
    """
    a = as_tensor(x)
    size = _output_size("adaptive_avg_pool2d", spec_of(a), output_size)
    shape = a._t.shape

    def backward(g: Tensor) -> tuple[Tensor]:
        return (Tensor(_core.adaptive_avg_pool2d_grad(g._t, shape)),)

    return attach(_core.adaptive_avg_pool2d(a._t, size), (a,), backward)


@op(shape=_adaptive_rule("adaptive_max_pool2d"))
def adaptive_max_pool2d(x: TensorLike, output_size: OutputSize) -> Tensor:
    """Returns the largest elements of the windows of `adaptive_avg_pool2d`; ties and NaN as in `max_pool2d`.

    Args:
        x: (N, H, W, C).
        output_size: (height, width), or one number for both; None keeps a side.

    Raises:
        ShapeError: ``x`` has another rank or no pixels.
        ArgumentError: A size below 1.
    """
    a = as_tensor(x)
    size = _output_size("adaptive_max_pool2d", spec_of(a), output_size)
    taped = needs_grad(a)
    y, index = _core.adaptive_max_pool2d(a._t, size, taped)
    if not taped:
        return Tensor(y)
    shape = a._t.shape

    def backward(g: Tensor, index: Tensor) -> tuple[Tensor]:
        return (Tensor(_core.adaptive_max_pool2d_grad(g._t, index._t, shape)),)

    return put_on_tape(y, (a,), backward, (index,))


def _global_rule(op: str) -> Any:
    def rule(x: Any) -> Spec:
        spec = spec_of(x)
        check_rank(op, "x", spec.shape, 4, "(N, H, W, C)")
        check_floating(op, "x", spec.dtype)
        return Spec((spec.shape[0], spec.shape[3]), spec.dtype)

    return rule


@op(shape=_global_rule("global_avg_pool2d"))
def global_avg_pool2d(x: TensorLike) -> Tensor:
    """Returns the mean over height and width: (N, H, W, C) -> (N, C).

    Raises:
        ShapeError: ``x`` has another rank.
    """
    a = as_tensor(x)
    _global_rule("global_avg_pool2d")(a)
    n, h, w, channels = shape = a._t.shape

    def backward(g: Tensor) -> tuple[Tensor]:
        share = _core.div(g._t, float(h * w)).reshape((n, 1, 1, channels))
        return (Tensor(_core.broadcast_to(share, shape)),)

    return attach(_core.mean(a._t, [1, 2]), (a,), backward)


@op(shape=_global_rule("global_max_pool2d"))
def global_max_pool2d(x: TensorLike) -> Tensor:
    """Returns the largest element over height and width: (N, H, W, C) -> (N, C); ties and NaN as in `max_pool2d`.

    Raises:
        ShapeError: ``x`` has another rank, or no pixels.
    """
    a = as_tensor(x)
    _global_rule("global_max_pool2d")(a)
    n, h, w, channels = shape = a._t.shape
    if not h * w:
        raise ShapeError(f"[global_max_pool2d] an image without pixels has no maximum (x: {shape}, NHWC)")
    taped = needs_grad(a)
    y, index = _core.adaptive_max_pool2d(a._t, (1, 1), taped)
    largest = y.reshape((n, channels))
    if not taped:
        return Tensor(largest)

    def backward(g: Tensor, index: Tensor) -> tuple[Tensor]:
        incoming = g._t.reshape((n, 1, 1, channels))
        return (Tensor(_core.adaptive_max_pool2d_grad(incoming, index._t, shape)),)

    return put_on_tape(largest, (a,), backward, (index,))


# Sequences are images of width 1: a window of k steps is one of k rows.


def _steps(op: str, name: str, value: int | Sequence[int]) -> int:
    values = list(value) if isinstance(value, Sequence) else [value]
    if len(values) != 1 or not isinstance(values[0], int | np.integer):
        raise ArgumentError(f"[{op}] {name} must be one whole number, got {value!r}")
    return int(values[0])


def _as_image(op: str, x: TensorLike) -> Tensor:
    a = as_tensor(x)
    check_rank(op, "x", a.shape, 3, "(N, T, C)")
    return unsqueeze(a, 2)


def max_pool1d(
    x: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`max_pool2d` of sequences (N, T, C), all sizes one number.

    Example:
        >>> qn.ops.max_pool1d(qn.tensor([[[1.0], [3.0], [2.0]]]), 2, stride=1).tolist()
        [[[3.0], [3.0]]]
    """
    k, p, d = (
        _steps("max_pool1d", name, v)
        for name, v in (("kernel_size", kernel_size), ("padding", padding), ("dilation", dilation))
    )
    s = k if stride is None else _steps("max_pool1d", "stride", stride)
    y = max_pool2d(_as_image("max_pool1d", x), (k, 1), (s, 1), (p, 0), (d, 1), ceil_mode)
    return squeeze(y, 2)


def avg_pool1d(
    x: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """`avg_pool2d` of sequences (N, T, C), all sizes one number."""
    k, p = (_steps("avg_pool1d", name, v) for name, v in (("kernel_size", kernel_size), ("padding", padding)))
    s = k if stride is None else _steps("avg_pool1d", "stride", stride)
    y = avg_pool2d(_as_image("avg_pool1d", x), (k, 1), (s, 1), (p, 0), ceil_mode, count_include_pad)
    return squeeze(y, 2)


def adaptive_avg_pool1d(x: TensorLike, output_size: int | Sequence[int]) -> Tensor:
    """`adaptive_avg_pool2d` of sequences: (N, T, C) -> (N, output_size, C)."""
    size = _steps("adaptive_avg_pool1d", "output_size", output_size)
    return squeeze(adaptive_avg_pool2d(_as_image("adaptive_avg_pool1d", x), (size, 1)), 2)


def adaptive_max_pool1d(x: TensorLike, output_size: int | Sequence[int]) -> Tensor:
    """`adaptive_max_pool2d` of sequences: (N, T, C) -> (N, output_size, C)."""
    size = _steps("adaptive_max_pool1d", "output_size", output_size)
    return squeeze(adaptive_max_pool2d(_as_image("adaptive_max_pool1d", x), (size, 1)), 2)
