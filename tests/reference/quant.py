"""int8: exact, as the engine must be at every ISA level."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.reference.common import Array, Pair, wide
from tests.reference.conv import conv2d
from tests.reference.matmul import linear
from tests.reference.pool import _pool_counts, _windows, max_pool2d

f32 = np.float32


def quantize(x: Array, scale: float, zero_point: int) -> Array:
    """clip(rint_even(x / scale) + zp, 0, 255) in float32; NaN becomes the zero point."""
    with np.errstate(over="ignore"):
        q = np.rint(np.asarray(x, f32) / f32(scale)) + f32(zero_point)
    return np.where(np.isnan(q), f32(zero_point), np.clip(q, 0, 255)).astype(np.uint8)


def dequantize(q: Array, scale: float, zero_point: int) -> Array:
    return (wide(q) - zero_point).astype(f32) * f32(scale)


def requantize(acc: Array, scale: Array, zero_point: int, lo: int, hi: int, out_float: bool = False) -> Array:
    """rint_even(clamp(float(acc) * scale, lo - zp, hi - zp)) + zp in float32; acc wraps to int32, bias included."""
    scaled = wide(acc).astype(np.int32).astype(f32) * np.asarray(scale, f32)
    if out_float:
        return scaled
    clamped = np.minimum(np.maximum(scaled, f32(lo - zero_point)), f32(hi - zero_point))
    return (np.rint(clamped).astype(np.int64) + zero_point).astype(np.uint8)


def fold_zero_point(bias: Array, weight: Array, x_zero_point: int) -> Array:
    """The bias that absorbs the input's zero point: bias - zp * sum(weights of each output channel)."""
    return (wide(bias) - x_zero_point * wide(weight).reshape(weight.shape[0], -1).sum(1)).astype(np.int32)


def qlinear(
    x: Array,
    weight: Array,
    bias: Array,
    scale: Array,
    zero_point: int,
    lo: int,
    hi: int,
    out_float: bool = False,
) -> Array:
    return requantize(linear(x, weight, bias), scale, zero_point, lo, hi, out_float)


def qconv2d(
    x: Array, weight: Array, bias: Array, scale: Array, zero_point: int, lo: int, hi: int, x_zero_point: int,
    stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1), groups: int = 1, out_float: bool = False,
) -> Array:  # fmt: skip
    acc = conv2d(x, weight, bias, None, "none", stride, padding, dilation, groups, pad_value=x_zero_point)
    return requantize(acc, scale, zero_point, lo, hi, out_float)


def qadd(
    a: Array,
    a_scale: float,
    a_zp: int,
    b: Array,
    b_scale: float,
    b_zp: int,
    y_scale: float,
    y_zp: int,
    lo: int,
    hi: int,
) -> Array:
    total = dequantize(a, a_scale, a_zp) + dequantize(b, b_scale, b_zp)
    scaled = np.minimum(np.maximum(total / f32(y_scale), f32(lo - y_zp)), f32(hi - y_zp))
    return (np.rint(scaled).astype(np.int64) + y_zp).astype(np.uint8)


def qlookup(x: Array, table: Array) -> Array:
    return np.asarray(table)[np.asarray(x)]


def qmax_pool2d(x: Array, kernel_size: Pair, stride: Pair, padding: Pair = (0, 0)) -> Array:
    return max_pool2d(x, kernel_size, stride, padding)[0]


def _rounded_mean(total: Array, count: Any) -> Array:
    """total / count in integers, rounded half to even."""
    q, r = np.divmod(total, np.asarray(count, np.int64))
    return (q + ((2 * r > count) | ((2 * r == count) & (q % 2 == 1)))).astype(np.uint8)


def qavg_pool2d(
    x: Array, kernel_size: Pair, stride: Pair, padding: Pair, zero_point: int, count_include_pad: bool = True
) -> Array:
    """The mean of the windows, rounded half to even; padding counts as the zero point if it counts."""
    pad_value = zero_point if count_include_pad else 0
    total = _windows(wide(x), kernel_size, stride, padding, pad_value).sum(0)
    return _rounded_mean(total, _pool_counts(x.shape, kernel_size, stride, padding, count_include_pad))


def qmean_hw(x: Array) -> Array:
    """Global average pooling (N, H, W, C) -> (N, C)."""
    return _rounded_mean(wide(x).sum((1, 2)), x.shape[1] * x.shape[2])
