"""Convolution of images (N, H, W, C) with weights (O, KH, KW, I / groups), of sequences (N, T, C) with weights
(O, K, I / groups), and the transposed convolutions, with the same weights read the other way.

A sequence is an image of height 1: it shares the kernels, and nothing is copied for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quernel import _core
from quernel.autograd import Gradients, needs_grad, put_on_tape
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.activation import activation_gradient, check_activation, needs_input, saved_for
from quernel.ops.create import as_tensor
from quernel.ops.op import Spec, op
from quernel.ops.shapes import (
    check_addends,
    check_floating,
    check_precision,
    check_rank,
    check_same_dtype,
    pair,
    spec_of,
)
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Size = int | Sequence[int]
Padding = int | Sequence[int] | str
Sizes = tuple[int, ...]  # one per spatial axis
Pair = tuple[int, int]

_LAYOUT = {1: "(N, T, C)", 2: "(N, H, W, C)"}
_WHAT = {1: "sequence", 2: "image"}


class ConvGeometry(NamedTuple):
    """What the kernels take for height and width, and the shape of the result."""

    stride: Pair
    before: Pair
    after: Pair
    dilation: Pair
    groups: int
    out: tuple[int, ...]

    @property
    def native(self) -> tuple[Pair, Pair, Pair, int, Pair]:
        """In the order of the kernels' arguments."""
        return self.stride, self.before, self.dilation, self.groups, self.after


def _sizes(op: str, name: str, value: Any, least: int, rank: int) -> Sizes:
    if rank == 2:
        return pair(op, name, value, least)
    items: list[Any] = list(value) if isinstance(value, Sequence | np.ndarray) else [value]
    if len(items) != 1 or not isinstance(items[0], int | np.integer):
        raise ArgumentError(f"[{op}] {name} must be one whole number, got {value!r}")
    return pair(op, name, int(items[0]), least)[:1]


def _lifted(sizes: Sizes, fill: int) -> Pair:
    return (fill, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def padding_around(
    op: str, padding: Padding, image: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes
) -> tuple[Sizes, Sizes]:
    """The zeros before and behind an image that a convolution's ``padding`` stands for, per spatial axis."""
    rank = len(image)
    if not isinstance(padding, str):
        sizes = _sizes(op, "padding", padding, 0, rank)
        return sizes, sizes
    if padding == "valid":
        return (0,) * rank, (0,) * rank
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if padding == "causal" and rank == 1:
        return (spans[0] - 1,), (0,)
    if padding != "same":
        names = "'same' or 'valid'" if rank == 2 else "'same', 'valid' or 'causal'"
        raise ArgumentError(f"[{op}] padding must be a size, {names}, got {padding!r}")
    totals = [
        max((-(-size // step) - 1) * step + span - size, 0)
        for size, span, step in zip(image, spans, stride, strict=True)
    ]
    return tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)


def _check_operands(op: str, x: Spec, weight: Spec, rank: int, layout: str) -> None:
    check_rank(op, "x", x.shape, rank + 2, _LAYOUT[rank])
    check_rank(op, "weight", weight.shape, rank + 2, layout)
    check_floating(op, "x", x.dtype)
    check_same_dtype(op, "x", x.dtype, "weight", weight.dtype)
    if min(weight.shape[1:-1]) < 1:
        raise ShapeError(
            f"[{op}] the kernel must be at least {' x '.join('1' * rank)}, got weight {weight.shape}"
        )


def conv_geometry(
    op: str, x: Spec, weight: Spec, stride: Size, padding: Padding, dilation: Size, groups: int, rank: int
) -> ConvGeometry:
    """Checks the operands of a convolution and works its geometry out."""
    _check_operands(op, x, weight, rank, f"(O, {'K' if rank == 1 else 'KH, KW'}, I / groups)")
    outputs, *kernel, inputs = weight.shape
    if groups < 1 or outputs % groups:
        raise ArgumentError(f"[{op}] groups must divide the {outputs} output channels, got {groups}")
    if inputs * groups != x.shape[-1]:
        layout = ", NHWC" if rank == 2 else ", NTC"
        raise ShapeError(
            f"[{op}] weight expects {inputs * groups} input channels, x has {x.shape[-1]} (x: {x.shape}{layout}"
            + (f"; groups: {groups})" if groups != 1 else ")")
        )
    steps, spread = _sizes(op, "stride", stride, 1, rank), _sizes(op, "dilation", dilation, 1, rank)
    image = x.shape[1:-1]
    before, after = padding_around(op, padding, image, tuple(kernel), steps, spread)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
    room = [n + lo + hi for n, lo, hi in zip(image, before, after, strict=True)]
    if any(r < s for r, s in zip(room, spans, strict=True)):
        have, want = (" x ".join(map(str, sizes)) for sizes in (room, spans))
        raise ShapeError(
            f"[{op}] the kernel spans {want}, the padded {_WHAT[rank]} is only {have} (x: {x.shape}, "
            f"{'NHWC' if rank == 2 else 'NTC'}); pad more or use a smaller kernel"
        )
    sizes = [(r - s) // step + 1 for r, s, step in zip(room, spans, steps, strict=True)]
    return ConvGeometry(
        _lifted(steps, 1), _lifted(before, 0), _lifted(after, 0), _lifted(spread, 1), groups,
        (x.shape[0], *sizes, outputs),
    )  # fmt: skip


def transposed_geometry(
    op: str, x: Spec, weight: Spec, stride: Size, padding: Size, extra: Size, dilation: Size, groups: int, rank: int
) -> ConvGeometry:  # fmt: skip
    """The geometry of the convolution of which a transposed one is the adjoint; `out` is the shape of its result."""
    _check_operands(op, x, weight, rank, f"(I, {'K' if rank == 1 else 'KH, KW'}, O / groups)")
    inputs, *kernel, outputs = weight.shape
    if groups < 1 or inputs % groups:
        raise ArgumentError(f"[{op}] groups must divide the {inputs} input channels, got {groups}")
    if inputs != x.shape[-1]:
        raise ShapeError(
            f"[{op}] weight expects {inputs} input channels, x has {x.shape[-1]} (x: {x.shape}, weight: {weight.shape})"
        )
    steps, spread = _sizes(op, "stride", stride, 1, rank), _sizes(op, "dilation", dilation, 1, rank)
    before = _sizes(op, "padding", padding, 0, rank)
    behind = _sizes(op, "output_padding", extra, 0, rank)
    if any(e >= max(s, d) for e, s, d in zip(behind, steps, spread, strict=True)):
        raise ArgumentError(
            f"[{op}] output_padding must be smaller than the stride or the dilation, got {extra!r} "
            f"(stride {stride!r}, dilation {dilation!r})"
        )
    image = x.shape[1:-1]
    sizes = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(image, steps, before, spread, kernel, behind, strict=True)
    ]
    if min(*sizes, *image) < 1:
        raise ShapeError(
            f"[{op}] the result would be {' x '.join(map(str, sizes))} (x: {x.shape}, weight: {weight.shape}, "
            f"padding {padding!r}); pad less"
        )
    after = tuple(p - e for p, e in zip(before, behind, strict=True))
    return ConvGeometry(
        _lifted(steps, 1), _lifted(before, 0), _lifted(after, 0), _lifted(spread, 1), groups,
        (x.shape[0], *sizes, outputs * groups),
    )  # fmt: skip


def _image(t: _core.Tensor) -> _core.Tensor:
    """A sequence, or its weights, as an image of height 1; images as they are."""
    shape = t.shape
    return t if len(shape) == 4 else t.reshape((shape[0], 1, *shape[1:]))


def convolve(
    geometry: ConvGeometry,
    activation: str | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    precision: str | None,
    transposed: bool = False,
) -> Tensor:
    """Runs a convolution, or a transposed one, and puts it on the tape."""
    native = *geometry.native, precision == "bf16"
    taped = needs_grad(x, weight, bias, residual)
    out = geometry.out if len(geometry.out) == 4 else (geometry.out[0], 1, *geometry.out[1:])
    image, kernel = _image(x._t), _image(weight._t)
    b = None if bias is None else bias._t
    r = None if residual is None else _image(residual._t)
    act, save = activation or "none", taped and needs_input(activation)
    if transposed:
        y, pre = _core.conv_transpose2d(image, kernel, out, b, r, act, save, *native)
    else:
        y, pre = _core.conv2d(image, kernel, b, r, act, save, *native)
    result = y.reshape(geometry.out) if len(geometry.out) == 3 else y
    if not taped:
        return Tensor(result)
    want_x, want_w, want_b, want_r = (
        t is not None and bool(t._requires_grad) for t in (x, weight, bias, residual)
    )
    x_shape, w_shape = x._t.shape, weight._t.shape
    image_shape, kernel_shape = image.shape, kernel.shape

    def backward(g: Tensor, x: Tensor | None, w: Tensor | None, z: Tensor | None) -> Gradients:
        gz = activation_gradient(activation, z, _image(g._t))
        gx = gw = None
        if w is not None and transposed:
            gx = _core.conv2d(gz, _image(w._t), None, None, "none", False, *native)[0]
        elif w is not None:
            gx = _core.conv2d_grad_input(gz, _image(w._t), image_shape, *native)
        if x is not None:
            large, small = (gz, _image(x._t)) if transposed else (_image(x._t), gz)
            gw = _core.conv2d_grad_weight(large, small, kernel_shape, *native)
        return (
            None if gx is None else Tensor(gx.reshape(x_shape)),
            None if gw is None else Tensor(gw.reshape(w_shape)),
            Tensor(_core.sum(gz, [0, 1, 2])) if want_b else None,
            Tensor(gz.reshape(geometry.out)) if want_r else None,
        )

    saved = (x._t if want_w else None, weight._t if want_x else None, saved_for(activation, y, pre))
    return put_on_tape(result, (x, weight, bias, residual), backward, saved)


def optional_tensors(*operands: TensorLike | None) -> list[Tensor | None]:
    """Operands as tensors where they are given."""
    return [None if t is None else as_tensor(t) for t in operands]


def _rule(
    name: str,
    rank: int,
    /,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Padding = 0,
    dilation: Any = 1,
    groups: int = 1,
    activation: str | None = None,
    residual: Any = None,
    precision: str | None = None,
) -> Spec:
    check_activation(name, activation)
    a = spec_of(x)
    shape = conv_geometry(name, a, spec_of(weight), stride, padding, dilation, groups, rank).out
    check_addends(name, a.dtype, shape, bias, residual)
    check_precision(name, precision, a.dtype)
    return Spec(shape, a.dtype)


def _run(
    name: str,
    rank: int,
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None,
    stride: Size,
    padding: Padding,
    dilation: Size,
    groups: int,
    activation: str | None,
    residual: TensorLike | None,
    precision: str | None,
) -> Tensor:
    check_activation(name, activation)
    a, w = as_tensor(x), as_tensor(weight)
    b, r = optional_tensors(bias, residual)
    geometry = conv_geometry(name, spec_of(a), spec_of(w), stride, padding, dilation, groups, rank)
    check_addends(name, a.dtype, geometry.out, b, r)
    check_precision(name, precision, a.dtype)
    return convolve(geometry, activation, a, w, b, r, precision)


@op(shape=partial(_rule, "conv2d", 2))
def conv2d(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: str | None = None,
    residual: TensorLike | None = None,
    precision: str | None = None,
) -> Tensor:
    """Returns ``activation(x * weight + bias + residual)``, where ``*`` is cross-correlation over the image.

    ``y[n, i, j, o] = sum over u, v, c of x[n, i * stride + u * dilation - padding, …, c] * weight[o, u, v, c]``, with the
    channels of input and output split into ``groups`` that see only each other.

    In float32, 3 x 3 windows of stride 1 over at least 32 channels take Winograd's algorithm (Lavin and Gray, 2015) where it
    is faster. Results may then round up to about twice as much, and an infinity or NaN may reach results up to five pixels
    away.

    Args:
        x: (N, H, W, C).
        weight: (O, KH, KW, C / groups).
        bias: (O,).
        stride: Step of the window; one number, or (height, width), here and below.
        padding: Zeros around the image; "valid" means none, "same" as many as give ceil(H / stride) rows and
            ceil(W / stride) columns, an odd one below or to the right. At stride 1 that is PyTorch's "same", which has
            no other, and always Keras'.
        dilation: Distance between the pixels that meet neighbouring weights.
        groups: Must divide C and O; ``groups=C`` is a depthwise convolution.
        activation: "relu", "relu6", "hardswish", "gelu", "silu", "tanh", "sigmoid" or None.
        residual: Of the output's shape, (N, OH, OW, O).
        precision: "bf16" rounds the operands of the product, and of the two of its backward pass, to bfloat16; sums,
            results and gradients stay float32. Convolutions in groups are not concerned: they multiply in float32.

    Raises:
        ShapeError: Ranks, channel counts or sizes do not fit.
        ArgumentError: A stride, padding, dilation, group count, activation or precision that there cannot be.
        DTypeError: The dtypes differ, or are not floating, or not float32 with a `precision`.

    Example:
        >>> qn.ops.conv2d(qn.ones((1, 28, 28, 3)), qn.ones((8, 3, 3, 3)), stride=2, padding=1).shape
        (1, 14, 14, 8)
    """
    return _run(
        "conv2d", 2, x, weight, bias, stride, padding, dilation, groups, activation, residual, precision
    )


@op(shape=partial(_rule, "conv1d", 1))
def conv1d(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: str | None = None,
    residual: TensorLike | None = None,
    precision: str | None = None,
) -> Tensor:
    """`conv2d` over sequences.

    ``y[n, t, o] = sum over u, c of x[n, t * stride + u * dilation - padding, c] * weight[o, u, c]``

    Args:
        x: (N, T, C).
        weight: (O, K, C / groups).
        bias: (O,).
        stride: Step of the window.
        padding: Zeros at both ends; "valid" means none, "same" as many as give ceil(T / stride) steps, an odd one at the
            end, and "causal" dilation * (K - 1) at the start: then no result sees what comes after it.
        dilation: Distance between the steps that meet neighbouring weights.
        groups: Must divide C and O.
        activation: As for `conv2d`.
        residual: Of the output's shape, (N, OT, O).
        precision: As for `conv2d`.

    Raises:
        ShapeError: Ranks, channel counts or sizes do not fit.
        ArgumentError: A stride, padding, dilation, group count, activation or precision that there cannot be.
        DTypeError: The dtypes differ, or are not floating, or not float32 with a `precision`.

    Example:
        >>> x = qn.tensor([[[1.0], [2.0], [4.0]]])
        >>> qn.ops.conv1d(x, [[[-1.0], [1.0]]], padding="causal").tolist()
        [[[1.0], [1.0], [2.0]]]
    """
    return _run(
        "conv1d", 1, x, weight, bias, stride, padding, dilation, groups, activation, residual, precision
    )
