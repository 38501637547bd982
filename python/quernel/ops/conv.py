"""Convolution of images (N, H, W, C) with weights (O, KH, KW, I / groups)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from quernel import _core
from quernel.autograd import Gradients, needs_grad, put_on_tape
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.activation import activation_gradient, check_activation, needs_input, saved_for
from quernel.ops.create import as_tensor
from quernel.ops.op import Spec, op
from quernel.ops.shapes import check_addends, check_floating, check_rank, check_same_dtype, pair, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Pair = tuple[int, int]
Padding = int | Sequence[int] | str


class _Geometry(NamedTuple):
    stride: Pair
    padding: Pair
    extra: Pair  # rows below and columns to the right that "same" needs beyond the symmetric padding
    dilation: Pair
    out: tuple[int, ...]


def _padding(padding: Padding, kernel: Pair, stride: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    if not isinstance(padding, str):
        return pair("conv2d", "padding", padding, 0), (0, 0)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        raise ArgumentError(f"[conv2d] padding must be a size, 'same' or 'valid', got {padding!r}")
    if stride != (1, 1):
        raise ArgumentError(
            f"[conv2d] padding='same' needs stride 1, got {stride}; give the padding as numbers"
        )
    (kh, kw), (dh, dw) = kernel, dilation
    total_h, total_w = (kh - 1) * dh, (kw - 1) * dw
    return (total_h // 2, total_w // 2), (total_h % 2, total_w % 2)


def _geometry(x: Spec, weight: Spec, stride: Any, padding: Padding, dilation: Any, groups: int) -> _Geometry:
    check_rank("conv2d", "x", x.shape, 4, "(N, H, W, C)")
    check_rank("conv2d", "weight", weight.shape, 4, "(O, KH, KW, I / groups)")
    check_floating("conv2d", "x", x.dtype)
    check_same_dtype("conv2d", "x", x.dtype, "weight", weight.dtype)
    n, h, w, channels = x.shape
    outputs, kh, kw, inputs = weight.shape
    if groups < 1 or outputs % groups:
        raise ArgumentError(f"[conv2d] groups must divide the {outputs} output channels, got {groups}")
    if inputs * groups != channels:
        raise ShapeError(
            f"[conv2d] weight expects {inputs * groups} input channels, x has {channels} (x: {x.shape}, NHWC"
            + (f"; groups: {groups})" if groups != 1 else ")")
        )
    if kh < 1 or kw < 1:
        raise ShapeError(f"[conv2d] the kernel must be at least 1 x 1, got weight {weight.shape}")
    stride, dilation = pair("conv2d", "stride", stride, 1), pair("conv2d", "dilation", dilation, 1)
    (ph, pw), extra = _padding(padding, (kh, kw), stride, dilation)
    span_h, span_w = (kh - 1) * dilation[0] + 1, (kw - 1) * dilation[1] + 1
    room_h, room_w = h + 2 * ph + extra[0], w + 2 * pw + extra[1]
    if room_h < span_h or room_w < span_w:
        raise ShapeError(
            f"[conv2d] the kernel spans {span_h} x {span_w}, the padded image is only {room_h} x {room_w} (x: {x.shape}, "
            "NHWC); pad more or use a smaller kernel"
        )
    out = (n, (room_h - span_h) // stride[0] + 1, (room_w - span_w) // stride[1] + 1, outputs)
    return _Geometry(stride, (ph, pw), extra, dilation, out)


def _conv2d_rule(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Padding = 0,
    dilation: Any = 1,
    groups: int = 1,
    activation: str | None = None,
    residual: Any = None,
) -> Spec:
    check_activation("conv2d", activation)
    a = spec_of(x)
    shape = _geometry(a, spec_of(weight), stride, padding, dilation, groups).out
    check_addends("conv2d", a.dtype, shape, bias, residual)
    return Spec(shape, a.dtype)


@op(shape=_conv2d_rule)
def conv2d(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    activation: str | None = None,
    residual: TensorLike | None = None,
) -> Tensor:
    """Returns ``activation(x * weight + bias + residual)``, where ``*`` is cross-correlation over the image.

    ``y[n, i, j, o] = sum over u, v, c of x[n, i * stride + u * dilation - padding, …, c] * weight[o, u, v, c]``, with the
    channels of input and output split into ``groups`` that see only each other.

    Args:
        x: (N, H, W, C).
        weight: (O, KH, KW, C / groups).
        bias: (O,).
        stride: Step of the window; one number, or (height, width), here and below.
        padding: Zeros around the image; "same" keeps its size (stride 1 only), "valid" means none.
        dilation: Distance between the pixels that meet neighbouring weights.
        groups: Must divide C and O; ``groups=C`` is a depthwise convolution.
        activation: "relu", "relu6", "hardswish", "gelu", "silu", "tanh", "sigmoid" or None.
        residual: Of the output's shape, (N, OH, OW, O).

    Raises:
        ShapeError: Ranks, channel counts or sizes do not fit.
        ArgumentError: A stride, padding, dilation, group count or activation that there cannot be.
        DTypeError: The dtypes differ, or are not floating.

    Example:
        >>> qn.ops.conv2d(qn.ones((1, 28, 28, 3)), qn.ones((8, 3, 3, 3)), stride=2, padding=1).shape
        (1, 14, 14, 8)
    """
    check_activation("conv2d", activation)
    a, w = as_tensor(x), as_tensor(weight)
    b = None if bias is None else as_tensor(bias)
    r = None if residual is None else as_tensor(residual)
    stride, padding, extra, dilation, shape = _geometry(
        spec_of(a), spec_of(w), stride, padding, dilation, groups
    )
    check_addends("conv2d", a.dtype, shape, b, r)
    image = a._t
    if extra != (0, 0):
        image = _core.pad(image, [(0, 0), (0, extra[0]), (0, extra[1]), (0, 0)], 0.0)
    taped = needs_grad(a, w, b, r)
    y, pre = _core.conv2d(
        image,
        w._t,
        None if b is None else b._t,
        None if r is None else r._t,
        activation or "none",
        taped and needs_input(activation),
        stride,
        padding,
        dilation,
        groups,
    )
    if not taped:
        return Tensor(y)
    want_a, want_w, want_b, want_r = (t is not None and bool(t._requires_grad) for t in (a, w, b, r))
    x_shape, image_shape, w_shape = a._t.shape, image.shape, w._t.shape

    def backward(g: Tensor, image: Tensor | None, w: Tensor | None, z: Tensor | None) -> Gradients:
        gz = activation_gradient(activation, z, g._t)
        gx = gw = None
        if w is not None:
            gx = _core.conv2d_grad_input(gz, w._t, image_shape, stride, padding, dilation, groups)
            if extra != (0, 0):
                gx = _core.slice(gx, [0] * 4, [1] * 4, x_shape)
        if image is not None:
            gw = _core.conv2d_grad_weight(image._t, gz, w_shape, stride, padding, dilation, groups)
        return (
            None if gx is None else Tensor(gx),
            None if gw is None else Tensor(gw),
            Tensor(_core.sum(gz, [0, 1, 2])) if want_b else None,
            Tensor(gz) if want_r else None,
        )

    saved = (image if want_w else None, w._t if want_a else None, saved_for(activation, y, pre))
    return put_on_tape(y, (a, w, b, r), backward, saved)
