"""Transposed convolutions: the adjoints of `conv2d` and `conv1d`, which spread each pixel over a window.

The weight is the one of the convolution of which this is the adjoint, that is PyTorch's with its channels last: from
(I, O / groups, KH, KW) by ``permute(0, 2, 3, 1)``, as for `conv2d`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from quernel.ops.activation import check_activation
from quernel.ops.conv import Size, convolve, optional_tensors, transposed_geometry
from quernel.ops.create import as_tensor
from quernel.ops.op import Spec, op
from quernel.ops.shapes import check_addends, check_precision, spec_of

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike
    from quernel.tensor import Tensor


def _rule(
    name: str,
    rank: int,
    /,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    activation: str | None = None,
    residual: Any = None,
    precision: str | None = None,
) -> Spec:
    check_activation(name, activation)
    a, w = spec_of(x), spec_of(weight)
    shape = transposed_geometry(name, a, w, stride, padding, output_padding, dilation, groups, rank).out
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
    padding: Size,
    output_padding: Size,
    groups: int,
    dilation: Size,
    activation: str | None,
    residual: TensorLike | None,
    precision: str | None,
) -> Tensor:
    check_activation(name, activation)
    a, w = as_tensor(x), as_tensor(weight)
    b, r = optional_tensors(bias, residual)
    geometry = transposed_geometry(
        name, spec_of(a), spec_of(w), stride, padding, output_padding, dilation, groups, rank
    )
    check_addends(name, a.dtype, geometry.out, b, r)
    check_precision(name, precision, a.dtype)
    return convolve(geometry, activation, a, w, b, r, precision, transposed=True)


@op(shape=partial(_rule, "conv_transpose2d", 2))
def conv_transpose2d(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    activation: str | None = None,
    residual: TensorLike | None = None,
    precision: str | None = None,
) -> Tensor:
    """Returns ``activation(y + bias + residual)``, y being the adjoint of `conv2d` applied to x.

    ``y[n, i * stride + u * dilation - padding, …, o] += x[n, i, j, c] * weight[c, u, v, o]`` over all i, j, c, u, v. Its
    height is (H - 1) * stride - 2 * padding + dilation * (KH - 1) + output_padding + 1, its width likewise.

    Args:
        x: (N, H, W, I).
        weight: (I, KH, KW, O / groups).
        bias: (O,).
        stride: Pixels of the result from one pixel of x to the next; one number, or (height, width), here and below.
        padding: Pixels that are cut off on each side.
        output_padding: Pixels more below and to the right. `conv2d` makes one size of several, and this chooses among
            them; it must be smaller than the stride or the dilation.
        groups: Must divide I and O.
        dilation: Distance between the pixels that neighbouring weights go to.
        activation: As for `conv2d`.
        residual: Of the output's shape, (N, OH, OW, O).
        precision: As for `conv2d`.

    Raises:
        ShapeError: Ranks, channel counts or sizes do not fit.
        ArgumentError: A stride, padding, dilation, group count, activation or precision that there cannot be.
        DTypeError: The dtypes differ, or are not floating, or not float32 with a `precision`.

    Example:
        >>> qn.ops.conv_transpose2d(qn.ones((1, 7, 7, 8)), qn.ones((8, 4, 4, 3)), stride=2, padding=1).shape
        (1, 14, 14, 3)
    """
    return _run(
        "conv_transpose2d",
        2,
        x,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        activation,
        residual,
        precision,
    )


@op(shape=partial(_rule, "conv_transpose1d", 1))
def conv_transpose1d(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    activation: str | None = None,
    residual: TensorLike | None = None,
    precision: str | None = None,
) -> Tensor:
    """`conv_transpose2d` over sequences: x (N, T, I), weight (I, K, O / groups) -> (N, OT, O).

    Args:
        x: (N, T, I).
        weight: (I, K, O / groups).
        bias: (O,).
        stride: Steps of the result from one step of x to the next.
        padding: Steps that are cut off at both ends.
        output_padding: Steps more at the end; smaller than the stride or the dilation.
        groups: Must divide I and O.
        dilation: Distance between the steps that neighbouring weights go to.
        activation: As for `conv2d`.
        residual: Of the output's shape, (N, OT, O).
        precision: As for `conv2d`.

    Raises:
        ShapeError: Ranks, channel counts or sizes do not fit.
        ArgumentError: A stride, padding, dilation, group count, activation or precision that there cannot be.
        DTypeError: The dtypes differ, or are not floating, or not float32 with a `precision`.

    Example:
        >>> qn.ops.conv_transpose1d([[[1.0], [2.0]]], [[[1.0], [1.0]]], stride=2).tolist()
        [[[1.0], [1.0], [2.0], [2.0]]]
    """
    return _run(
        "conv_transpose1d",
        1,
        x,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        activation,
        residual,
        precision,
    )
