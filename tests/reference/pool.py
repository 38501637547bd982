"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.reference.common import Array, Pair, wide
from tests.reference.conv import _pad, _tap, conv_out


def _windows(x: Array, kernel_size: Pair, stride: Pair, padding: Pair, value: float) -> Array:
    """(KH * KW, N, OH, OW, C): the taps of every window, `value` outside the image."""
    oh, ow = (conv_out(x.shape[1 + d], kernel_size[d], stride[d], padding[d]) for d in (0, 1))
    padded = _pad(x, padding, value)
    taps = [
        padded[_tap(oh, ow, i, j, stride, (1, 1))]
        for i in range(kernel_size[0])
        for j in range(kernel_size[1])
    ]
    return np.stack(taps)


def max_pool2d(x: Array, kernel_size: Pair, stride: Pair, padding: Pair = (0, 0)) -> tuple[Array, Array]:
    """Maximum and the number of the tap (row-major in the window) it came from: the first one; NaN wins."""
    x = np.asarray(x)
    inside = _windows(np.ones(x.shape, bool), kernel_size, stride, padding, False)
    lowest = -math.inf if x.dtype.kind == "f" else np.iinfo(np.int64).min
    taps = np.where(inside, _windows(wide(x), kernel_size, stride, padding, 0), lowest)
    # argmax returns the first maximum and the first NaN; a tap outside must not win over an inside -inf.
    rank = np.where(np.isnan(taps), math.inf, taps)
    best = np.isnan(taps) if np.isnan(taps).any() else np.zeros(taps.shape, bool)
    index = np.where(best.any(0), best.argmax(0), np.argmax((rank == rank.max(0)) & inside, 0)).astype(
        np.int32
    )
    return np.take_along_axis(taps, index[None], 0)[0].astype(x.dtype), index


def _scatter(taps: Array, x_shape: Sequence[int], kernel_size: Pair, stride: Pair, padding: Pair) -> Array:
    """The transpose of `_windows`: adds every tap to where it was read."""
    n, h, w, c = x_shape
    (ph, pw) = padding
    dx = np.zeros((n, h + 2 * ph, w + 2 * pw, c), taps.dtype)
    oh, ow = taps.shape[2:4]
    for t in range(taps.shape[0]):
        dx[_tap(oh, ow, t // kernel_size[1], t % kernel_size[1], stride, (1, 1))] += taps[t]
    return np.ascontiguousarray(dx[:, ph : ph + h, pw : pw + w])


def max_pool2d_grad(
    g: Array, index: Array, x_shape: Sequence[int], kernel_size: Pair, stride: Pair, padding: Pair = (0, 0)
) -> Array:
    taps = np.arange(kernel_size[0] * kernel_size[1])[:, None, None, None, None]
    return _scatter(np.where(index[None] == taps, wide(g)[None], 0), x_shape, kernel_size, stride, padding)


def _pool_counts(
    x_shape: Sequence[int], kernel_size: Pair, stride: Pair, padding: Pair, count_include_pad: bool
) -> Array:
    """(1, OH, OW, 1): by what an average divides."""
    inside = _windows(
        np.ones((1, *x_shape[1:3], 1), np.int64), kernel_size, stride, padding, int(count_include_pad)
    )
    return inside.sum(0)


def avg_pool2d(
    x: Array, kernel_size: Pair, stride: Pair, padding: Pair = (0, 0), count_include_pad: bool = True
) -> Array:
    total = _windows(wide(x), kernel_size, stride, padding, 0).sum(0)
    return total / _pool_counts(x.shape, kernel_size, stride, padding, count_include_pad)


def avg_pool2d_grad(
    g: Array, x_shape: Sequence[int], kernel_size: Pair, stride: Pair, padding: Pair = (0, 0),
    count_include_pad: bool = True,
) -> Array:  # fmt: skip
    each = wide(g) / _pool_counts(x_shape, kernel_size, stride, padding, count_include_pad)
    return _scatter(
        np.repeat(each[None], kernel_size[0] * kernel_size[1], 0), x_shape, kernel_size, stride, padding
    )
