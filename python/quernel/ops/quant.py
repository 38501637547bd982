"""int8 ops, for inference.

Activations are uint8 with a scale and a zero point, ``real = scale · (q - zero_point)``; weights are int8, symmetric, with
one scale per output channel. An int8 product is exact in int32, and its result is requantized in float32:

    q = rint_even(clamp(float(acc + bias) · scale, lo - zero_point, hi - zero_point)) + zero_point

with ``scale = s_x · s_w / s_y`` and the zero point of x folded into the bias, ``bias - zp_x · sum(weight)``. So every
instruction set gives the same bytes. ``lo`` = zero_point makes a relu. `quernel.quant` chooses all these numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quernel import _core
from quernel.errors import ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.op import Spec, op
from quernel.tensor import Tensor

Pair = Sequence[int]


def _same_rule(x: Tensor, **_: object) -> Spec:
    return Spec(x.shape, "uint8")


def _float_rule(q: Tensor, **_: object) -> Spec:
    return Spec(q.shape, "float32")


def _window(name: str, size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if span < 0:
        raise ShapeError(
            f"[{name}] a window of {dilation * (kernel - 1) + 1} exceeds the padded size {size + 2 * padding}"
        )
    return span // stride + 1


def _images(name: str, x: Tensor) -> tuple[int, ...]:
    if x.ndim != 4:
        raise ShapeError(f"[{name}] x must be (N, H, W, C), got {x.shape}")
    return x.shape


@op(shape=_same_rule)
def quantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """q = clamp(rint_even(x / scale) + zero_point, 0, 255).

    Args:
        x: float32, any shape.
        scale: Step between neighbouring values of q.
        zero_point: The q that stands for 0, in 0..255.

    Returns:
        uint8, of x's shape.
    """
    return Tensor(_core.quantize(as_tensor(x)._t, scale, zero_point))


@op(shape=_float_rule)
def dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    """scale · (q - zero_point), the float32 that uint8 q stands for."""
    return Tensor(_core.dequantize(as_tensor(q)._t, scale, zero_point))


def _qlinear_shape(x: Tensor, weight: Tensor, *, out_float: bool, **_: object) -> Spec:
    if x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"[qlinear] weight expects {weight.shape[1]} inputs, x is {x.shape}")
    return Spec((*x.shape[:-1], weight.shape[0]), "float32" if out_float else "uint8")


@op(shape=_qlinear_shape)
def qlinear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    zero_point: int = 0,
    lo: int = 0,
    hi: int = 255,
    out_float: bool = False,
) -> Tensor:
    """y = requantize(x · weightᵀ + bias), see the module.

    Args:
        x: uint8 (..., I).
        weight: int8 (O, I).
        bias: int32 (O), the zero point of x folded in.
        scale: float32 (O).
        zero_point: Of y.
        lo: Least value of y.
        hi: Largest value of y.
        out_float: Return float32 ``float(acc + bias) · scale`` instead.

    Returns:
        uint8 or float32 (..., O).
    """
    return Tensor(_core.qlinear(as_tensor(x)._t, weight._t, bias._t, scale._t, zero_point, lo, hi, out_float))


def _qconv2d_shape(
    x: Tensor,
    weight: Tensor,
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    out_float: bool,
    **_: object,
) -> Spec:
    n, h, w, c = _images("qconv2d", x)
    o, kh, kw, i = weight.shape
    if c != i * groups:
        raise ShapeError(
            f"[qconv2d] weight expects {i * groups} input channels, x has {c} (x: {x.shape}, NHWC)"
        )
    oh = _window("qconv2d", h, kh, stride[0], padding[0], dilation[0])
    ow = _window("qconv2d", w, kw, stride[1], padding[1], dilation[1])
    return Spec((n, oh, ow, o), "float32" if out_float else "uint8")


@op(shape=_qconv2d_shape)
def qconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    zero_point: int = 0,
    lo: int = 0,
    hi: int = 255,
    x_zero_point: int = 0,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    out_float: bool = False,
) -> Tensor:
    """y = requantize(conv(x, weight) + bias), see the module; borders are padded with x_zero_point.

    Args:
        x: uint8 (N, H, W, I).
        weight: int8 (O, KH, KW, I/groups).
        bias: int32 (O), the zero point of x folded in.
        scale: float32 (O).
        zero_point: Of y.
        lo: Least value of y.
        hi: Largest value of y.
        x_zero_point: Of x.
        stride: Steps of the window, vertical and horizontal.
        padding: Cells added on each side.
        dilation: Distance of the window's taps.
        groups: Channel groups that do not see each other.
        out_float: Return float32 ``float(acc + bias) · scale`` instead.

    Returns:
        uint8 or float32 (N, OH, OW, O).
    """
    requantize = (bias._t, scale._t, zero_point, lo, hi, x_zero_point)
    geometry = (tuple(stride), tuple(padding), tuple(dilation), groups)
    return Tensor(_core.qconv2d(as_tensor(x)._t, weight._t, *requantize, *geometry, out_float))


def _qadd_shape(a: Tensor, b: Tensor, **_: object) -> Spec:
    if a.shape != b.shape:
        raise ShapeError(f"[qadd] shapes differ: {a.shape} and {b.shape}")
    return Spec(a.shape, "uint8")


@op(shape=_qadd_shape)
def qadd(
    a: Tensor,
    a_scale: float,
    a_zero_point: int,
    b: Tensor,
    b_scale: float,
    b_zero_point: int,
    scale: float,
    zero_point: int,
    lo: int = 0,
    hi: int = 255,
) -> Tensor:
    """The sum of two uint8 tensors of one shape, each with its own scale, in the scale of the result."""
    a_args = (as_tensor(a)._t, a_scale, a_zero_point)
    return Tensor(_core.qadd(*a_args, as_tensor(b)._t, b_scale, b_zero_point, scale, zero_point, lo, hi))


@op(shape=_same_rule)
def qlookup(x: Tensor, table: Tensor) -> Tensor:
    """y = table[x]: any function of one uint8, or another scale.

    Args:
        x: uint8, any shape.
        table: uint8 (256).
    """
    return Tensor(_core.qlookup(as_tensor(x)._t, table._t))


def _pool_rule(name: str) -> Callable[..., Spec]:
    def rule(x: Tensor, kernel_size: Pair, stride: Pair, padding: Pair, **_: object) -> Spec:
        n, h, w, c = _images(name, x)
        oh = _window(name, h, kernel_size[0], stride[0], padding[0])
        ow = _window(name, w, kernel_size[1], stride[1], padding[1])
        return Spec((n, oh, ow, c), "uint8")

    return rule


@op(shape=_pool_rule("qmax_pool2d"))
def qmax_pool2d(x: Tensor, kernel_size: Pair, stride: Pair, padding: Pair = (0, 0)) -> Tensor:
    """`max_pool2d` on uint8 (N, H, W, C); the scale stays."""
    return Tensor(_core.qmax_pool2d(as_tensor(x)._t, tuple(kernel_size), tuple(stride), tuple(padding)))


@op(shape=_pool_rule("qavg_pool2d"))
def qavg_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    zero_point: int = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """`avg_pool2d` on uint8 (N, H, W, C), rounded half to even; the scale stays. Padding counts as zero_point."""
    window = (tuple(kernel_size), tuple(stride), tuple(padding))
    return Tensor(_core.qavg_pool2d(as_tensor(x)._t, *window, zero_point, count_include_pad))


def _qmean_shape(x: Tensor) -> Spec:
    n, _, _, c = _images("qmean_hw", x)
    return Spec((n, c), "uint8")


@op(shape=_qmean_shape)
def qmean_hw(x: Tensor) -> Tensor:
    """The mean over height and width of uint8 (N, H, W, C), rounded half to even: (N, C); the scale stays."""
    return Tensor(_core.qmean_hw(as_tensor(x)._t))
